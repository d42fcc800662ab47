"""Judges what was found of packages: a `Finding` for each. Nothing here looks at the machine itself."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from retinasdk.doctor.probe import Answer

State = Literal["ok", "note", "missing", "broken"]

NO_EXTRA = ""
_IN_ORDER: tuple[State, ...] = ("ok", "note", "missing", "broken")


@dataclass(frozen=True)
class Finding:
    """Describes the result of one check.

    Attributes:
        section: The part of the report that it belongs to, such as "CPU".
        name: What was checked.
        state: "ok"; "note" if it works with a remark; "missing" if it is not installed; "broken" if it is installed
            and does not work.
        text: The result in one line.
        facts: The same for programs, ready for JSON.
        advice: What to do, each a sentence or a command.
    """

    section: str
    name: str
    state: State
    text: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    advice: tuple[str, ...] = ()


@dataclass(frozen=True)
class Package:
    """Describes a package from PyPI.

    Attributes:
        name: Its name in reports.
        minimum: The oldest version that works.
        purpose: What needs it.
        extra: The extra of retinasdk that installs it; None if every installation has it; `NO_EXTRA` if it is optional
            and belongs to no extra.
        distribution: Its name on PyPI, if this differs from `name`.
    """

    name: str
    minimum: str
    purpose: str
    extra: str | None = None
    distribution: str | None = None

    @property
    def command(self) -> str:
        """Returns the command that installs or updates it."""
        return f"pip install '{self.distribution or self.name}>={self.minimum}'"


PACKAGES = (
    Package("numpy", "1.24", "everything"),
    Package("onnxruntime", "1.17", "networks on the CPU"),
    Package("pillow", "10.4", "image files and marked pictures"),
    Package("platformdirs", "3", "the folder of caches"),
    Package("filelock", "3.12", "one build of an engine at a time"),
    Package("pycocotools", "2.0.7", "`retinasdk eval`", extra="eval"),
    Package("matplotlib", "3.7", "the charts of `retinasdk eval` and `retinasdk bench`", extra="eval"),
    Package("onnx", "1.16", "`retinasdk import` and `quantize`, and engines in float16 and int8", extra="onnx"),
    Package("pyyaml", "6", "YAML configurations for `retinasdk import --config`", extra="onnx"),
    Package("rasterio", "1.4", "large TIFF and PNG files, read in parts", extra="large"),
    Package("pandas", "2.0", "`Detections.to_pandas()`", extra="pandas"),
    Package("av", "14.2", "videos and network streams", extra="video"),
    Package("ray", "2.60", "`retinasdk ray`", extra="ray"),
    Package("pyarrow", "17", "`retinasdk ray`", extra="ray"),
    Package("rosbags", "0.10", "ROS 2 bags", extra="rosbag"),
    Package("supervision", "0.30", "zones and lines", extra="supervision"),
    Package("trackers", "2.6", "tracking", extra="supervision"),
    Package("prometheus-client", "0.20", "metrics of a stream for Prometheus", extra="prometheus"),
    Package("torch", "2.2", "`retinasdk export`", extra="export"),
    Package("torchvision", "0.17", "`retinasdk export`", extra="export"),
    Package("pycuda", "2020.1", "networks on the GPU", extra="gpu"),
    # Several distributions of OpenCV exclude each other, and supervision and JetPack bring their own: no extra does.
    Package("OpenCV", "4.5", "cameras and GStreamer pipelines", extra=NO_EXTRA, distribution="opencv-python-headless"),
)
# What each extra is for, in the order of the report.
EXTRAS = {
    "video": "video files and network streams",
    "supervision": "tracking, zones and lines",
    "eval": "retinasdk eval, and charts",
    "onnx": "retinasdk import and quantize, engines in float16 and int8",
    "large": "large TIFF and PNG files, read in parts",
    "pandas": "Detections.to_pandas()",
    "ray": "retinasdk ray",
    "rosbag": "ROS 2 bags",
    "prometheus": "retinasdk live --metrics",
    "export": "retinasdk export",
    "gpu": "running on an NVIDIA GPU",
}


def numbers(version: str) -> tuple[int, ...]:
    """Reads the version "10.3.0" as (10, 3, 0), up to the first part that is not a number."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def worst(states: Sequence[State]) -> State:
    """Returns the most serious state: "broken" before "missing" before "note" before "ok"."""
    return max(states, key=_IN_ORDER.index, default="ok")


