"""Finds the GPU, holds its context, and turns errors of its driver into `DeviceError`."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from retinasdk._util.lazy import require
from retinasdk.errors import DeviceError

_log = logging.getLogger("retinasdk")

ORDINAL = 0  # The first visible GPU. CUDA_VISIBLE_DEVICES decides which one that is.
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: the stream does not wait for work on the default stream.


@dataclass(frozen=True)
class GpuIdentity:
    """Identifies the GPU that an engine is built for or runs on.

    Attributes:
        name: Name of the GPU.
        compute_capability: Compute capability as (major, minor).
        cuda: Version of the CUDA runtime, for example "12.6". None if unknown.
    """

    name: str
    compute_capability: tuple[int, int]
    cuda: str | None = None


def why_no_cuda() -> str | None:
    """Returns in a few words what is missing to use the GPU at all, or None if nothing is.

    `retinasdk.tensorrt.installed.why_no_gpu` also looks for a TensorRT that runs on it.
    """
    try:
        native = importlib.import_module("retinasdk._native_cuda")
        count, reason = native.device_count()
    except Exception as error:  # Whatever the cause is, the CPU can be used instead.
        return f"no CUDA kernels ({error})"
    if count == 0:
        return f"no usable GPU ({reason})"
    return None if is_installed("pycuda") else "pycuda is not installed"


def is_installed(package: str) -> bool:
    """Returns whether a package can be found. It is not imported, so it may still be broken."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # ValueError: the module is in sys.modules but has no spec.
        return False


def usable_kernels(purpose: str = "device 'cuda'") -> Any:
    """Returns the module `_native_cuda` after checking that there is a GPU.

    Args:
        purpose: What it is needed for, as the beginning of the error message.

    Returns:
        The module.

    Raises:
        DeviceError: If retinasdk was built without CUDA, or there is no usable GPU.
    """
    try:
        native = importlib.import_module("retinasdk._native_cuda")
    except ImportError as error:
        raise DeviceError(
            f"{purpose} needs a GPU, but this retinasdk was built without CUDA ({error}). Install it again with the "
            "CUDA toolkit's nvcc on the PATH, or use device='cpu'."
        ) from error
    count, reason = native.device_count()
    if count == 0:
        raise DeviceError(
            f"{purpose} needs a GPU, but there is no usable one here ({reason}). Install NVIDIA's driver, or use "
            "device='cpu'."
        )
    return native


def gpu_identity(native: Any) -> GpuIdentity:
    """Returns the identity of the GPU, as the fingerprints of engines hold it.

    Args:
        native: The module `_native_cuda`.
    """
    properties, version = native.device_properties(ORDINAL), native.runtime_version()
    return GpuIdentity(
        properties["name"], tuple(properties["compute_capability"]), f"{version // 1000}.{version % 1000 // 10}"
    )


class CudaDevice:
    """Holds the primary context of the GPU until it is closed. TensorRT and `_native_cuda` use the same context.

    Attributes:
        native: The module `_native_cuda`.
        driver: The module `pycuda.driver`.
        name: Name of the GPU.
        compute_capability: Compute capability of the GPU as (major, minor).
        integrated: Whether the GPU shares the memory of the CPU, as on Jetson.
    """

    def __init__(self) -> None:
        """Opens the GPU.

        Raises:
            DeviceError: If there is no usable GPU, or it cannot be opened.
            MissingDependencyError: If pycuda cannot be imported.
        """
        self.native: Any = usable_kernels()
        self.driver: Any = require("pycuda.driver", "running on the GPU")
        properties = self.native.device_properties(ORDINAL)
        self.name: str = properties["name"]
        self.compute_capability: tuple[int, int] = properties["compute_capability"]
        self.integrated: bool = properties["integrated"]
        with self.doing("opening the GPU"):
            self.driver.init()
            # Not pycuda.autoinit: it creates a separate context, in which memory of the CUDA runtime is not valid.
            self._context: Any = self.driver.Device(ORDINAL).retain_primary_context()

    @contextmanager
    def current(self) -> Iterator[None]:
        """Makes the context current in the calling thread for the block. pycuda's objects are used and freed in it."""
        with self.doing("entering the GPU's context"):
            self._context.push()
        try:
            yield
        finally:
            self.driver.Context.pop()

    def release(self, call: Callable[[], None]) -> None:
        """Calls a function that releases something, with the context current if it can be entered.

        After some errors, the context is lost. What is on the host must be released nevertheless, and in order.
        """
        try:
            self._context.push()
        except self.driver.Error as error:
            _log.warning("The GPU's context cannot be entered, so memory of the GPU may be lost: %s", error)
            call()
            return
        try:
            call()
        finally:
            self.driver.Context.pop()

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Turns errors of the driver inside the block into `DeviceError`.

        Args:
            what: What the block does, as the beginning of the error message.

        Raises:
            DeviceError: If the driver reports an error.
        """
        try:
            yield
        except self.driver.MemoryError as error:
            raise DeviceError(
                f"{what}: the GPU has too little free memory ({error}). Use smaller images or batches, or end other "
                "programs on the GPU."
            ) from error
        except self.driver.Error as error:
            raise DeviceError(
                f"{what}: the GPU failed: {error}. To check the machine, run: retinasdk doctor"
            ) from error

    def close(self) -> None:
        """Releases the context. Everything created in it must be freed before."""
        try:
            # If another thread than the first one detaches the context, pycuda leaks it unless it is current there.
            self._context.push()
        except self.driver.Error as error:
            _log.warning("The GPU's context cannot be entered, so it may be lost: %s", error)
        with self.doing("leaving the GPU"):
            self._context.detach()


class CudaStream:
    """A CUDA stream that does not wait for the default stream. The device's context must be current.

    Attributes:
        driver_stream: The stream as pycuda's object. It is freed with its last reference. Do not keep another one: a
            traceback could keep it alive for longer than the context.
        handle: The stream as an address, for `_native_cuda` and TensorRT.
    """

    def __init__(self, device: CudaDevice) -> None:
        """Creates the stream.

        Raises:
            DeviceError: If the GPU fails.
        """
        self._device = device
        with device.doing("making a stream"):
            self.driver_stream: Any = device.driver.Stream(_NON_BLOCKING)
        self.handle: int = self.driver_stream.handle

    def wait(self) -> None:
        """Waits until all launched work is done.

        Raises:
            DeviceError: If any of the work failed.
        """
        with self._device.doing("running a frame"):
            self.driver_stream.synchronize()

    def close(self) -> None:
        """Frees the stream."""
        self.driver_stream = None
