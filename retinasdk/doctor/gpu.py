"""Judges what was found of the GPU, TensorRT and a Jetson: a `Finding` for each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from retinasdk.doctor.jetson import Jetson
from retinasdk.doctor.packages import PACKAGES, Finding, State, check_package, numbers, worst
from retinasdk.doctor.probe import Answer

_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE: a driver without a GPU
# The first NVIDIA driver that supports each major version of CUDA.
_FIRST_DRIVERS = {11: "450", 12: "525", 13: "580"}


# -- driver and kernels ------------------------------------------------------------------------------------------------


def cuda_version(number: int) -> str:
    """Formats CUDA's version number 12060 as "12.6"."""
    return f"{number // 1000}.{number % 1000 // 10}"


def check_driver(answer: Answer, nvidia_version: str | None, visible: str | None) -> list[Finding]:
    """Judges the driver and its GPUs.

    Args:
        answer: What the driver answered.
        nvidia_version: The version of the driver, such as "580.65.06", if it is known.
        visible: The value of CUDA_VISIBLE_DEVICES, if it is set.

    Returns:
        A finding for the driver and one for each GPU.
    """
    if answer.facts is None:
        hint = "only for the GPU: install NVIDIA's driver; start containers with --gpus all (Jetson: --runtime nvidia)"
        state: State = "missing" if answer.is_missing else "broken"
        return [Finding("GPU", "driver", state, answer.problem, {}, (hint,))]
    facts = {**answer.facts, "nvidia_version": nvidia_version}
    gpus = facts.pop("gpus")
    text = f"{nvidia_version}, " if nvidia_version else ""
    text += f"supports CUDA up to {cuda_version(facts['version'])}"
    if facts["status"] not in (0, _NO_DEVICE):
        advice = "restart the machine: usually the driver was updated and the new one is not loaded yet"
        return [Finding("GPU", "driver", "broken", f"{text}, but fails: {facts['problem']}", facts, (advice,))]
    found = [Finding("GPU", "driver", "ok", text, facts)]
    if not gpus:
        why = f"no GPU; CUDA_VISIBLE_DEVICES is {visible!r}" if visible is not None else "the driver sees no GPU"
        return [*found, Finding("GPU", "GPU", "missing", why)]
    return found + [_gpu(gpu, ordinal, len(gpus)) for ordinal, gpu in enumerate(gpus)]


def _gpu(gpu: Mapping[str, Any], ordinal: int, count: int) -> Finding:
    shared = ", shared with the CPU" if gpu["integrated"] else ""
    capability = ".".join(map(str, gpu["compute_capability"]))
    text = f"{gpu['name']}, compute capability {capability}, {gpu['memory_bytes'] / 2**30:.1f} GiB{shared}"
    return Finding("GPU", f"GPU {ordinal}" if count > 1 else "GPU", "ok", text, gpu)


