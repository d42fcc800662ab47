"""`retinasdk doctor` on TensorRT: which versions and chips fit together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from doctor_machines import (
    ADA,
    MISSING,
    auto,
    driver,
    finding,
    kernels,
    package,
    tensorrt,
)

from retinasdk.doctor.diagnose import Diagnosis
from retinasdk.doctor.probe import Answer
from retinasdk.doctor.tensorrt import is_known_tensorrt


@pytest.mark.parametrize(
    ("product", "version", "known"),
    [
        ("tensorrt", "8.4.3", False),
        ("tensorrt", "8.5.2.2", True),
        ("tensorrt", "8.6.1", True),
        ("tensorrt", "9.3.0", False),
        ("tensorrt", "10.2.0", False),
        ("tensorrt", "10.3.0", True),
        ("tensorrt", "10.16.2", True),
        ("tensorrt", "11.5.0", True),
        ("tensorrt", "12.0.1", False),
        ("tensorrt_rtx", "1.7.1", True),
        ("tensorrt_rtx", "2.0.0", False),
        ("tensorrt", "unknown", False),
    ],
)
def test_known_versions(product: str, version: str, known: bool, look: Callable[..., Diagnosis]) -> None:
    assert is_known_tensorrt(product, version) == known
    answers = {"tensorrt": MISSING, product: tensorrt(version, rtx=product == "tensorrt_rtx")}
    found = finding(look(driver=driver(gpus=(ADA,)), **answers), "TensorRT")
    assert ("retinasdk supports" in found.text) == (not known)
    assert not known or found.state == ("note" if version.startswith(("8.5", "11.5")) else "ok")


@pytest.mark.parametrize(
    ("answer", "numpy", "cuda", "state", "text"),
    [
        (tensorrt("8.5.2"), "1.23.5", 11040, "ok", "8.5.2 (package tensorrt)"),
        (tensorrt("8.5.2"), "1.24.0", 11040, "note", "its trt.nptype() fails with NumPy 1.24.0"),
        (tensorrt("8.6.1"), "2.4.6", 12020, "ok", "8.6.1"),
        (tensorrt("10.16.1", tensorrt_cu13="pip"), "2.0.0", 12080, "broken", "its wheel is for CUDA 13, the driver"),
        (tensorrt("10.16.1", tensorrt_cu13_libs="pip"), "2.0.0", 13000, "ok", "10.16.1"),
        (tensorrt("10.16.1", tensorrt_cu12="pip", tensorrt_cu13="pip"), "2.0.0", 12080, "ok", "10.16.1"),
        (tensorrt("10.16.1", tensorrt_rtx_cu13="pip"), "2.0.0", 12080, "ok", "10.16.1"),  # another package
        (tensorrt("1.7.1", rtx=True, tensorrt_rtx_cu13_libs="pip"), "2.0.0", 12080, "broken", "CUDA 13"),
        (tensorrt("1.7.1", rtx=True), "2.0.0", 12080, "ok", "1.7.1 for RTX (package tensorrt_rtx)"),
    ],
)
def test_tensorrt_and_what_it_meets(
    look: Callable[..., Diagnosis], answer: Answer, numpy: str, cuda: int, state: str, text: str
) -> None:
    assert answer.facts is not None
    diagnosis = look(
        **{"tensorrt": MISSING, answer.facts["product"]: answer},
        numpy=package(numpy),
        driver=driver(cuda, gpus=(ADA,)),
        native_cuda=kernels(cuda // 1000 * 1000),
    )
    found = finding(diagnosis, "TensorRT")
    assert found.state == state
    assert text in found.text
    assert bool(found.advice) == (state != "ok")


def gpu_of(chip: tuple[int, int]) -> dict[str, Any]:
    return {"name": "A GPU", "compute_capability": list(chip), "integrated": False, "memory_bytes": 8 << 30}


@pytest.mark.parametrize(
    ("chip", "of_tensorrt", "of_rtx"),
    [
        ((7, 2), "broken", "broken"),
        ((7, 5), "ok", "ok"),
        ((8, 0), "ok", "note"),
        ((8, 6), "ok", "ok"),
        ((8, 7), "note", "broken"),
        ((8, 9), "ok", "ok"),
        ((9, 0), "ok", "broken"),
        ((10, 0), "ok", "broken"),
        ((10, 1), "note", "broken"),
        ((10, 3), "ok", "broken"),
        ((11, 0), "ok", "broken"),
        ((12, 0), "ok", "ok"),
        ((12, 1), "note", "ok"),
    ],
)
def test_every_chip(look: Callable[..., Diagnosis], chip: tuple[int, int], of_tensorrt: str, of_rtx: str) -> None:
    """Of TensorRT 10.13.3 and TensorRT for RTX 1.7.1, each alone and both."""
    gpu, rtx = driver(gpus=(gpu_of(chip),)), tensorrt("1.7.1", rtx=True)
    words = {"ok": "(package ", "note": "it is unknown whether this version supports", "broken": "does not support"}
    chosen = "tensorrt" if of_tensorrt == "ok" or of_rtx != "ok" else "tensorrt_rtx"
    for state, wanted in (
        (finding(look(driver=gpu), "TensorRT"), of_tensorrt),
        (finding(look(driver=gpu, tensorrt=MISSING, tensorrt_rtx=rtx), "TensorRT"), of_rtx),
        (
            finding(look(driver=gpu, tensorrt_rtx=rtx, auto=auto(chosen, "...")), "TensorRT"),
            of_rtx if chosen == "tensorrt_rtx" else of_tensorrt,
        ),
    ):
        assert state.state == wanted
        assert words[wanted] in state.text
        assert bool(state.advice) == (wanted != "ok")
    other = finding(look(driver=gpu, tensorrt_rtx=rtx, auto=auto(chosen, "...")), "other TensorRT")
    of_other = of_tensorrt if chosen == "tensorrt_rtx" else of_rtx
    assert other.state == ("ok" if of_other == "ok" else "note")
    assert "; not used: " in other.text
    assert words[of_other] in other.text


def test_which_product_and_why(look: Callable[..., Diagnosis]) -> None:
    why = "NVIDIA H100 with TensorRT 10.13.3; TensorRT for RTX 1.7.1 does not support compute capability 9.0"
    diagnosis = look(tensorrt_rtx=tensorrt("1.7.1", rtx=True), auto=auto("tensorrt", why))
    assert diagnosis.conclusion == f'device="auto" will use {why}.'
    assert not diagnosis.is_broken
    assert (
        finding(diagnosis, "other TensorRT").text == "1.7.1 for RTX (package tensorrt_rtx); not used: does not "
        "support compute capability 9.0 (NVIDIA H100)"
    )
    broken = look(tensorrt_rtx=Answer(problem="libtensorrt_rtx.so.1: cannot open"))
    assert finding(broken, "other TensorRT").text == (
        "not used, and cannot be imported: libtensorrt_rtx.so.1: cannot open"
    )
    assert "other TensorRT" not in {item.name for item in look().findings}


def test_the_wrong_product_alone(look: Callable[..., Diagnosis]) -> None:
    """As on the H200, where the doctor said that all was well."""
    why = "TensorRT for RTX 1.7.1 does not support compute capability 9.0 (NVIDIA H100). To use it, install TensorRT"
    diagnosis = look(tensorrt=MISSING, tensorrt_rtx=tensorrt("1.7.1", rtx=True), auto=auto(None, why))
    assert diagnosis.conclusion == f'device="auto" will use the CPU: {why}.'
    assert (diagnosis.can_detect, diagnosis.is_broken) == (True, True)
    assert finding(diagnosis, "TensorRT").advice == ("install TensorRT with: pip install 'tensorrt-cu13'",)
