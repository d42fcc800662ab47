"""Judges the installed TensorRTs: whether they work, run on the GPU here, and fit the rest of the machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from retinasdk.doctor.gpu import cuda_version
from retinasdk.doctor.jetson import Jetson
from retinasdk.doctor.packages import Finding, State, numbers, worst
from retinasdk.doctor.probe import Answer
from retinasdk.tensorrt.supported_chips import how_to_install, runs_on

_Remark = tuple[State, str, str]  # the state, the problem, and what to do


def is_known_tensorrt(product: str, version: str) -> bool:
    """Returns whether retinasdk supports the version: 8.5, 8.6, 10.3 to 11, and 1.x of TensorRT for RTX."""
    first = numbers(version)
    if product == "tensorrt_rtx":
        return first[:1] == (1,)
    return first[:2] in ((8, 5), (8, 6)) or (10, 3) <= first < (12,)


def check_tensorrt(
    answer: Answer, *, numpy_version: str | None, driver: Answer, jetson: Jetson | None, is_closed_venv: bool
) -> Finding:
    """Judges the TensorRT that is used, with the problems that are known of its versions.

    Args:
        answer: What was found of TensorRT.
        numpy_version: The version of NumPy, if it is installed.
        driver: What the driver answered.
        jetson: The Jetson, if this is one.
        is_closed_venv: Whether this is a virtual environment that does not see the system's packages.

    Returns:
        The finding.
    """
    if answer.facts is None:
        if answer.is_missing:
            advice = _how_to_get_jetpacks(is_closed_venv) if jetson else ()
            return Finding("GPU", "TensorRT", "missing", "not installed; needed for networks on the GPU", {}, advice)
        advice = _how_to_get_jetpacks(is_closed_venv) if jetson else ("pip install --force-reinstall 'retinasdk[gpu]'",)
        return Finding("GPU", "TensorRT", "broken", f"cannot be imported: {answer.problem}", {}, advice)
    facts = answer.facts
    remarks = [
        remark
        for remark in (
            _gpu_not_supported(facts, driver),
            _wheel_of_newer_cuda(facts, driver, jetson),
            _other_than_jetpacks(facts, jetson),
            _wrong_boxes_on_thor(facts, jetson),
            _nptype(facts, numpy_version),
            _unknown_version(facts),
        )
        if remark is not None
    ]
    return Finding(
        "GPU",
        "TensorRT",
        worst([state for state, _, _ in remarks]),
        "; ".join([_named(facts), *(said for _, said, _ in remarks)]),
        facts,
        tuple(dict.fromkeys(advice for _, _, advice in remarks if advice)),
    )


def check_other_tensorrt(answer: Answer, driver: Answer) -> list[Finding]:
    """Judges the product that is not used, if it is installed.

    Args:
        answer: What was found of it.
        driver: What the driver answered.

    Returns:
        One finding, or none if it is not installed.
    """
    name = "other TensorRT"
    if answer.facts is None:
        if answer.is_missing:
            return []
        return [Finding("GPU", name, "note", f"not used, and cannot be imported: {answer.problem}")]
    remark = _gpu_not_supported(answer.facts, driver)
    why = remark[1] if remark else "the other one goes first"
    return [Finding("GPU", name, "note" if remark else "ok", f"{_named(answer.facts)}; not used: {why}", answer.facts)]


def _named(facts: Mapping[str, Any]) -> str:
    return f"{facts['version']}{' for RTX' if facts['product'] == 'tensorrt_rtx' else ''} (package {facts['package']})"


def _how_to_get_jetpacks(is_closed_venv: bool) -> tuple[str, ...]:
    install = "sudo apt install python3-libnvinfer  (JetPack's own; the one from pip does not support its GPU)"
    if is_closed_venv:
        return (
            install,
            "recreate the virtual environment with --system-site-packages, to see JetPack's packages",
        )
    return (install,)


def _gpu_not_supported(facts: Mapping[str, Any], driver: Answer) -> _Remark | None:
    """Compares with the table of supported GPUs. The first GPU is the one that retinasdk uses."""
    if driver.facts is None or not driver.facts["gpus"]:
        return None
    gpu = driver.facts["gpus"][0]
    major, minor = gpu["compute_capability"]
    answer = runs_on(facts["product"], facts["version"], (major, minor))
    if answer is None:
        said = f"it is unknown whether this version supports compute capability {major}.{minor} ({gpu['name']})"
        return "note", said, "compare with the CPU: retinasdk verify people"
    if not answer:
        said = f"does not support compute capability {major}.{minor} ({gpu['name']})"
        return "broken", said, how_to_install((major, minor), cuda_version(driver.facts["version"]))
    return None


def _wheel_of_newer_cuda(facts: Mapping[str, Any], driver: Answer, jetson: Jetson | None) -> _Remark | None:
    """Finds a wheel for a CUDA that the driver does not support, such as those for CUDA 13 on JetPack 5 and 6."""
    prefix = "tensorrt_rtx_cu" if facts["product"] == "tensorrt_rtx" else "tensorrt_cu"
    found = {re.match(rf"{prefix}(\d+)", name) for name in facts["installed"]}
    majors = {int(match[1]) for match in found if match}
    here = driver.facts["version"] if driver.facts else None
    if here is None and jetson is not None and jetson.jetpack is not None:
        here = jetson.jetpack.cuda[0] * 1000 + jetson.jetpack.cuda[1] * 10
    if here is None or not majors or min(majors) <= here // 1000:
        return None
    advice = (
        "remove it and use JetPack's: pip uninstall " + " ".join(sorted(facts["installed"]))
        if jetson
        else f"pip install tensorrt-cu{here // 1000}, or install a newer driver"
    )
    return "broken", f"its wheel is for CUDA {min(majors)}, the driver supports CUDA up to {cuda_version(here)}", advice


def _other_than_jetpacks(facts: Mapping[str, Any], jetson: Jetson | None) -> _Remark | None:
    if (
        jetson is None
        or jetson.jetpack is None
        or numbers(facts["version"])[:2] == numbers(jetson.jetpack.tensorrt)[:2]
    ):
        return None
    by_pip = [name for name, item in sorted(facts["installed"].items()) if item["installer"]]
    advice = f"pip uninstall {' '.join(by_pip)}" if by_pip else "sudo apt install --reinstall python3-libnvinfer"
    return (
        "note",
        f"JetPack {jetson.jetpack.name} comes with {jetson.jetpack.tensorrt}, and this one hides it",
        advice,
    )


def _wrong_boxes_on_thor(facts: Mapping[str, Any], jetson: Jetson | None) -> _Remark | None:
    if jetson is None or jetson.chip != "Thor" or numbers(facts["version"])[:2] != (10, 13):
        return None
    return "note", "wrong boxes were reported for 10.13 on Thor", "compare with the CPU: retinasdk verify people"


def _nptype(facts: Mapping[str, Any], numpy_version: str | None) -> _Remark | None:
    if facts["product"] == "tensorrt_rtx" or numbers(facts["version"])[:2] != (8, 5):
        return None
    if numpy_version is None or numbers(numpy_version) < (1, 24):
        return None
    said = f"its trt.nptype() fails with NumPy {numpy_version}, which retinasdk does not call; other programs may"
    return "note", said, "if another program fails because of it: pip install 'numpy<1.24'"


def _unknown_version(facts: Mapping[str, Any]) -> _Remark | None:
    if is_known_tensorrt(facts["product"], facts["version"]):
        return None
    known = "1.x" if facts["product"] == "tensorrt_rtx" else "8.5, 8.6, and 10.3 to 11"
    return "note", f"retinasdk supports {known}", "compare with the CPU: retinasdk verify people"
