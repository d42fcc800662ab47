"""Images in GPU memory, read through DLPack or `__cuda_array_interface__` without a copy."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from retinasdk.cuda.device import ORDINAL

PixelFormat: TypeAlias = Literal["rgb", "nv12", "p010"]
ColorMatrix: TypeAlias = Literal["bt601", "bt709", "bt2020"]

_DEVICE_TYPES = (2, 13)  # kDLCUDA, kDLCUDAManaged
_LEGACY_STREAM = 1  # CUDA's default stream, in both protocols
_EXPECTED = "An image on the GPU must be a (height, width, 3) uint8 array with channels last"


@dataclass(frozen=True)
class DeviceImage:
    """An array on the GPU whose pixels may still be in the making: only its shape has been read.

    Attributes:
        owner: The caller's array.
        shape: (height, width, 3).
    """

    owner: Any
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class DevicePixels:
    """The pixels of one image in GPU memory, as the preprocessing kernel reads them.

    Attributes:
        address: Address of the first pixel, or of the luma plane.
        row_bytes: Distance between the starts of two rows, in bytes.
        owner: An object that keeps the memory alive.
        format: "rgb" for interleaved uint8; "nv12" or "p010" for a luma plane and a plane of chroma pairs.
        chroma: Address of the chroma plane. 0 for "rgb".
        chroma_row_bytes: Distance between the starts of two rows of the chroma plane, in bytes. 0 for "rgb".
        matrix: "bt601", "bt709" or "bt2020". Not used for "rgb".
        full_range: Whether luma and chroma use all values. False: video range. Not used for "rgb".
    """

    address: int
    row_bytes: int
    owner: Any
    format: PixelFormat = "rgb"
    chroma: int = 0
    chroma_row_bytes: int = 0
    matrix: ColorMatrix = "bt601"
    full_range: bool = False

    def source_arguments(self) -> dict[str, Any]:
        """Returns the arguments of `_native_cuda.preprocess` that describe the source, except its size."""
        arguments: dict[str, Any] = {"format": self.format, "pixels": self.address, "row_bytes": self.row_bytes}
        if self.format != "rgb":
            arguments["chroma"], arguments["chroma_row_bytes"] = self.chroma, self.chroma_row_bytes
            arguments["matrix"], arguments["full_range"] = self.matrix, self.full_range
        return arguments


def as_device_image(image: object) -> DeviceImage | None:
    """Returns the image if it is in GPU memory, or None if it is not.

    Raises:
        ValueError: If its shape is not (height, width, 3).
    """
    if not (_is_dlpack(image) or hasattr(image, "__cuda_array_interface__")):
        return None
    shape = tuple(int(side) for side in getattr(image, "shape", ()))
    if len(shape) != 3 or shape[2] != 3 or min(shape) < 1:
        raise ValueError(f"{_EXPECTED}, but its shape is {shape}.")
    return DeviceImage(image, (shape[0], shape[1], shape[2]))


def _is_dlpack(image: object) -> bool:
    device = getattr(image, "__dlpack_device__", None)
    return device is not None and hasattr(image, "__dlpack__") and device()[0] in _DEVICE_TYPES


def borrow(image: DeviceImage, stream: int, native: Any) -> DevicePixels:
    """Gives access to the pixels of an image on the GPU.

    Args:
        image: The image.
        stream: Handle of the stream on which the pixels will be read. It waits for pending work of the image's owner.
        native: The module `_native_cuda`.

    Returns:
        The pixels. The memory is valid as long as this object is kept.

    Raises:
        ValueError: If the array has another type or is not stored with channels last.
    """
    if _is_dlpack(image.owner):
        return _from_dlpack(image, stream)
    return _from_cuda_array(image, stream, native)


def _from_dlpack(image: DeviceImage, stream: int) -> DevicePixels:
    # By DLPack's rules, the owner makes the stream wait for its own pending work.
    capsule = image.owner.__dlpack__(stream=stream)
    tensor = _dl_tensor(capsule)
    if tensor.device.device_id != ORDINAL:
        raise ValueError(f"The image is on GPU {tensor.device.device_id}, but must be on GPU {ORDINAL}. Move it there.")
    if (tensor.dtype.code, tensor.dtype.bits, tensor.dtype.lanes) != (1, 8, 1):  # 1: unsigned integer
        raise ValueError(f"{_EXPECTED}, but it has another type. Convert it to uint8.")
    shape = tuple(tensor.shape[:3])
    strides = tuple(tensor.strides[:3]) if tensor.strides else (shape[1] * 3, 3, 1)
    row_bytes = _row_bytes(image, strides)
    # The capsule is not marked as consumed, so it releases the memory when it is deleted.
    return DevicePixels((tensor.data or 0) + tensor.byte_offset, row_bytes, capsule)


def _from_cuda_array(image: DeviceImage, stream: int, native: Any) -> DevicePixels:
    described = image.owner.__cuda_array_interface__
    if described["typestr"] not in ("|u1", "<u1", ">u1"):
        raise ValueError(f"{_EXPECTED}, but its type is {described['typestr']}. Convert it to uint8.")
    strides = described.get("strides") or (image.shape[1] * 3, 3, 1)
    row_bytes = _row_bytes(image, tuple(strides))
    # Version 3 names the stream to wait for, or None. Older versions do not say, so wait for the default stream.
    earlier = described.get("stream") if described["version"] >= 3 else _LEGACY_STREAM
    if earlier is not None:
        native.wait_for_stream(stream, earlier)
    return DevicePixels(described["data"][0], row_bytes, image.owner)


def _row_bytes(image: DeviceImage, strides: tuple[int, ...]) -> int:
    """The distance between two rows in bytes. The strides of axes of length 1 have no meaning."""
    height, width, _ = image.shape
    row = strides[0] if height > 1 else width * 3
    if strides[2] != 1 or (width > 1 and strides[1] != 3):
        raise ValueError(f"{_EXPECTED}, but its strides are {strides}. Make it contiguous.")
    return row


# The structures of dlpack.h, version 0, which a capsule named "dltensor" holds.


class _DlDevice(ctypes.Structure):
    _fields_ = (("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32))


class _DlDataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _DlTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _DlDevice),
        ("ndim", ctypes.c_int32),
        ("dtype", _DlDataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


# A private prototype, because setting types on ctypes.pythonapi would change them for the whole process.
_capsule_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def _dl_tensor(capsule: Any) -> _DlTensor:
    return _DlTensor.from_address(_capsule_pointer(capsule, b"dltensor"))
