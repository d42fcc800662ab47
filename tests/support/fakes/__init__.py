"""Honest stand-ins for a GPU: its driver, its memory and TensorRT, all over the host's memory.

They execute: allocations are real memory, streams run what was put on them, engines run their ONNX in ONNX Runtime, and
the kernels are the real ones, built for the CPU. What a GPU would not forgive is recorded in `FakeGpu.faults`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
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
def fake_gpu(*, tensorrt: str = "10.3.0", rtx: bool = False, **options: Any) -> Iterator[FakeGpu]:
    """Within it, retinasdk finds the GPU, pycuda and TensorRT of that version. options: of `FakeGpu`.

    Fails at its end if anything is left over, or was done that a GPU would not forgive.
    """
    gpu = FakeGpu(**options)
    pycuda = ModuleType("pycuda")
    with pytest.MonkeyPatch.context() as patch:
        driver = PycudaDriver(gpu)
        modules: dict[str, Any] = {
            "pycuda": pycuda,
            "pycuda.driver": driver,
            "tensorrt": tensorrt_module(gpu, tensorrt, rtx=rtx),
            "retinasdk._native_cuda": native_cuda_module(gpu),
        }
        pycuda.driver = driver  # type: ignore[attr-defined]
        for name, module in modules.items():
            module.__spec__ = sys.__spec__  # any: find_spec() asks for one
            patch.setitem(sys.modules, name, module)
        yield gpu
        gpu.check_clean()
