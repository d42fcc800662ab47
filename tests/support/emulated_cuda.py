"""Builds `_native_cuda` for the CPU from the same kernels (tests/support/cuda_on_cpu), once, and loads it."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
from filelock import FileLock
from paths import ROOT

_BUILD = ROOT / "build" / f"cuda_on_cpu-{sys.implementation.cache_tag}"


@functools.cache
def emulated_native() -> ModuleType:
    """The emulated module. Its device addresses are addresses of the host."""
    built = sorted(emulated_folder().rglob("_native_cuda*.so"))
    assert len(built) == 1, f"one _native_cuda was to be built, got {built}"
    spec = importlib.util.spec_from_file_location("_native_cuda", built[0])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def emulated_folder() -> Path:
    """The folder in which the module is built.

    RETINASDK_EMULATED_CUDA names the folder of one that is built already; "none" skips the test. Processes that the
    test starts get it that way: none of them asks CMake again.
    """
    folder = os.environ.get("RETINASDK_EMULATED_CUDA")
    if folder == "none":
        pytest.skip("RETINASDK_EMULATED_CUDA is none")
    if folder is None:
        import pybind11

        options = (f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}")
        build_emulated(_BUILD, ("_native_cuda",), *options)
        folder = os.environ["RETINASDK_EMULATED_CUDA"] = str(_BUILD)
    return Path(folder)


def build_emulated(folder: Path, targets: Sequence[str], *options: str) -> None:
    """Builds CMake targets with the emulated kernels, unless they are up to date.

    Args:
        folder: The build folder.
        targets: Names of the targets.
        options: Further options for the configuration, such as `-DNAME=VALUE`.
    """
    tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    cmake = shutil.which("cmake", path=tools)
    assert cmake is not None, "building the emulated kernels needs cmake; install retinasdk[test]"
    source = [f"-S{ROOT}", f"-B{folder}", "-GNinja"]
    how = ("-DRETINASDK_CUDA=OFF", "-DRETINASDK_CUDA_ON_CPU=ON", "-DRETINASDK_WERROR=ON")
    configure = [cmake, *source, *how, *options]
    folder.parent.mkdir(exist_ok=True)
    with FileLock(f"{folder}.lock"):  # Several processes may run the tests.
        for command in (configure, [cmake, "--build", str(folder), "--target", *targets]):
            environment = {**os.environ, "PATH": tools}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
