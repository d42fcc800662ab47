"""Stand-ins for a GPU: its memory and streams, pycuda, TensorRT, and the module with our kernels.

They execute: allocations are real host memory, streams run the work that was put on them, engines run their ONNX model
in ONNX Runtime, and the kernels are the real ones, built for the CPU. Errors that a GPU would not report are recorded
in `FakeGpu.faults`, and `fake_gpu` fails at its end if there are any.

Every stand-in encodes beliefs about the real thing. Each module lists its beliefs, with one of these marks:

- CONFIRMED: a real GPU or a real TensorRT showed it. The GPU was one NVIDIA H200 (compute capability 9.0, driver 580,
  CUDA 13.0), on which 730 tests of tests/gpu passed. Those that need an engine could not run there.
- CONTRADICTED: the real thing behaves differently. What is different is said.
- UNCONFIRMED: it comes from documentation or source code. In particular, retinasdk has not run an engine on a GPU yet:
  TensorRT for RTX 1.7 does not support compute capability 9.0, and retinasdk rejected the plan of TensorRT 8.5 because
  of its header.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest

from fakes.gpu import FakeGpu
from fakes.native_cuda import native_cuda_module
from fakes.pycuda_driver import PycudaDriver
from fakes.tensorrt import tensorrt_module

__all__ = ["FakeGpu", "fake_gpu"]


@contextmanager
def fake_gpu(
    *, tensorrt: str = "10.3.0", rtx: bool = False, products: Mapping[str, str] | None = None, **options: Any
) -> Iterator[FakeGpu]:
    """Makes retinasdk find a GPU, pycuda and TensorRT while the block runs.

    Args:
        tensorrt: Version of TensorRT.
        rtx: Whether it is TensorRT for RTX. The GPU is then one that TensorRT for RTX supports.
        products: Instead of the two: the version of each installed product by the name of its module.
        **options: Options of `FakeGpu`.

    Yields:
        The GPU.

    Raises:
        AssertionError: At the end, if something was not released or a fault was recorded.
    """
    if products is None:
        products = {"tensorrt_rtx" if rtx else "tensorrt": tensorrt}
    if rtx:
        options.setdefault("compute_capability", (8, 9))
    gpu = FakeGpu(**options)
    pycuda = ModuleType("pycuda")
    with pytest.MonkeyPatch.context() as patch:
        driver = PycudaDriver(gpu)
        modules: dict[str, Any] = {
            "pycuda": pycuda,
            "pycuda.driver": driver,
            "retinasdk._native_cuda": native_cuda_module(gpu),
        }
        if "tensorrt_rtx_bindings" in products:
            modules["tensorrt_rtx_libs"] = ModuleType("tensorrt_rtx_libs")
        for name, version in products.items():
            modules[name] = tensorrt_module(gpu, version, rtx=name != "tensorrt")
        for name in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"):
            patch.setitem(sys.modules, name, None)  # What is really installed must not be found.
        pycuda.driver = driver  # type: ignore[attr-defined]
        for name, module in modules.items():
            module.__spec__ = sys.__spec__  # find_spec() needs one, whichever it is.
            patch.setitem(sys.modules, name, module)
        yield gpu
        gpu.check_clean()
