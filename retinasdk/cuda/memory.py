"""GPU memory and pinned host memory. Buffers only grow, so that no call allocates once sizes have settled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk.cuda.device import CudaDevice, CudaStream

if TYPE_CHECKING:
    import numpy.typing as npt

ALIGNMENT = 256  # bytes; what cudaMalloc guarantees, and what TensorRT and the kernels require


@dataclass(frozen=True)
class Field:
    """The place of an array inside a block of memory.

    Attributes:
        offset: Distance from the start of the block, in bytes.
        shape: Shape of the array.
        dtype: Type of the array.
    """

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def view(self, block: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """Returns the array inside a block on the host, which is a (size,) uint8 array. The memory is shared."""
        size = math.prod(self.shape) * self.dtype.itemsize
        return block[self.offset : self.offset + size].view(self.dtype).reshape(self.shape)


class Layout:
    """Assigns consecutive places to arrays inside a block of memory.

    Attributes:
        size_bytes: Size of the block in bytes, so far.
    """

    def __init__(self, alignment: int = ALIGNMENT) -> None:
        """Starts an empty block.

        Args:
            alignment: Alignment of each array in bytes.
        """
        self._alignment = alignment
        self.size_bytes = 0

    def add(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Field:
        """Adds an array at the end of the block and returns its place."""
        field = Field(self.size_bytes, shape, np.dtype(dtype))
        size = math.prod(shape) * field.dtype.itemsize
        self.size_bytes += -(-size // self._alignment) * self._alignment
        return field


class DeviceBuffer:
    """A block of GPU memory. The device's context must be current in the calling thread."""

    def __init__(self, device: CudaDevice, purpose: str) -> None:
        """Creates an empty buffer.

        Args:
            device: The GPU.
            purpose: What the memory is for, for error messages.
        """
        self._device = device
        self._purpose = purpose
        self._allocation: Any = None
        self._size_bytes = 0

    @property
    def address(self) -> int:
        """Address of the block. Only valid after `reserve`."""
        return int(self._allocation)

    def reserve(self, size_bytes: int) -> bool:
        """Makes sure that the block has at least `size_bytes` bytes.

        If it has to grow, its address changes and its content is lost. No launched work may still use it.

        Returns:
            Whether it had to grow.

        Raises:
            DeviceError: If the GPU has too little memory.
        """
        if size_bytes <= self._size_bytes:
            return False
        self.free()
        with self._device.doing(f"allocating {size_bytes:,} bytes on the GPU for {self._purpose}"):
            self._allocation = self._device.driver.mem_alloc(size_bytes)
        self._size_bytes = size_bytes
        return True

    def free(self) -> None:
        """Frees the memory. The buffer can be reserved again."""
        allocation, self._allocation, self._size_bytes = self._allocation, None, 0
        if allocation is not None:
            allocation.free()


class SharedBuffer:
    """A block of pinned host memory and a GPU block of the same size, or one block that both sides use (mapped).

    The device's context must be current in the calling thread.
    """

    def __init__(self, device: CudaDevice, purpose: str, *, mapped: bool) -> None:
        """Creates an empty buffer.

        Args:
            device: The GPU.
            purpose: What the memory is for, for error messages.
            mapped: Use one block for both sides. Sensible if the GPU shares the memory of the CPU.
        """
        self._device = device
        self._purpose = purpose
        self._mapped = mapped
        self._twin = DeviceBuffer(device, purpose)
        self._host: Any = None

    @property
    def host(self) -> npt.NDArray[np.uint8]:
        """The block on the host, a (size,) uint8 array."""
        host: npt.NDArray[np.uint8] = self._host
        return host

    @property
    def address(self) -> int:
        """Address of the block on the GPU."""
        return int(self._host.base.get_device_pointer()) if self._mapped else self._twin.address

    def reserve(self, size_bytes: int) -> bool:
        """Makes sure that both blocks have at least `size_bytes` bytes. See `DeviceBuffer.reserve`."""
        if self._host is not None and size_bytes <= self._host.size:
            return False
        self.free()
        driver = self._device.driver
        flags = driver.host_alloc_flags.DEVICEMAP if self._mapped else 0
        with self._device.doing(f"allocating {size_bytes:,} bytes of pinned memory for {self._purpose}"):
            self._host = driver.pagelocked_empty(size_bytes, np.uint8, mem_flags=flags)
        if not self._mapped:
            self._twin.reserve(size_bytes)
        return True

    def upload(self, begin: int, end: int, stream: CudaStream) -> None:
        """Launches the copy of the bytes [begin, end) to the GPU."""
        if not self._mapped:
            self._device.driver.memcpy_htod_async(self.address + begin, self._host[begin:end], stream.driver_stream)

    def download(self, begin: int, end: int, stream: CudaStream) -> None:
        """Launches the copy of the bytes [begin, end) to the host."""
        if not self._mapped:
            self._device.driver.memcpy_dtoh_async(self._host[begin:end], self.address + begin, stream.driver_stream)

    def free(self) -> None:
        """Frees the memory on both sides. The buffer can be reserved again."""
        host, self._host = self._host, None
        if host is not None:
            host.base.free()
        self._twin.free()