def check_kernels(answer: Answer, driver: Answer, jetson: Jetson | None) -> Finding:
    """Judges the CUDA kernels of retinasdk."""
    name = "CUDA kernels"
    if answer.facts is None:
        if answer.is_missing:
            advice = "to use the GPU, reinstall retinasdk with the nvcc of the CUDA toolkit on the PATH"
            return Finding("GPU", name, "missing", "retinasdk was built without CUDA", {}, (advice,))
        return Finding("GPU", name, "broken", answer.problem, {}, ("rebuild retinasdk on this machine",))
    facts, runtime = answer.facts, answer.facts["runtime"]
    text = f"built with CUDA {cuda_version(runtime)}"
    if driver.facts is None or driver.facts["status"] == _NO_DEVICE:
        return Finding("GPU", name, "ok", f"{text}; no GPU to run them on", facts)
    # Within one major version of CUDA, programs run on drivers of every minor version.
    if driver.facts["version"] // 1000 < runtime // 1000:
        text += f", but the driver only supports CUDA up to {cuda_version(driver.facts['version'])}"
        return Finding("GPU", name, "broken", text, facts, (_newer_driver(runtime // 1000, jetson),))
    if facts["count"] == 0 and driver.facts["gpus"]:
        return Finding("GPU", name, "broken", f"{text}, but they find no usable GPU: {facts['reason']}", facts)
    return Finding("GPU", name, "ok", text, facts)


def _newer_driver(cuda: int, jetson: Jetson | None) -> str:
    if jetson is not None:
        return "build retinasdk on this Jetson, with the nvcc of its JetPack: its driver cannot be changed alone"
    first = f" ({_FIRST_DRIVERS[cuda]} or newer)" if cuda in _FIRST_DRIVERS else ""
    return f"install a driver for CUDA {cuda}{first}, or build retinasdk with the older CUDA"


def check_pycuda(answer: Answer, driver: Answer) -> Finding:
    """Judges pycuda, which cannot be loaded without a driver."""
    package = next(item for item in PACKAGES if item.name == "pycuda")
    if answer.facts is None and not answer.is_missing and driver.is_missing and "libcuda" in answer.problem:
        return Finding("GPU", "pycuda", "note", "installed; cannot be loaded without the driver")
    return check_package("GPU", package, answer)


# -- TensorRT ----------------------------------------------------------------------------------------------------------


def is_known_tensorrt(product: str, version: str) -> bool:
    """Returns whether retinasdk supports the version: 8.5, 8.6, 10.3 to 11, and 1.x of TensorRT for RTX."""
    first = numbers(version)
    if product == "tensorrt_rtx":
        return first[:1] == (1,)
    return first[:2] in ((8, 5), (8, 6)) or (10, 3) <= first < (12,)


def check_tensorrt(
    answer: Answer, *, numpy_version: str | None, driver: Answer, jetson: Jetson | None, is_closed_venv: bool
) -> Finding:
    """Judges TensorRT, with the problems that are known of its versions.

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
            _wheel_of_newer_cuda(facts, driver, jetson),
            _other_than_jetpacks(facts, jetson),
            _wrong_boxes_on_thor(facts, jetson),
            _nptype(facts, numpy_version),
            _unknown_version(facts),
        )
        if remark is not None
    ]
    is_rtx = facts["product"] == "tensorrt_rtx"
    text = f"{facts['version']}{' for RTX' if is_rtx else ''} (package {facts['package']})"
    return Finding(
        "GPU",
        "TensorRT",
        worst([state for state, _, _ in remarks]),
        "; ".join([text, *(said for _, said, _ in remarks)]),
        facts,
        tuple(advice for _, _, advice in remarks if advice),
    )


def _how_to_get_jetpacks(is_closed_venv: bool) -> tuple[str, ...]:
    install = "sudo apt install python3-libnvinfer  (JetPack's own; the one from pip does not support its GPU)"
    if is_closed_venv:
        return (
            install,
            "recreate the virtual environment with --system-site-packages, to see JetPack's packages",
        )
    return (install,)


_Remark = tuple[State, str, str]  # the state, the problem, and what to do


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


# -- Jetson ------------------------------------------------------------------------------------------------------------


def check_jetson(jetson: Jetson) -> list[Finding]:
    """Judges the JetPack, the module, the power mode and the clocks."""
    l4t = None if jetson.l4t is None else ".".join(map(str, jetson.l4t))
    facts = {"module": jetson.module, "chip": jetson.chip, "l4t": l4t, "jetpack": None}
    findings = []
    if jetson.jetpack is not None:
        facts["jetpack"] = jetson.jetpack.name
        text = f"JetPack {jetson.jetpack.name} (L4T {l4t}) on {jetson.module}"
        findings.append(Finding("Jetson", "JetPack", "ok", text, facts))
    else:
        text = f"L4T {l4t}, which belongs to no known JetPack" if l4t else "the release is not visible"
        advice = (
            "in a container, use an L4T image, or mount /etc/nv_tegra_release"
            if l4t is None
            else "use JetPack 5.1 or newer"
        )
        findings.append(Finding("Jetson", "JetPack", "note", f"{text}, on {jetson.module}", facts, (advice,)))
    if jetson.power_mode is None:
        findings.append(Finding("Jetson", "power mode", "missing", "nvpmodel -q does not answer"))
    else:
        text, mode = jetson.power_mode, {"power_mode": jetson.power_mode}
        findings.append(
            Finding(
                "Jetson",
                "power mode",
                "ok",
                text,
                mode,
                ("to change it: sudo nvpmodel -m ID (IDs: /etc/nvpmodel.conf)",),
            )
        )
    if jetson.clocks_are_fixed is not None:
        clocks = {"clocks_are_fixed": jetson.clocks_are_fixed}
        if jetson.clocks_are_fixed:
            findings.append(Finding("Jetson", "clocks", "ok", "held at one frequency", clocks))
        else:
            text = "vary with the load, so that the first frames are slower"
            findings.append(
                Finding("Jetson", "clocks", "note", text, clocks, ("before measuring: sudo jetson_clocks",))
            )
    return findings
