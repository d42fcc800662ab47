"""Lends weights to the operators of retinasdk while ONNX Runtime makes a session.

The operators transform their weights when the session is made. If the weights were in the graph, ONNX Runtime would
keep a second copy of them. So they are taken out of it, and lent: `csrc/onnxruntime/lent_weights.h` describes how.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Key = TypeVar("Key")


@contextmanager
def lent(library: Path, tensors: Mapping[Key, npt.NDArray[np.float32] | memoryview]) -> Iterator[dict[Key, int]]:
    """Lends tensors to the operators, and takes them back at the end of the block.

    Sessions that use the tensors must be made inside the block. They are not copied here, and must not change.

    Args:
        library: Path of the operators, as given to ONNX Runtime.
        tensors: Arrays or memoryviews of float32, by any names. They must be contiguous; their memory need not be
            aligned. Each must have 1 to 8 dimensions and at least one value.

    Yields:
        The key of each tensor, by its name: the value of the operators' attributes.

    Raises:
        ValueError: If a tensor cannot be lent.
        OSError: If the library cannot be loaded, or has no such functions.
    """
    lend, take_back = _functions(library)
    keys: dict[Key, int] = {}
    arrays: list[npt.NDArray[Any]] = []  # They keep the memory alive.
    try:
        for name, tensor in tensors.items():
            array = np.asarray(tensor)
            shape = (ctypes.c_int64 * array.ndim)(*array.shape)
            is_lendable = array.dtype == np.float32 and array.flags.c_contiguous
            key = lend(array.ctypes.data, shape, array.ndim) if is_lendable else 0
            if key == 0:
                raise ValueError(
                    f"{name} must be a contiguous float32 tensor with 1 to 8 dimensions and at least one value, "
                    f"got {array.dtype} {array.shape}"
                )
            arrays.append(array)
            keys[name] = key
        yield keys
    finally:
        for key in keys.values():
            take_back(key)


def _functions(library: Path) -> tuple[Any, Any]:
    """Returns the functions of the library. ONNX Runtime loads the same library, so they share what is lent."""
    loaded = ctypes.CDLL(str(library))
    try:
        lend, take_back = loaded.retinasdk_lend, loaded.retinasdk_take_back
    except AttributeError as error:
        raise OSError(f"{library} has no operators of this version of retinasdk; install retinasdk again") from error
    lend.argtypes, lend.restype = (ctypes.c_void_p, ctypes.POINTER(ctypes.c_int64), ctypes.c_size_t), ctypes.c_int64
    take_back.argtypes, take_back.restype = (ctypes.c_int64,), None
    return lend, take_back
