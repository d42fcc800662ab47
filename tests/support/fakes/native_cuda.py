"""The stand-in for `retinasdk._native_cuda`: the real kernels, built for the CPU, which run when their stream does.

Beliefs about the real module:

- The kernels give the same bits on a GPU as built for the CPU. CONFIRMED on the H200.
- An error of the driver becomes a `DeviceError`. UNCONFIRMED: nothing failed on the H200.

The properties of the device (compute capability 8.7 unless a test asks for another, CUDA 12.6) are made up.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from emulated_cuda import emulated_native

from fakes.gpu import FakeGpu, RefusedError
from retinasdk import DeviceError


def native_cuda_module(gpu: FakeGpu) -> ModuleType:
    """Returns the module for a GPU."""
    kernels: Any = emulated_native()
    module: Any = ModuleType("retinasdk._native_cuda")
    module.device_count = lambda: (gpu.devices, gpu.reason)
    module.device_properties = lambda device: {
        "name": "Fake GPU",
        "compute_capability": gpu.compute_capability,
        "multiprocessors": 1,
        "memory_bytes": 1 << 30,
        "integrated": gpu.integrated,
    }
    module.runtime_version = lambda: 12060
    module.driver_version = lambda: 12060
    for name in ("preprocess", "decode", "nms", "rotated_nms", "soft_nms", "fuse"):
        setattr(module, name, _launched(gpu, name, getattr(kernels, name)))
        scratch = f"{name}_scratch_bytes"
        setattr(module, scratch, getattr(kernels, scratch))
    for name in ("begin_capture", "end_capture", "launch_graph", "destroy_graph", "wait_for_stream"):
        setattr(module, name, _checked(getattr(gpu, name)))
    return module


def _launched(gpu: FakeGpu, name: str, kernel: Callable[..., None]) -> Callable[..., None]:
    @_checked
    def launch(*, stream: int, scratch: int, scratch_bytes: int, **arguments: Any) -> None:
        gpu.call(name)
        gpu.check_range(scratch, scratch_bytes, name)
        gpu.enqueue(stream, name, lambda: kernel(**arguments, scratch=scratch, scratch_bytes=scratch_bytes, stream=0))

    return launch


def _checked(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except RefusedError as refusal:
            raise DeviceError(str(refusal)) from None

    return call
