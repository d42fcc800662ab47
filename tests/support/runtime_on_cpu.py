"""libretinasdk with its TensorRT backend, over emulated kernels and the stand-in for libnvinfer."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import libretinasdk
import pytest
from emulated_cuda import build_emulated
from paths import ROOT

VERSION = "10.3.0"  # The TensorRT of tests/support/tensorrt_on_cpu/include.


@contextmanager
def runtime_on_cpu() -> Iterator[None]:
    """Makes `libretinasdk.CDetector` use this build while the block runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(libretinasdk, "build_folder", _built)
        libretinasdk.library.cache_clear()
        yield
    libretinasdk.library.cache_clear()


@functools.cache
def _built() -> Path:
    """The build folder. RETINASDK_RUNTIME_ON_CPU names one that is built already."""
    given = os.environ.get("RETINASDK_RUNTIME_ON_CPU")
    if given is not None:
        return Path(given)
    if not any(Path(folder, "nlohmann/json.hpp").exists() for folder in ("/usr/include", "/usr/local/include")):
        pytest.skip("libretinasdk needs nlohmann/json: apt install nlohmann-json3-dev libssl-dev")
    folder = ROOT / "build" / "runtime_on_cpu"
    options = ("-DRETINASDK_PYTHON=OFF", "-DRETINASDK_RUNTIME=ON", "-DBUILD_SHARED_LIBS=ON")
    build_emulated(folder, ("retinasdk_runtime",), *options)
    return folder
