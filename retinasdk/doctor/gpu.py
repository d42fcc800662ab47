"""What `retinasdk doctor` says of the GPU, TensorRT and Jetson: from what was found to a `Finding` each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from retinasdk.doctor.jetson import Jetson
from retinasdk.doctor.packages import PACKAGES, Finding, State, check_package, numbers, worst
from retinasdk.doctor.probe import Answer

_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE: a driver without a GPU
# The first driver of NVIDIA's that knows a CUDA, by its major version.
_FIRST_DRIVERS = {11: "450", 12: "525", 13: "580"}


# -- driver and kernels ------------------------------------------------------------------------------------------------


def cuda_version(number: int) -> str:
    """ "12.6" of CUDA's 12060."""
    return f"{number // 1000}.{number % 1000 // 10}"


def check_driver(answer: Answer, nvidia_version: str | None, visible: str | None) -> list[Finding]:
    """The driver, and a finding for each GPU. nvidia_version: "580.65.06"; visible: $CUDA_VISIBLE_DEVICES."""
    if answer.facts is None:
        hint = (
            "for the GPU path install NVIDIA's driver; in a container, start it with --gpus all (on a Jetson: "
            "--runtime nvidia)"
        )
        state: State = "missing" if answer.is_missing else "broken"
        return [Finding("GPU", "driver", state, answer.problem, {}, (hint,))]
    facts = {**answer.facts, "nvidia_version": nvidia_version}
    gpus = facts.pop("gpus")
    text = f"{nvidia_version}, " if nvidia_version else ""
    text += f"knows CUDA up to {cuda_version(facts['version'])}"
    if facts["status"] not in (0, _NO_DEVICE):
        advice = "restart the machine: a driver that was updated and not loaded yet is the usual cause"
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
    """retinasdk's own CUDA kernels."""
    name = "CUDA kernels"
    if answer.facts is None:
        if answer.is_missing:
            advice = "install retinasdk again where the CUDA toolkit's nvcc is on the PATH"
            return Finding("GPU", name, "missing", "retinasdk was built without CUDA", {}, (advice,))
        return Finding("GPU", name, "broken", answer.problem, {}, ("build retinasdk again on this machine",))
    facts, runtime = answer.facts, answer.facts["runtime"]
    text = f"built with CUDA {cuda_version(runtime)}"
    if driver.facts is None or driver.facts["status"] == _NO_DEVICE:
        return Finding("GPU", name, "ok", f"{text}; no GPU to run them on", facts)
    # Within one major version, programs run on the drivers of every minor one.
    if driver.facts["version"] // 1000 < runtime // 1000:
        text += f", but the driver only knows CUDA up to {cuda_version(driver.facts['version'])}"
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
    """pycuda, which cannot be loaded where there is no driver."""
    package = next(item for item in PACKAGES if item.name == "pycuda")
    if answer.facts is None and not answer.is_missing and driver.is_missing and "libcuda" in answer.problem:
        return Finding("GPU", "pycuda", "note", "installed; cannot be loaded without the driver")
    return check_package("GPU", package, answer)


# -- TensorRT ----------------------------------------------------------------------------------------------------------


def is_known_tensorrt(product: str, version: str) -> bool:
    """Whether the version is one of those that retinasdk was written for: 8.5, 8.6, 10.3 to 11, and 1 of RTX's."""
    first = numbers(version)
    if product == "tensorrt_rtx":
        return first[:1] == (1,)
    return first[:2] in ((8, 5), (8, 6)) or (10, 3) <= first < (12,)


def check_tensorrt(
    answer: Answer, *, numpy_version: str | None, driver: Answer, jetson: Jetson | None, is_closed_venv: bool
) -> Finding:
    """TensorRT, and what is known to go wrong with it. is_closed_venv: Python does not see the system's packages."""
    if answer.facts is None:
        if answer.is_missing:
            advice = _how_to_get_jetpacks(is_closed_venv) if jetson else ()
            return Finding("GPU", "TensorRT", "missing", "not installed; wanted for networks on the GPU", {}, advice)
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
    install = "sudo apt install python3-libnvinfer  (JetPack's own: pip has none for its GPU)"
    if is_closed_venv:
        return (install, "make the virtual environment again with --system-site-packages: it cannot see JetPack's")
    return (install,)


_Remark = tuple[State, str, str]  # state, what is the matter, what to do


def _wheel_of_newer_cuda(facts: Mapping[str, Any], driver: Answer, jetson: Jetson | None) -> _Remark | None:
    """A wheel that is made for a CUDA which the driver does not know, as those for CUDA 13 on JetPack 5 and 6."""
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
    return "broken", f"its wheel is for CUDA {min(majors)}, the driver knows CUDA up to {cuda_version(here)}", advice


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
    return "note", "others saw wrong boxes of 10.13 on Thor", "compare with the CPU: retinasdk verify people"


def _nptype(facts: Mapping[str, Any], numpy_version: str | None) -> _Remark | None:
    if facts["product"] == "tensorrt_rtx" or numbers(facts["version"])[:2] != (8, 5):
        return None
    if numpy_version is None or numbers(numpy_version) < (1, 24):
        return None
    said = f"its trt.nptype() fails with NumPy {numpy_version}, which retinasdk avoids; other programs may not"
    return "note", said, "where another program fails of it: pip install 'numpy<1.24'"


def _unknown_version(facts: Mapping[str, Any]) -> _Remark | None:
    if is_known_tensorrt(facts["product"], facts["version"]):
        return None
    known = "1.x" if facts["product"] == "tensorrt_rtx" else "8.5, 8.6, and 10.3 to 11"
    return "note", f"retinasdk knows {known}", "compare with the CPU: retinasdk verify people"


# -- Jetson ------------------------------------------------------------------------------------------------------------


def check_jetson(jetson: Jetson) -> list[Finding]:
    """JetPack and module, power mode, clocks."""
    l4t = None if jetson.l4t is None else ".".join(map(str, jetson.l4t))
    facts = {"module": jetson.module, "chip": jetson.chip, "l4t": l4t, "jetpack": None}
    findings = []
    if jetson.jetpack is not None:
        facts["jetpack"] = jetson.jetpack.name
        text = f"JetPack {jetson.jetpack.name} (L4T {l4t}) on {jetson.module}"
        findings.append(Finding("Jetson", "JetPack", "ok", text, facts))
    else:
        text = f"L4T {l4t}, of no JetPack that is known here" if l4t else "no release to be seen"
        advice = (
            "in a container, use an l4t image, or mount /etc/nv_tegra_release"
            if l4t is None
            else "use JetPack 5.1 or newer"
        )
        findings.append(Finding("Jetson", "JetPack", "note", f"{text}, on {jetson.module}", facts, (advice,)))
    if jetson.power_mode is None:
        findings.append(Finding("Jetson", "power mode", "missing", "nvpmodel -q gives no answer"))
    else:
        text, mode = jetson.power_mode, {"power_mode": jetson.power_mode}
        findings.append(
            Finding("Jetson", "power mode", "ok", text, mode, ("others: /etc/nvpmodel.conf, sudo nvpmodel -m ID",))
        )
    if jetson.clocks_are_fixed is not None:
        clocks = {"clocks_are_fixed": jetson.clocks_are_fixed}
        if jetson.clocks_are_fixed:
            findings.append(Finding("Jetson", "clocks", "ok", "held at one frequency", clocks))
        else:
            text = "go up and down with the load, and the first frames are slower"
            findings.append(
                Finding("Jetson", "clocks", "note", text, clocks, ("before measuring: sudo jetson_clocks",))
            )
    return findings
