"""`retinasdk doctor` on GPUs and their driver."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from doctor_machines import (
    H100,
    MISSING,
    NO_DRIVER,
    ORIN,
    auto,
    driver,
    finding,
    kernels,
    named,
)

from retinasdk.doctor.diagnose import Diagnosis
from retinasdk.doctor.probe import Answer, ask


def test_a_machine_with_everything(look: Callable[..., Diagnosis]) -> None:
    diagnosis = look()
    assert {item.state for item in diagnosis.findings} == {"ok"}
    assert diagnosis.conclusion == 'device="auto" will use NVIDIA H100 with TensorRT 10.13.3.'
    assert diagnosis.can_detect
    assert finding(diagnosis, "GPU").text == "NVIDIA H100, compute capability 9.0, 80.0 GiB"
    assert finding(diagnosis, "CUDA kernels").text == "built with CUDA 13.0"
    assert finding(diagnosis, "[gpu]").text == "complete: pycuda, TensorRT"
    assert [item.section for item in diagnosis.findings if item.section != "Jetson"] == [
        item.section for item in diagnosis.findings
    ]


@pytest.mark.parametrize(
    ("changes", "name", "state", "text", "advice"),
    [
        ({"driver": NO_DRIVER}, "driver", "missing", "no NVIDIA driver", "install NVIDIA's driver"),
        ({"driver": Answer(problem="libcuda.so.1: invalid ELF header")}, "driver", "broken", "invalid ELF", "driver"),
        (
            {"driver": driver(gpus=(), status=803, problem="CUDA_ERROR_SYSTEM_DRIVER_MISMATCH")},
            "driver",
            "broken",
            "supports CUDA up to 13.0, but fails: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
            "restart the machine",
        ),
        ({"driver": driver(gpus=(), status=100)}, "GPU", "missing", "the driver sees no GPU", ""),
        ({"native_cuda": MISSING}, "CUDA kernels", "missing", "built without CUDA", "nvcc"),
        ({"native_cuda": Answer(problem="undefined symbol: x")}, "CUDA kernels", "broken", "undefined symbol", "build"),
        ({"driver": driver(13020)}, "CUDA kernels", "ok", "built with CUDA 13.0", ""),
        ({"native_cuda": kernels(13020)}, "CUDA kernels", "ok", "built with CUDA 13.2", ""),  # within a major version
        (
            {"driver": driver(12060)},
            "CUDA kernels",
            "broken",
            "built with CUDA 13.0, but the driver only supports CUDA up to 12.6",
            "install a driver for CUDA 13 (580 or newer)",
        ),
        (
            {"native_cuda": kernels(count=0, reason="cudaErrorUnknown")},
            "CUDA kernels",
            "broken",
            "but they find no usable GPU: cudaErrorUnknown",
            "",
        ),
        ({"driver": NO_DRIVER, "native_cuda": kernels(count=0)}, "CUDA kernels", "ok", "no GPU to run them on", ""),
        ({"tensorrt": MISSING}, "TensorRT", "missing", "not installed", ""),
        ({"tensorrt": MISSING}, "[gpu]", "missing", "TensorRT not installed", "pip install 'retinasdk[gpu]'"),
        ({"pycuda": MISSING}, "pycuda", "missing", "not installed", ""),
        ({"pycuda": MISSING}, "[gpu]", "missing", "pycuda not installed", "pip install 'retinasdk[gpu]'"),
        (
            {"pycuda": Answer(problem="libcurand.so.10: cannot open")},
            "pycuda",
            "broken",
            "libcurand",
            "--force-reinstall",
        ),
        (
            {"pycuda": Answer(problem="libcuda.so.1: cannot open"), "driver": NO_DRIVER},
            "pycuda",
            "note",
            "cannot be loaded without the driver",
            "",
        ),
        ({"pycuda": Answer(problem="libcuda.so.1: cannot open")}, "pycuda", "broken", "libcuda.so.1", ""),
        ({"native": Answer(is_missing=True)}, "native core", "broken", "not built for this Python", "pip install"),
        ({"cache": Answer(problem="[Errno 30] Read-only")}, "engine cache", "broken", "Read-only", "RETINASDK_CACHE"),
        ({"cache": Answer({"folder": "/", "note": "caches go to /tmp"})}, "engine cache", "note", "caches go to", ""),
    ],
)
def test_findings(
    look: Callable[..., Diagnosis], changes: dict[str, Answer], name: str, state: str, text: str, advice: str
) -> None:
    diagnosis = look(**changes)
    found = finding(diagnosis, name)
    assert (found.state, diagnosis.is_broken) == (state, state == "broken")
    assert text in found.text
    assert advice in " ".join(found.advice)
    assert bool(found.advice) or not advice


def test_two_gpus_and_a_hidden_one(look: Callable[..., Diagnosis], monkeypatch: pytest.MonkeyPatch) -> None:
    diagnosis = look(driver=driver(gpus=(H100, ORIN)))
    assert finding(diagnosis, "GPU 1").text == "Orin, compute capability 8.7, 32.0 GiB, shared with the CPU"
    assert "NVIDIA H100" in diagnosis.conclusion
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    hidden = look(driver=driver(gpus=(), status=100))
    assert finding(hidden, "GPU").text == "no GPU; CUDA_VISIBLE_DEVICES is ''"


def test_nvidias_own_version(look: Callable[..., Diagnosis], tmp_path: Path) -> None:
    path = tmp_path / "proc/driver/nvidia/version"
    path.parent.mkdir(parents=True)
    path.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC version: 12.3.0\n"
    )
    assert finding(look(), "driver").text == "580.65.06, supports CUDA up to 13.0"
    assert finding(look(), "driver").facts["nvidia_version"] == "580.65.06"


@pytest.mark.parametrize(
    ("changes", "conclusion"),
    [
        ({"auto": auto(None, "pycuda is not installed")}, "will use the CPU: pycuda is not installed."),
        (
            {"auto": auto(None, "no usable GPU"), "onnxruntime": MISSING},
            "will use the CPU, which will fail (onnxruntime: not installed; needed for networks on the CPU): no usable",
        ),
        (
            {"tensorrt": Answer(problem="libnvinfer.so.10: cannot open")},
            "will use the GPU and fail (TensorRT: cannot be imported: libnvinfer.so.10: cannot open); "
            'until this is repaired, use device="cpu".',
        ),
        ({"pycuda": Answer(problem="broken")}, "will use the GPU and fail (pycuda: broken); until"),
        (
            {"native": Answer(problem="ends the process: Illegal instruction")},
            "cannot be used: retinasdk itself does not work (native core: ends the process: Illegal instruction).",
        ),
        ({"auto": Answer(problem="SyntaxError")}, "cannot be used: retinasdk itself does not work (SyntaxError)."),
    ],
)
def test_conclusions(look: Callable[..., Diagnosis], changes: dict[str, Answer], conclusion: str) -> None:
    diagnosis = look(**changes)
    assert diagnosis.conclusion.startswith(f'device="auto" {conclusion}')
    first, second, empty, *_ = diagnosis.to_text().splitlines()
    assert (second, empty) == (diagnosis.conclusion, "")
    assert (
        ("can detect" in first) == diagnosis.can_detect == (conclusion == "will use the CPU: pycuda is not installed.")
    )


@pytest.fixture
def libcuda(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """libcuda(code of cuInit) builds a driver with one GPU, and gives the environment in which it is found."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")

    def build(status: str) -> dict[str, str]:
        source = tmp_path / "cuda.c"
        source.write_text(
            "#include <string.h>\n#include <stddef.h>\n"
            "int cuDriverGetVersion(int *v) { *v = 12060; return 0; }\n"
            f"int cuInit(unsigned f) {{ return {status}; }}\n"
            'int cuGetErrorName(int e, const char **n) { *n = e == 100 ? "CUDA_ERROR_NO_DEVICE" : NULL; return 0; }\n'
            "int cuDeviceGetCount(int *n) { *n = 1; return 0; }\n"
            "int cuDeviceGet(int *d, int i) { *d = i + 7; return 0; }\n"
            'int cuDeviceGetName(char *s, int n, int d) { if (d == 7) strncpy(s, "Orin", n); return 0; }\n'
            "int cuDeviceTotalMem_v2(size_t *s, int d) { *s = 34359738368ull; return 0; }\n"
            "int cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 8 : a == 76 ? 7 : a == 18; return 0; }\n"
        )
        library = tmp_path / "libcuda.so.1"
        subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
        return {"LD_LIBRARY_PATH": str(tmp_path)}

    return build


