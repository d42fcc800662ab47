"""`diagnose()` checks what works on this machine, what is missing, and which device device="auto" uses.

It imports only the standard library, so that it runs where nothing else of retinasdk does:
`python -m retinasdk.doctor.diagnose`.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import retinasdk
from retinasdk._util.printable import printable
from retinasdk.doctor import probe as _probe
from retinasdk.doctor.gpu import check_driver, check_jetson, check_kernels, check_pycuda
from retinasdk.doctor.jetson import Jetson, read_jetson
from retinasdk.doctor.packages import (
    PACKAGES,
    Finding,
    check_convolutions,
    check_extras,
    check_model,
    check_native,
    check_package,
)
from retinasdk.doctor.probe import Answer
from retinasdk.doctor.tensorrt import check_other_tensorrt, check_tensorrt
from retinasdk.doctor.text import as_text

__all__ = ["Diagnosis", "Finding", "diagnose"]

_BROKEN = 1  # exit status
_PROCESSES = 4  # at a time


@dataclass(frozen=True)
class Diagnosis:
    """Holds what `diagnose` found.

    Attributes:
        findings: The result of each check.
        conclusion: One sentence: which device device="auto" uses, and why.
        can_detect: Whether a `Detector` on this device works.
    """

    findings: tuple[Finding, ...]
    conclusion: str
    can_detect: bool

    @property
    def is_broken(self) -> bool:
        """Whether something is installed and does not work. What is merely missing does not count."""
        return any(finding.state == "broken" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as a dictionary that is ready for JSON."""
        return {"is_broken": self.is_broken, **json.loads(json.dumps(asdict(self)))}

    def to_text(self) -> str:
        """Returns a report for people, with what matters most at the top."""
        return as_text(self.findings, self.conclusion, can_detect=self.can_detect)


def diagnose(
    *,
    model: str | os.PathLike[str] | None = None,
    root: Path = Path("/"),
    ask: Callable[[str], Answer] = _probe.ask,
    ask_about_model: Callable[[str], Answer] = _probe.ask_about_model,
) -> Diagnosis:
    """Checks everything that retinasdk may use on this machine. Takes a few seconds.

    Args:
        model: Path of an ONNX file, to find out which convolutions it uses on the CPU. It is measured if it was not
            measured before. Defaults to none.
        root: The root of the file system.
        ask: Answers the questions of `retinasdk.doctor.probe.QUESTIONS`.
        ask_about_model: Answers the question about a model.

    Returns:
        The diagnosis. A failure is a finding, never an exception.

    Example:
        >>> print(diagnose().conclusion)  # doctest: +SKIP
        device="auto" will use the CPU: no usable GPU (...).
    """
    with ThreadPoolExecutor(_PROCESSES) as pool:
        answers = dict(zip(_probe.QUESTIONS, pool.map(ask, _probe.QUESTIONS), strict=True))
    findings: list[Finding] = []

    def add(section: str, name: str, look: Callable[[], Finding | Sequence[Finding]]) -> None:
        try:
            found = look()
        except Exception as error:  # one check that fails must not hide the others
            found = Finding(section, name, "broken", f"cannot be checked: {type(error).__name__}: {error}")
        findings.extend([found] if isinstance(found, Finding) else found)

    jetson: Jetson | None = None

    def look_for_jetson() -> Sequence[Finding]:
        nonlocal jetson
        jetson = read_jetson(root)
        return check_jetson(jetson) if jetson else []

    driver, numpy = answers["driver"], answers["numpy"]
    plain = [package for package in PACKAGES if package.extra is None]
    extra = [package for package in PACKAGES if package.extra not in (None, "gpu")]
    add("retinasdk", "version", _about_retinasdk)
    add("retinasdk", "Python", _about_python)
    add("retinasdk", "system", lambda: _about_system(root))
    add("Jetson", "JetPack", look_for_jetson)
    add("CPU", "native core", lambda: check_native(answers["native"]))
    add("CPU", "convolutions", lambda: check_convolutions(answers["convolutions"], answers["cache"]))
    for package in plain:
        add("CPU", package.name, partial(check_package, "CPU", package, answers[package.name]))
    if model is not None:
        add("CPU", "model", lambda: check_model(Path(model).name, ask_about_model(os.fspath(model))))
    add("GPU", "driver", lambda: check_driver(driver, _nvidia_version(root), os.environ.get("CUDA_VISIBLE_DEVICES")))
    add("GPU", "CUDA kernels", lambda: check_kernels(answers["native_cuda"], driver, jetson))
    used, unused = _used_and_unused(answers)
    add(
        "GPU",
        "TensorRT",
        lambda: check_tensorrt(
            used,
            numpy_version=numpy.facts["version"] if numpy.facts else None,
            driver=driver,
            jetson=jetson,
            is_closed_venv=_is_closed_venv(),
        ),
    )
    add("GPU", "other TensorRT", lambda: check_other_tensorrt(unused, driver))
    add("GPU", "pycuda", lambda: check_pycuda(answers["pycuda"], driver))
    for package in extra:
        add("extras", package.name, partial(check_package, "extras", package, answers[package.name]))
    states = {finding.name: finding.state for finding in findings}
    add("extras", "extras", lambda: check_extras(states, is_jetson=jetson is not None))
    add("files", "engine cache", lambda: _check_cache(answers["cache"]))
    add("files", "bundled models", _check_models)
    conclusion, can_detect = _conclusion(findings, answers["auto"])
    return Diagnosis(tuple(findings), conclusion, can_detect)


