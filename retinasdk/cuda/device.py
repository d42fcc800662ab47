"""The GPU itself: whether one can be used, its context, and its driver's failures in our words."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from retinasdk._util.lazy import require
from retinasdk.errors import DeviceError

ORDINAL = 0  # CUDA_VISIBLE_DEVICES decides which GPU that is
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: what others do on the default stream does not hold ours up
_TENSORRT_PACKAGES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")


@dataclass(frozen=True)
class GpuIdentity:
    """The GPU that an engine is built for or runs on.

    compute_capability: (major, minor). cuda: version of the CUDA runtime, "12.6"; None: not known.
    """

    name: str
    compute_capability: tuple[int, int]
    cuda: str | None = None


def why_no_gpu() -> str | None:
    """What is missing for the GPU path, in a few words; None: nothing that can be seen without loading TensorRT."""
    try:
        native = importlib.import_module("retinasdk._native_cuda")
        count, reason = native.device_count()
    except Exception as error:  # whatever is wrong with an optional path, the other one works
        return f"no CUDA kernels ({error})"
    if count == 0:
        return f"no usable GPU ({reason})"
    if not _is_installed("pycuda"):
        return "pycuda is not installed"
    return None if any(map(_is_installed, _TENSORRT_PACKAGES)) else "TensorRT is not installed"


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # ValueError: in sys.modules, without a spec
        return False


def usable_kernels(purpose: str = "device 'cuda'") -> Any:
    """The module `_native_cuda`, once a GPU is known to be there. Raises `DeviceError` that says what is missing."""
    try:
        native = importlib.import_module("retinasdk._native_cuda")
    except ImportError as error:
        raise DeviceError(
            f"{purpose} was asked for, but this retinasdk was built without CUDA ({error}); install it again with "
            "the CUDA toolkit's nvcc on the PATH, or use device='cpu'"
        ) from error
    count, reason = native.device_count()
    if count == 0:
        raise DeviceError(
            f"{purpose} was asked for, but there is no usable GPU here ({reason}); install NVIDIA's driver, or use "
            "device='cpu'"
        )
    return native


def gpu_identity(native: Any) -> GpuIdentity:
    """The GPU, as engines' fingerprints name it. native: the module `_native_cuda`."""
    properties, version = native.device_properties(ORDINAL), native.runtime_version()
    return GpuIdentity(
        properties["name"], tuple(properties["compute_capability"]), f"{version // 1000}.{version % 1000 // 10}"
    )


class CudaDevice:
    """A GPU's primary context, which TensorRT and CUDA's runtime in `_native_cuda` use too; held until close().

    native: the module `_native_cuda`; driver: the module `pycuda.driver`; name, compute_capability: of the GPU;
    integrated: its memory is the CPU's, as on Jetson.
    """

    def __init__(self) -> None:
        self.native: Any = usable_kernels()
        self.driver: Any = require("pycuda.driver", "running on the GPU")
        properties = self.native.device_properties(ORDINAL)
        self.name: str = properties["name"]
        self.compute_capability: tuple[int, int] = properties["compute_capability"]
        self.integrated: bool = properties["integrated"]
        with self.doing("opening the GPU"):
            self.driver.init()
            # Never pycuda.autoinit: that makes a context of its own, in which our runtime's memory is not valid.
            self._context: Any = self.driver.Device(ORDINAL).retain_primary_context()

    @contextmanager
    def current(self) -> Iterator[None]:
        """Within it the context is current in this thread, any thread: what pycuda made may be used and freed."""
        with self.doing("entering the GPU's context"):
            self._context.push()
        try:
            yield
        finally:
            self.driver.Context.pop()

    def within(self, call: Callable[[], None]) -> None:
        """Calls it with the context current."""
        with self.current():
            call()

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Turns errors of the driver into `DeviceError` that begins with `what`."""
        try:
            yield
        except self.driver.MemoryError as error:
            raise DeviceError(
                f"{what}: the GPU has too little free memory ({error}); use smaller images or batches, or end other "
                "programs on it"
            ) from error
        except self.driver.Error as error:
            raise DeviceError(f"{what}: the GPU failed: {error}; `retinasdk doctor` tells what is here") from error

    def close(self) -> None:
        """Gives the context back. Everything made in it must be freed before."""
        with self.doing("leaving the GPU"):
            # pycuda leaks a context that is let go by another thread than its first, unless it is current there.
            self._context.push()
            self._context.detach()


class CudaStream:
    """A stream of one's own, which does not wait for the default one. The device's context must be current.

    driver_stream: pycuda's. It is freed with its last reference, so that nothing but this should hold one: tracebacks
    keep what they hold alive for longer than the context.
    """

    def __init__(self, device: CudaDevice) -> None:
        self._device = device
        with device.doing("making a stream"):
            self.driver_stream: Any = device.driver.Stream(_NON_BLOCKING)
        self.handle: int = self.driver_stream.handle

    def wait(self) -> None:
        """Returns when all that was launched on it is done. Raises `DeviceError` if any of it failed."""
        with self._device.doing("running a frame"):
            self.driver_stream.synchronize()

    def close(self) -> None:
        self.driver_stream = None