@pytest.mark.heavy
@pytest.mark.skipif(sys.platform != "linux", reason="the loader's paths are Linux's")
def test_the_driver_is_asked_directly(libcuda: Any, doctor_with: Any) -> None:
    status, content = doctor_with({}, **libcuda("0"))
    assert named(content, "driver")["facts"]["version"] == 12060
    assert named(content, "GPU")["facts"] == ORIN
    assert named(content, "GPU")["text"] == "Orin, compute capability 8.7, 32.0 GiB, shared with the CPU"
    assert status == content["is_broken"]


@pytest.mark.skipif(sys.platform != "linux", reason="the loader's paths are Linux's")
@pytest.mark.parametrize(
    ("code", "state", "problem"),
    [
        ("100", "ok", "CUDA_ERROR_NO_DEVICE"),
        ("999", "broken", "unknown error"),
        ("*(volatile int *)0", "broken", None),
    ],
)
def test_a_driver_that_fails(
    libcuda: Any,
    look: Callable[..., Diagnosis],
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    state: str,
    problem: str | None,
) -> None:
    for name, value in libcuda(code).items():
        monkeypatch.setenv(name, value)
    found = finding(look(driver=ask("driver")), "driver")
    assert found.state == state
    if problem is None:
        assert found.text == "ends the process: Segmentation fault"
    else:
        assert found.facts["problem"] == problem


@pytest.mark.skipif(sys.platform != "linux", reason="the loader's paths are Linux's")
def test_a_driver_that_cannot_be_loaded(
    tmp_path: Path, look: Callable[..., Diagnosis], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "libcuda.so.1").write_bytes(b"no library")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    diagnosis = look(driver=ask("driver"))
    assert (finding(diagnosis, "driver").state, diagnosis.is_broken) == ("broken", True)