# -- checks that need no process of their own --------------------------------------------------------------------------


def _about_retinasdk() -> Finding:
    folder = str(Path(retinasdk.__file__).parent)
    facts = {"version": retinasdk.__version__, "folder": folder}
    return Finding("retinasdk", "version", "ok", f"{retinasdk.__version__} in {folder}", facts)


def _about_python() -> Finding:
    version = platform.python_version()
    facts = {"version": version, "program": sys.executable, "is_closed_venv": _is_closed_venv()}
    return Finding("retinasdk", "Python", "ok", f"{version}, {sys.executable}", facts)


def _about_system(root: Path) -> Finding:
    name, cores, memory = _os_name(root), _cores(), _memory_bytes(root)
    text = f"{name}, {platform.release()}, {platform.machine()}, {cores} cores"
    text += f", {memory / 2**30:.1f} GiB" if memory else ""
    facts = {
        "name": name,
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cores": cores,
        "memory_bytes": memory,
    }
    return Finding("retinasdk", "system", "ok", text, facts)


def _is_closed_venv() -> bool:
    """Returns whether this is a virtual environment that does not see the system's packages."""
    try:
        text = Path(sys.prefix, "pyvenv.cfg").read_text(encoding="utf-8")
    except OSError:
        return False
    return re.search(r"^include-system-site-packages\s*=\s*true", text, re.MULTILINE | re.IGNORECASE) is None


