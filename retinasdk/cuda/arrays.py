"""Arrays in GPU memory, read through DLPack or `__cuda_array_interface__` without a copy."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Any

from retinasdk.cuda.device import ORDINAL

LEGACY_STREAM = 1  # CUDA's default stream, in both protocols
_DEVICE_TYPES = (2, 13)  # kDLCUDA, kDLCUDAManaged
_UNSIGNED = 1  # kDLUInt


@dataclass(frozen=True)
class GpuArray:
    """An array as one of the protocols describes it.

    Attributes:
        address: Address of the first element.
        shape: Number of elements along each axis.
        strides: Distance between neighbors along each axis, in bytes.
        dtype: "uint8" or "uint16", or the name of another type as the protocol has it.
        stream: Handle of the stream on which the array is written. None if there is nothing to wait for.
        owner: An object that keeps the memory alive.
    """

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    stream: int | None
    owner: Any


def is_gpu_array(value: object) -> bool:
    """Returns whether the object is an array in GPU memory."""
    return is_dlpack(value) or hasattr(value, "__cuda_array_interface__")


def is_dlpack(value: object) -> bool:
    """Returns whether the object is an array in GPU memory that supports DLPack."""
    device = getattr(value, "__dlpack_device__", None)
    return device is not None and hasattr(value, "__dlpack__") and device()[0] in _DEVICE_TYPES


def read_array(array: Any, stream: int) -> GpuArray:
    """Reads where an array lies.

    Args:
        array: An array for which `is_gpu_array` is true.
        stream: Handle of the stream that must wait for pending work of the array's owner. DLPack does that here. For
            the other protocol, the caller makes it wait for `GpuArray.stream`.

    Returns:
        The description. The memory is valid as long as its `owner` is kept.

    Raises:
        ValueError: If the array is on another GPU than the one that is used.
    """
    # PyTorch's tensors have both protocols, but only DLPack takes their stream into account.
    return _from_dlpack(array, stream) if is_dlpack(array) else _from_cuda_array(array)


def _from_dlpack(array: Any, stream: int) -> GpuArray:
    capsule = array.__dlpack__(stream=stream)
    tensor = _dl_tensor(capsule)
    check_ordinal(tensor.device.device_id)
    shape = tuple(tensor.shape[: tensor.ndim])
    item_bytes = tensor.dtype.bits * tensor.dtype.lanes // 8
    strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else _packed(shape, 1)
    is_plain = tensor.dtype.code == _UNSIGNED and tensor.dtype.lanes == 1
    dtype = f"{'uint' if is_plain else 'type '}{tensor.dtype.bits}"
    in_bytes = tuple(stride * item_bytes for stride in strides)
    # The capsule is not marked as consumed, so it releases the memory when it is deleted.
    return GpuArray((tensor.data or 0) + tensor.byte_offset, shape, in_bytes, dtype, None, capsule)


def _from_cuda_array(array: Any) -> GpuArray:
    described = array.__cuda_array_interface__
    shape, typestr = tuple(described["shape"]), described["typestr"]
    dtype = {"u1": "uint8", "u2": "uint16"}.get(typestr[1:], typestr)
    strides = described.get("strides") or _packed(shape, int(typestr[2:]))
    # Version 3 names the stream to wait for, or None. Older versions do not say, so wait for the default stream.
    stream = described.get("stream") if described["version"] >= 3 else LEGACY_STREAM
    return GpuArray(described["data"][0], shape, tuple(strides), dtype, stream, array)


def check_ordinal(ordinal: int) -> None:
    """Raises `ValueError` if an image is not on the GPU that is used."""
    if ordinal != ORDINAL:
        raise ValueError(f"The image is on GPU {ordinal}, but must be on GPU {ORDINAL}. Move it there.")


def _packed(shape: tuple[int, ...], item_bytes: int) -> tuple[int, ...]:
    """The strides of an array without gaps."""
    return tuple(item_bytes * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


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
