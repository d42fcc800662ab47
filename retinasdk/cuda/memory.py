"""Device memory and pinned host memory that only grow: in the steady state nothing is allocated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk.cuda.device import CudaDevice, CudaStream

if TYPE_CHECKING:
    import numpy.typing as npt

ALIGNMENT = 256  # what cudaMalloc gives, and TensorRT and the kernels' scratch want


@dataclass(frozen=True)
class Field:
    """Where an array lies inside a block of memory, `offset` bytes from its start."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def view(self, block: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """The array inside a block on the host, (size,) uint8."""
        size = math.prod(self.shape) * self.dtype.itemsize
        return block[self.offset : self.offset + size].view(self.dtype).reshape(self.shape)


class Layout:
    """Hands out places for arrays, one behind the other, inside a block of `size_bytes`."""

    def __init__(self, alignment: int = ALIGNMENT) -> None:
        self._alignment = alignment
        self.size_bytes = 0

    def add(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Field:
        field = Field(self.size_bytes, shape, np.dtype(dtype))
        size = math.prod(shape) * field.dtype.itemsize
        self.size_bytes += -(-size // self._alignment) * self._alignment
        return field


class DeviceBuffer:
    """Device memory. Every method wants the device's context to be current."""

    def __init__(self, device: CudaDevice, purpose: str) -> None:
        self._device = device
        self._purpose = purpose
        self._allocation: Any = None
        self._size_bytes = 0

    @property
    def address(self) -> int:
        return int(self._allocation)

    def reserve(self, size_bytes: int) -> None:
        """Makes room for that many bytes. If it has to grow, the address changes and what lay there is lost.

        No launched work may still use the old memory.
        """
        if size_bytes <= self._size_bytes:
            return
        self.free()
        with self._device.doing(f"allocating {size_bytes:,} bytes on the GPU for {self._purpose}"):
            self._allocation = self._device.driver.mem_alloc(size_bytes)
        self._size_bytes = size_bytes

    def free(self) -> None:
        allocation, self._allocation, self._size_bytes = self._allocation, None, 0
        if allocation is not None:
            allocation.free()


class SharedBuffer:
    """Memory for both sides: pinned on the host, with a twin on the device; or one and the same where it is mapped.

    Every method wants the device's context to be current.
    """

    def __init__(self, device: CudaDevice, purpose: str, *, mapped: bool) -> None:
        self._device = device
        self._purpose = purpose
        self._mapped = mapped
        self._twin = DeviceBuffer(device, purpose)
        self._host: Any = None

    @property
    def host(self) -> npt.NDArray[np.uint8]:
        """(size,) uint8, pinned."""
        host: npt.NDArray[np.uint8] = self._host
        return host

    @property
    def address(self) -> int:
        """Of the same memory, as the device sees it."""
        return int(self._host.base.get_device_pointer()) if self._mapped else self._twin.address

    def reserve(self, size_bytes: int) -> None:
        """As `DeviceBuffer.reserve`, for both sides."""
        if self._host is not None and size_bytes <= self._host.size:
            return
        self.free()
        driver = self._device.driver
        flags = driver.host_alloc_flags.DEVICEMAP if self._mapped else 0
        with self._device.doing(f"allocating {size_bytes:,} bytes of pinned memory for {self._purpose}"):
            self._host = driver.pagelocked_empty(size_bytes, np.uint8, mem_flags=flags)
        if not self._mapped:
            self._twin.reserve(size_bytes)

    def upload(self, begin: int, end: int, stream: CudaStream) -> None:
        """Launches the copy of these bytes to the device."""
        if not self._mapped:
            self._device.driver.memcpy_htod_async(self.address + begin, self._host[begin:end], stream.driver_stream)

    def download(self, begin: int, end: int, stream: CudaStream) -> None:
        """Launches the copy of these bytes to the host."""
        if not self._mapped:
            self._device.driver.memcpy_dtoh_async(self._host[begin:end], self.address + begin, stream.driver_stream)

    def free(self) -> None:
        host, self._host = self._host, None
        if host is not None:
            host.base.free()
        self._twin.free()
