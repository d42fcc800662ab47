"""Images that lie on the GPU already: taken as they are, by DLPack or `__cuda_array_interface__`, without a copy."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from retinasdk.cuda.device import ORDINAL

_DEVICE_TYPES = (2, 13)  # kDLCUDA, kDLCUDAManaged
_LEGACY_STREAM = 1  # of both protocols: CUDA's default stream
_WANTED = "image on the GPU must be (H, W, 3) uint8 with the three channels side by side"


@dataclass(frozen=True)
class DeviceImage:
    """An array on the GPU of which only the shape has been looked at; its owner may still be computing it."""

    owner: Any
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class DevicePixels:
    """RGB uint8 at `address`, rows `row_bytes` apart. `owner` keeps the memory alive."""

    address: int
    row_bytes: int
    owner: Any


def as_device_image(image: object) -> DeviceImage | None:
    """The image, if it lies on the GPU; None: look for it on the host. Raises `ValueError` for other shapes."""
    if not (_is_dlpack(image) or hasattr(image, "__cuda_array_interface__")):
        return None
    shape = tuple(int(side) for side in getattr(image, "shape", ()))
    if len(shape) != 3 or shape[2] != 3 or min(shape) < 1:
        raise ValueError(f"{_WANTED}, got shape {shape}; pass RGB with channels last")
    return DeviceImage(image, (shape[0], shape[1], shape[2]))


def _is_dlpack(image: object) -> bool:
    device = getattr(image, "__dlpack_device__", None)
    return device is not None and hasattr(image, "__dlpack__") and device()[0] in _DEVICE_TYPES


def borrow(image: DeviceImage, stream: int, native: Any) -> DevicePixels:
    """The pixels, safe to read by what is launched on `stream` from now on, until the result is dropped.

    Raises `ValueError` for arrays of other types or strides.
    """
    if _is_dlpack(image.owner):
        return _from_dlpack(image, stream)
    return _from_cuda_array(image, stream, native)


def _from_dlpack(image: DeviceImage, stream: int) -> DevicePixels:
    # The owner sees to it that the stream waits for what it has under way.
    capsule = image.owner.__dlpack__(stream=stream)
    tensor = _dl_tensor(capsule)
    if tensor.device.device_id != ORDINAL:
        raise ValueError(f"image must be on GPU {ORDINAL}, got one on GPU {tensor.device.device_id}; move it there")
    if (tensor.dtype.code, tensor.dtype.bits, tensor.dtype.lanes) != (1, 8, 1):  # 1: unsigned integer
        raise ValueError(f"{_WANTED}, got another type; convert it to uint8")
    shape = tuple(tensor.shape[:3])
    strides = tuple(tensor.strides[:3]) if tensor.strides else (shape[1] * 3, 3, 1)
    row_bytes = _row_bytes(image, strides)
    # The capsule is not taken over: it gives the memory back when it goes, as it does for one that nobody took.
    return DevicePixels((tensor.data or 0) + tensor.byte_offset, row_bytes, capsule)


def _from_cuda_array(image: DeviceImage, stream: int, native: Any) -> DevicePixels:
    described = image.owner.__cuda_array_interface__
    if described["typestr"] not in ("|u1", "<u1", ">u1"):
        raise ValueError(f"{_WANTED}, got type {described['typestr']}; convert it to uint8")
    strides = described.get("strides") or (image.shape[1] * 3, 3, 1)
    row_bytes = _row_bytes(image, tuple(strides))
    # Version 3 names the stream that has to be waited for, or None; older ones leave it open.
    earlier = described.get("stream") if described["version"] >= 3 else _LEGACY_STREAM
    if earlier is not None:
        native.wait_for_stream(stream, earlier)
    return DevicePixels(described["data"][0], row_bytes, image.owner)


def _row_bytes(image: DeviceImage, strides: tuple[int, ...]) -> int:
    """The distance of two rows. Those of axes of length 1 mean nothing."""
    height, width, _ = image.shape
    row = strides[0] if height > 1 else width * 3
    if strides[2] != 1 or (width > 1 and strides[1] != 3):
        raise ValueError(f"{_WANTED}, got strides {strides}; make it contiguous, with channels last")
    return row


# The structures of dlpack.h, version 0: what a capsule named "dltensor" holds.


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


# A prototype of our own: setting types on ctypes.pythonapi would set them for the whole process.
_capsule_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def _dl_tensor(capsule: Any) -> _DlTensor:
    return _DlTensor.from_address(_capsule_pointer(capsule, b"dltensor"))