def _os_name(root: Path) -> str:
    try:
        found = re.search(r'^PRETTY_NAME="?([^"\n]*)', (root / "etc/os-release").read_text("utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.system()


def _cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_bytes(root: Path) -> int | None:
    try:
        found = re.search(r"^MemTotal:\s*(\d+) kB", (root / "proc/meminfo").read_text("utf-8"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _nvidia_version(root: Path) -> str | None:
    """Reads "580.65.06", or None if the driver has no such file, as on a Jetson."""
    try:
        text = (root / "proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", text)
    return found[0] if found else None


def _check_cache(answer: Answer) -> Finding:
    if answer.facts is None:
        advice = "set the environment variable RETINASDK_CACHE to a private folder of your own, mode 700"
        return Finding("files", "engine cache", "broken", answer.problem, {}, (advice,))
    folder, said = answer.facts["folder"], answer.facts["note"]
    free = shutil.disk_usage(folder).free
    facts = {"folder": folder, "free_bytes": free}
    if said:
        return Finding("files", "engine cache", "note", said, facts)
    return Finding("files", "engine cache", "ok", f"{folder}, {free / 2**30:.1f} GiB free", facts)


def _check_models() -> Finding:
    from retinasdk.models import list_models

    wanted = _installed_hashes()
    models: dict[str, dict[str, Any]] = {}
    changed = []
    for model in list_models():
        content = model.path.read_bytes()
        digest = hashlib.sha256(content)
        models[model.name] = {"bytes": len(content), "sha256": digest.hexdigest()}
        recorded = wanted.get(model.path.resolve())
        if recorded is not None and recorded != base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode():
            changed.append(model.name)
    if changed:
        text = f"{', '.join(changed)}: the file differs from the installed one (SHA-256)"
        return Finding("files", "bundled models", "broken", text, models, ("pip install --force-reinstall retinasdk",))
    if not models:
        return Finding("files", "bundled models", "missing", "none", {}, ("pip install --force-reinstall retinasdk",))
    size: int = sum(item["bytes"] for item in models.values())
    return Finding("files", "bundled models", "ok", f"{', '.join(models)} ({size / 1e6:.0f} MB)", models)


def _installed_hashes() -> dict[Path, str]:
    """Returns the SHA-256 of each installed file in pip's base64; nothing for a source folder."""
    try:
        files = importlib.metadata.files("retinasdk") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    return {
        Path(str(file.locate())).resolve(): file.hash.value
        for file in files
        if file.hash is not None and file.hash.mode == "sha256"
    }


def _used_and_unused(answers: Mapping[str, Answer]) -> tuple[Answer, Answer]:
    """The product that device="auto" chooses, or else the first that is installed, and the other one."""
    products = ("tensorrt", "tensorrt_rtx")
    auto = answers["auto"].facts or {}
    installed = (name for name in products if not answers[name].is_missing)
    used = auto.get("product") or next(installed, products[0])
    return answers[used], answers[products[used == products[0]]]


# -- the conclusion ----------------------------------------------------------------------------------------------------


def _conclusion(findings: Sequence[Finding], auto: Answer) -> tuple[str, bool]:
    """Concludes which device device="auto" uses, and whether it works.

    Args:
        findings: The result of each check.
        auto: What device="auto" chooses, and why.

    Returns:
        A sentence, and whether a `Detector` works.
    """
    by_name = {finding.name: finding for finding in findings}

    def fault(*names: str) -> str | None:
        faulty = (by_name[name] for name in names if by_name[name].state in ("missing", "broken"))
        return next((f"{finding.name}: {finding.text}" for finding in faulty), None)

    nothing_works = fault("native core", "numpy")
    if nothing_works or auto.facts is None:
        return f'device="auto" cannot be used: retinasdk itself does not work ({nothing_works or auto.problem}).', False
    if auto.facts["product"] is None:
        problem = fault("onnxruntime")
        outcome = f", which will fail ({problem})" if problem else ""
        return f'device="auto" will use the CPU{outcome}: {auto.facts["why"]}.', problem is None
    problem = fault("driver", "CUDA kernels", "TensorRT", "pycuda")
    if problem:
        return f'device="auto" will use the GPU and fail ({problem}); until this is repaired, use device="cpu".', False
    return f'device="auto" will use {auto.facts["why"]}.', True


def main(*, as_json: bool, model: str | os.PathLike[str] | None = None) -> int:
    """Prints the diagnosis.

    Args:
        as_json: Whether to print JSON instead of text.
        model: Path of an ONNX file. See `diagnose`.

    Returns:
        The exit status: 1 if something is broken, else 0.
    """
    diagnosis = diagnose(model=model)
    # Paths and settings of the environment may hold escape sequences.
    print(json.dumps(diagnosis.to_dict(), indent=1) if as_json else printable(diagnosis.to_text()))
    return _BROKEN if diagnosis.is_broken else 0


if __name__ == "__main__":
    sys.exit(main(as_json="--json" in sys.argv[1:]))
