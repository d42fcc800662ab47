"""The first step of `make gpu`: a Python with what the tests need, and the modules built for the present chip."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from gpu_process import run, said
from gpu_steps import ROOT, Session, Step, last_line, step
from gpu_tools import program

# Modules that the tests and benchmarks import, and the package that brings each.
NEEDED = {
    "numpy": "numpy",
    "onnxruntime": "onnxruntime",
    "onnx": "onnx",
    "PIL": "pillow",
    "filelock": "filelock",
    "platformdirs": "platformdirs",
    "pytest": "pytest",
    "hypothesis": "hypothesis",
    "pybind11": "pybind11",
}
_QUICKLY = ("--quiet", "--retries", "1", "--timeout", "15")  # Without a network, pip must not eat the budget.
_PROGRAMS = ("cmake", "ninja")


def build(session: Session, seconds: float) -> Step:
    """Finds or makes the Python, builds the modules in place, and asks what can be used."""
    notes = []
    missing = _missing(session)
    if missing:
        notes.append(_install(session, missing))
    nvcc = program("nvcc")
    if session.is_stand_in:
        notes.append("Nothing was built: stand-ins have the kernels of the emulation")
    elif nvcc is None:
        notes.append("nvcc was not found, so the modules that are here are used")
    else:
        session.versions["nvcc"] = said((nvcc, "--version")).partition("release ")[2].partition(",")[0] or "unknown"
        failure = _compile(session, nvcc, seconds)
        if failure:
            session.why_no_kernels = failure
            return step("build", "failed", ". ".join([*notes, failure]))
        notes.append(f"For compute capability {'.'.join(map(str, session.chip.compute_capability))}")
    failure = _probe(session)
    outcome = "failed" if session.why_no_kernels else "passed"
    return step("build", outcome, ". ".join([*notes, *([failure] if failure else [])]) or None)


def _missing(session: Session) -> list[str]:
    """Packages that the Python of the session lacks."""
    code = f"import importlib.util as u; print(*[p for m, p in {NEEDED!r}.items() if not u.find_spec(m)])"
    packages = said((session.python, "-c", code)).split()
    return packages + [name for name in _PROGRAMS if _tool(session, name) is None]


def _tool(session: Session, name: str) -> str | None:
    beside = Path(session.python).parent / name
    return str(beside) if beside.is_file() else program(name)


def _install(session: Session, packages: list[str]) -> str:
    """Installs packages: into the virtual environment that is in use, else into one that sees the system's packages."""
    if sys.prefix != sys.base_prefix:
        done = session.run("pip", [session.python, "-m", "pip", "install", *_QUICKLY, *packages], 300)
        how = "Installed" if done.code == 0 else f"Missing, and pip failed ({last_line(done.text)})"
        return f"{how}: {', '.join(packages)}"
    environment = session.folder / "venv"
    made = session.run("venv", [session.python, "-m", "venv", "--system-site-packages", str(environment)], 120)
    if made.code != 0:
        return f"{', '.join(packages)} are missing, and no environment could be made: {last_line(made.text)}"
    session.python = str(environment / "bin" / "python")
    still = _missing(session)  # An earlier run may have installed them.
    if not still:
        return f"{', '.join(packages)}: in build/gpu/venv"
    done = session.run("pip", [session.python, "-m", "pip", "install", *_QUICKLY, *still], 300)
    if done.code != 0:
        return f"{', '.join(still)} are missing, and pip could not install them: {last_line(done.text)}"
    return f"Installed in build/gpu/venv: {', '.join(still)}"


def _compile(session: Session, nvcc: str, seconds: float) -> str | None:
    """Builds the modules for the present chip into retinasdk/, as an editable install does; returns what failed."""
    folder, (major, minor) = session.folder / "cmake", session.chip.compute_capability
    cmake, ninja = _tool(session, "cmake"), _tool(session, "ninja")
    if cmake is None or ninja is None:
        return "cmake or ninja is missing"
    pybind11 = said((session.python, "-c", "import pybind11; print(pybind11.get_cmake_dir())"))
    configure = [
        cmake,
        f"-S{ROOT}",
        f"-B{folder}",
        "-GNinja",
        f"-DCMAKE_MAKE_PROGRAM={ninja}",
        f"-DPython_EXECUTABLE={session.python}",
        f"-Dpybind11_DIR={pybind11}",
        f"-DCMAKE_INSTALL_PREFIX={ROOT}",
        "-DRETINASDK_CUDA=ON",
        f"-DCMAKE_CUDA_COMPILER={nvcc}",
        f"-DCMAKE_CUDA_ARCHITECTURES={major}{minor}-real",
    ]
    build = [cmake, "--build", str(folder)]
    install = [cmake, "--install", str(folder), "--component", "python"]
    for part, command in (("configure", configure), ("build", build), ("install", install)):
        done = session.run(part, command, seconds)
        if done.code != 0:
            how = f"ended after {done.seconds:.0f} s" if done.code is None else f"failed: {last_line(done.text)}"
            return f"The {part} {how}"
    return None


def _probe(session: Session) -> str | None:
    """Asks the built package what it can use; returns what is wrong."""
    log = session.folder / "probe.log"
    done = run(session.script("gpu_probe.py"), seconds=120, log=log, env=session.environment(), cwd=ROOT)
    try:
        answer = json.loads(done.text.strip().splitlines()[-1])
    except (ValueError, IndexError):
        session.why_no_kernels = session.why_no_tensorrt = f"retinasdk cannot be imported: {last_line(done.text)}"
        return session.why_no_kernels
    session.why_no_kernels, session.why_no_tensorrt = answer["why_no_kernels"], answer["why_no_tensorrt"]
    session.versions |= answer["versions"]
    return session.why_no_kernels