# -- packages and the native core --------------------------------------------------------------------------------------


def check_package(section: str, package: Package, answer: Answer) -> Finding:
    """Judges one of `PACKAGES`."""
    if answer.facts is None:
        if answer.is_missing:
            # Nothing in retinasdk works without NumPy: its absence is a fault, not a choice.
            state: State = "broken" if package.name == "numpy" else "missing"
            text = f"not installed; needed for {package.purpose}"
            # How to install an extra is said once, by `check_extras`.
            return Finding(section, package.name, state, text, {}, () if package.extra else (package.command,))
        return Finding(section, package.name, "broken", answer.problem, {}, (f"{package.command} --force-reinstall",))
    version = answer.facts["version"]
    if version is None:
        return Finding(section, package.name, "note", "its version is unknown", answer.facts)
    if numbers(version) < numbers(package.minimum):
        text = f"{version}; retinasdk needs {package.minimum} or newer"
        return Finding(section, package.name, "note", text, answer.facts, (package.command,))
    return Finding(section, package.name, "ok", version, answer.facts)


def check_native(answer: Answer) -> Finding:
    """Judges the compiled core, which every working installation has."""
    if answer.facts is None:
        text = "not built for this Python" if answer.is_missing else answer.problem
        advice = "rebuild it on this machine, in the source folder: pip install --force-reinstall --no-cache-dir ."
        return Finding("CPU", "native core", "broken", text, {}, (advice,))
    return Finding("CPU", "native core", "ok", f"built, {answer.facts['simd']} instructions", answer.facts)


def check_convolutions(answer: Answer, cache: Answer) -> Finding:
    """Judges the convolutions of retinasdk, and says where it keeps how fast they are."""
    if answer.facts is None:
        advice = "" if answer.is_missing else "unset the environment variable RETINASDK_ISA, if it is set"
        return Finding("CPU", "convolutions", "broken", answer.problem, {}, (advice,) if advice else ())
    facts = answer.facts
    if not facts["is_built"]:
        text = "retinasdk was built without its operators for ONNX Runtime, so those of ONNX Runtime are used"
        return Finding("CPU", "convolutions", "note", text, facts)
    text = f"{facts['isa']} instructions, {facts['threads']} thread{'s' * (facts['threads'] != 1)}"
    if not facts["is_measured"]:
        return Finding("CPU", "convolutions", "ok", f"{text}; models are not measured (RETINASDK_TUNE=0)", facts)
    if cache.facts is None:
        return Finding("CPU", "convolutions", "note", f"{text}; models are not measured without a cache", facts)
    text += f"; how fast each model runs with them is measured once and kept in {cache.facts['folder']}"
    return Finding("CPU", "convolutions", "ok", text, facts)


def check_model(model: str, answer: Answer) -> Finding:
    """Says which convolutions a model uses on the CPU."""
    name = f"model {model}"
    if answer.facts is None:
        return Finding("CPU", name, "broken", answer.problem, {}, ())
    return Finding("CPU", name, "ok", answer.facts["text"], answer.facts)


def check_extras(states: Mapping[str, State], *, is_jetson: bool) -> list[Finding]:
    """Judges the extras of retinasdk.

    Args:
        states: The states of the packages by name.
        is_jetson: Whether this is a Jetson, where TensorRT comes with JetPack and not from pip.

    Returns:
        A finding for each extra, with the packages that are missing.
    """
    findings = []
    for extra, purpose in EXTRAS.items():
        names = [package.name for package in PACKAGES if package.extra == extra]
        if extra == "gpu" and not is_jetson:
            names.append("TensorRT")
        missing = [name for name in names if states[name] == "missing"]
        text = f"{', '.join(missing)} not installed; for {purpose}" if missing else f"complete: {', '.join(names)}"
        advice = (f"pip install 'retinasdk[{extra}]'",) if missing else ()
        state: State = "missing" if missing else "ok"
        findings.append(Finding("extras", f"[{extra}]", state, text, {"missing": missing}, advice))
    return findings
