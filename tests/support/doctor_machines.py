"""Made-up machines for the tests of `retinasdk doctor`: the answers to its questions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from retinasdk.doctor.diagnose import Diagnosis, Finding
from retinasdk.doctor.packages import PACKAGES
from retinasdk.doctor.probe import QUESTIONS, Answer

MISSING = Answer(is_missing=True, problem="not installed")
NO_DRIVER = Answer(is_missing=True, problem="no NVIDIA driver (libcuda.so.1 not found)")
ORIN = {"name": "Orin", "compute_capability": [8, 7], "integrated": True, "memory_bytes": 32 << 30}
THOR = {"name": "NVIDIA Thor", "compute_capability": [11, 0], "integrated": True, "memory_bytes": 128 << 30}
ADA = {"name": "NVIDIA L4", "compute_capability": [8, 9], "integrated": False, "memory_bytes": 24 << 30}
H100 = {"name": "NVIDIA H100", "compute_capability": [9, 0], "integrated": False, "memory_bytes": 80 << 30}


def driver(version: int = 13000, *, gpus: tuple[Any, ...] = (H100,), status: int = 0, problem: str = "") -> Answer:
    return Answer({"version": version, "gpus": list(gpus), "status": status, "problem": problem})


def kernels(runtime: int = 13000, count: int = 1, reason: str = "") -> Answer:
    return Answer({"file": "x.so", "runtime": runtime, "count": count, "reason": reason})


def tensorrt(version: str = "10.13.3", *, rtx: bool = False, **installed: str) -> Answer:
    name = "tensorrt_rtx" if rtx else "tensorrt"
    distributions = {key: {"version": version, "installer": value} for key, value in installed.items()}
    facts = {"package": name, "version": version, "product": name, "file": "x", "installed": distributions}
    return Answer(facts)


def auto(product: str | None, why: str) -> Answer:
    return Answer({"product": product, "why": why})


def package(version: str | None) -> Answer:
    return Answer({"version": version, "file": "x"})


def convolutions(**changes: Any) -> Answer:
    facts = {"isa": "avx2", "is_built": True, "processor": "x", "threads": 8, "is_measured": True}
    return Answer({**facts, **changes})


def answers(**changes: Answer) -> dict[str, Answer]:
    """Of a machine with everything; changes: other answers."""
    healthy = {
        "native": Answer({"file": "x.so", "simd": "avx2"}),
        "convolutions": convolutions(),
        "native_cuda": kernels(),
        "driver": driver(),
        "tensorrt": tensorrt(),
        "tensorrt_rtx": MISSING,
        "auto": auto("tensorrt", "NVIDIA H100 with TensorRT 10.13.3"),
        "cache": Answer({"folder": os.sep, "note": ""}),
        **{item.name: package(item.minimum) for item in PACKAGES},
    }
    assert set(healthy) == set(QUESTIONS)
    assert set(changes) <= set(healthy)
    merged = {**healthy, **changes}
    if "auto" not in changes and merged["tensorrt"].is_missing and not merged["tensorrt_rtx"].is_missing:
        merged["auto"] = auto("tensorrt_rtx", "a GPU with TensorRT for RTX")
    return merged


def finding(diagnosis: Diagnosis, name: str) -> Finding:
    (found,) = (item for item in diagnosis.findings if item.name == name)
    return found


def write_modules(folder: Path, modules: dict[str, str]) -> None:
    for name, content in modules.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def named(content: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (item for item in content["findings"] if item["name"] == name)
    return dict(found)
