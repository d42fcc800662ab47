"""What `retinasdk doctor` says of packages: from what was found to a `Finding` each. Nothing here looks itself."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from retinasdk.doctor.probe import Answer

State = Literal["ok", "note", "missing", "broken"]

_IN_ORDER: tuple[State, ...] = ("ok", "note", "missing", "broken")


@dataclass(frozen=True)
class Finding:
    """What one check found.

    state: "missing" is not there; "broken" is there and does not work; "note" works, and there is more to say.
    text: one line. facts: the same for programs, ready for JSON. advice: what to do, each a sentence or a command.
    """

    section: str
    name: str
    state: State
    text: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    advice: tuple[str, ...] = ()


@dataclass(frozen=True)
class Package:
    """A package from PyPI. minimum: the oldest version that works; purpose: what does not work without it.

    extra: of retinasdk, which brings it; None: a plain install does.
    """

    name: str
    minimum: str
    purpose: str
    extra: str | None = None

    @property
    def command(self) -> str:
        """Installs it, or a newer one."""
        return f"pip install '{self.name}>={self.minimum}'"


PACKAGES = (
    Package("numpy", "1.24", "everything"),
    Package("onnxruntime", "1.17", "networks on the CPU"),
    Package("pillow", "10.4", "image files and marked pictures"),
    Package("tqdm", "4.60", "progress bars"),
    Package("pycocotools", "2.0.7", "`retinasdk eval`", extra="eval"),
    Package("matplotlib", "3.7", "the charts of `retinasdk eval` and `retinasdk bench`", extra="eval"),
    Package("onnx", "1.16", "engines in float16 and int8", extra="onnx"),
    Package("av", "14.2", "videos and network streams", extra="video"),
    Package("rosbags", "0.10", "ROS 2 bags", extra="rosbag"),
    Package("supervision", "0.30", "zones and lines", extra="supervision"),
    Package("trackers", "2.6", "tracking", extra="supervision"),
    Package("starlette", "0.40", "`retinasdk live --web`", extra="web"),
    Package("uvicorn", "0.30", "`retinasdk live --web`", extra="web"),
    Package("prometheus-client", "0.20", "metrics of a stream for Prometheus", extra="prometheus"),
    Package("torch", "2.2", "`retinasdk export`", extra="export"),
    Package("torchvision", "0.17", "`retinasdk export`", extra="export"),
    Package("pycuda", "2020.1", "networks on the GPU", extra="gpu"),
)


def numbers(version: str) -> tuple[int, ...]:
    """(10, 3, 0) of "10.3.0"; what is not a number ends it."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def worst(states: Sequence[State]) -> State:
    """The one that says most: "broken" before "missing" before "note" before "ok"."""
    return max(states, key=_IN_ORDER.index, default="ok")


# -- packages and the native core --------------------------------------------------------------------------------------


def check_package(section: str, package: Package, answer: Answer) -> Finding:
    """One of `PACKAGES`."""
    if answer.facts is None:
        if answer.is_missing:
            # Nothing of retinasdk works without NumPy: that is a broken installation, not a choice.
            state: State = "broken" if package.name == "numpy" else "missing"
            text = f"not installed; wanted for {package.purpose}"
            # What an extra brings is told once, by `check_extras`.
            return Finding(section, package.name, state, text, {}, () if package.extra else (package.command,))
        return Finding(section, package.name, "broken", answer.problem, {}, (f"{package.command} --force-reinstall",))
    version = answer.facts["version"]
    if version is None:
        return Finding(section, package.name, "note", "of unknown version", answer.facts)
    if numbers(version) < numbers(package.minimum):
        text = f"{version}; retinasdk is made for {package.minimum} and newer"
        return Finding(section, package.name, "note", text, answer.facts, (package.command,))
    return Finding(section, package.name, "ok", version, answer.facts)


def check_native(answer: Answer) -> Finding:
    """The compiled core, which a working retinasdk always has."""
    if answer.facts is None:
        text = "not built for this Python" if answer.is_missing else answer.problem
        advice = "build it again on this machine: pip install --force-reinstall --no-cache-dir . in retinasdk's source"
        return Finding("CPU", "native core", "broken", text, {}, (advice,))
    return Finding("CPU", "native core", "ok", f"built, {answer.facts['simd']} instructions", answer.facts)


def check_extras(states: Mapping[str, State], *, is_jetson: bool) -> list[Finding]:
    """One for each extra of retinasdk: what of it is missing. states: of the packages by name."""
    members: dict[str, list[str]] = {}
    for package in PACKAGES:
        if package.extra:
            members.setdefault(package.extra, []).append(package.name)
    if not is_jetson:  # there it is JetPack's, and no package of pip's
        members["gpu"].append("TensorRT")
    findings = []
    for extra, names in members.items():
        missing = [name for name in names if states[name] == "missing"]
        text = f"missing: {', '.join(missing)}" if missing else f"complete: {', '.join(names)}"
        advice = (f"pip install 'retinasdk[{extra}]'",) if missing else ()
        state: State = "missing" if missing else "ok"
        findings.append(Finding("extras", f"[{extra}]", state, text, {"missing": missing}, advice))
    return findings
