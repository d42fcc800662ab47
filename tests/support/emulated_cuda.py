"""Builds `_native_cuda` for the CPU from the same kernels (tests/support/cuda_on_cpu), once, and loads it."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from filelock import FileLock
from paths import ROOT

_BUILD = ROOT / "build" / f"cuda_on_cpu-{sys.implementation.cache_tag}"


@functools.cache
def emulated_native() -> ModuleType:
    """The emulated module. Its device addresses are addresses of the host."""
    folder = os.environ.get("RETINASDK_EMULATED_CUDA")  # built already, e.g. for coverage
    built = sorted(Path(folder or _build()).rglob("_native_cuda*.so"))
    assert len(built) == 1, f"one _native_cuda was to be built, got {built}"
    spec = importlib.util.spec_from_file_location("_native_cuda", built[0])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _build() -> Path:
    import pybind11

    tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    cmake = shutil.which("cmake", path=tools)
    assert cmake is not None, "building the emulated kernels needs cmake; install retinasdk[test]"
    configure = [
        cmake,
        f"-S{ROOT}",
        f"-B{_BUILD}",
        "-GNinja",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        "-DRETINASDK_CUDA=OFF",
        "-DRETINASDK_CUDA_ON_CPU=ON",
    ]
    _BUILD.parent.mkdir(exist_ok=True)
    with FileLock(f"{_BUILD}.lock"):  # Several processes may run the tests.
        for command in (configure, [cmake, "--build", str(_BUILD), "--target", "_native_cuda"]):
            environment = {**os.environ, "PATH": tools}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return _BUILD
