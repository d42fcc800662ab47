"""Formats of TensorRT's tensors: the strides that it reports, and how the values lie in memory.

Beliefs about the real TensorRT:

- HWC is (N, H, W, C) and HWC8 is (N, H, W, C rounded up to a multiple of 8), without gaps. CONFIRMED by the layers that
  TensorRT for RTX 1.7 lists when it builds. retinasdk does not depend on the latter: a test gives a gap.
- A context reports the strides of the axes N, C, H and W, in this order, in elements: with HWC8, a stride of 1 spans 8
  values. UNCONFIRMED, but documented by NVIDIA. retinasdk recognizes strides in values too, and rejects any that fit
  neither layout that it can read.
- What lies behind the channels of a cell can be anything. Here it is infinity, the highest logit.
- HWC holds float32, and from TensorRT 10.6 on and in TensorRT for RTX float16; HWC8 and CHW2 hold float16. CONFIRMED by
  TensorRT for RTX 1.7. UNCONFIRMED for others, whose Python bindings say it in docstrings.
"""

from __future__ import annotations

import enum
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class TensorFormat(enum.IntEnum):
    LINEAR, CHW2, HWC8, HWC = 0, 1, 2, 8


VECTOR_SIZES = {TensorFormat.CHW2: 2, TensorFormat.HWC8: 8}  # the others have scalars as elements


def holds(format: TensorFormat, dtype: str, version: tuple[int, ...], *, rtx: bool) -> bool:
    """Returns whether this TensorRT has the format for tensors of the type."""
    if format == TensorFormat.HWC:
        return dtype == "float32" or rtx or version >= (10, 6)
    return format == TensorFormat.LINEAR or dtype == "float16"


def strides(format: TensorFormat, shape: tuple[int, ...], gap: int = 0) -> tuple[int, ...]:
    """Returns the strides in elements. `gap`: values between the channels of a cell and the next cell, for HWC."""
    if format == TensorFormat.LINEAR:
        return tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
    batch, channels, height, width = shape
    vectors = -(-channels // VECTOR_SIZES.get(format, 1))
    if format == TensorFormat.CHW2:
        return strides(TensorFormat.LINEAR, (batch, vectors, height, width))
    cell = vectors + (gap if format == TensorFormat.HWC else 0)
    return height * width * cell, 1, width * cell, cell


def in_memory(format: TensorFormat, values: Array, gap: int = 0) -> Array:
    """Returns an output as it lies in memory, as an array in C order."""
    if format == TensorFormat.LINEAR:
        return values
    size = VECTOR_SIZES.get(format, 1)
    behind = gap if format == TensorFormat.HWC else -values.shape[1] % size
    padded = np.pad(values, ((0, 0), (0, behind), (0, 0), (0, 0)), constant_values=np.inf)
    if format == TensorFormat.CHW2:
        batch, channels, height, width = padded.shape
        return padded.reshape(batch, channels // size, size, height, width).transpose(0, 1, 3, 4, 2)
    return padded.transpose(0, 2, 3, 1)
