"""Judges what was found of the GPU and a Jetson: a `Finding` for each. `tensorrt.py` judges TensorRT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retinasdk.doctor.jetson import Jetson
from retinasdk.doctor.packages import PACKAGES, Finding, State, check_package
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
