"""The layout of head outputs in memory: which one to ask TensorRT for, and which one an engine has.

Note [Channels last]. Convolutions of TensorRT write channels last, (N, H, W, C). If an output must be row-major, it
adds a kernel that only reorders it. So the builder allows a format with channels last, beside row-major, if this
TensorRT is known to have it for the type of the output. A format that it does not have makes the build fail, although
row-major is allowed too (seen with TensorRT for RTX 1.7.1, HWC8 and float32). How an engine stores its heads is not
taken from what the builder allowed, nor from the JSON file: the loaded engine is asked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk.errors import ModelError

if TYPE_CHECKING:
    import numpy.typing as npt

ROW_MAJOR = "LINEAR"
_REBUILD = "retinasdk build model.onnx -o model.engine --head-layout channels_first"

# The versions from which on NVIDIA binds the format HWC to a type, by the docstring of TensorFormat.HWC in its Python
# bindings. 8.6.1, 10.3.0 and 10.5.0: float32. 10.6.0, 10.7.0, 10.9.0, 10.11.0, 10.13.3, 10.16.1, 11.0.0, 11.1.0 and
# 11.4.0, and TensorRT for RTX 1.4.0 and 1.7.1: float32 and float16. Only the last one was seen to build it. For 8.5,
# the header of that time names float32.
_HWC_SINCE = {
    "tensorrt": {"FLOAT": (8, 5), "HALF": (10, 6)},
    "tensorrt_rtx": {"FLOAT": (1, 4), "HALF": (1, 4)},
}
# All these bindings bind HWC8 to float16. With other numbers of channels, the output is padded, for which TensorRT for
# RTX 1.7.1 adds a kernel that costs as much as reordering.
_HWC8_CHANNELS = 8


def formats_to_allow(product: str, version: str, dtype: str, channels: int) -> tuple[str, ...]:
    """Returns the formats that the builder should allow for a head output.

    Args:
        product: "tensorrt", or "tensorrt_rtx" for TensorRT for RTX.
        version: Its version, for example "10.3.0".
        dtype: Name of the output's `trt.DataType`.
        channels: Number of channels. -1 if it is unknown.

    Returns:
        Names of `trt.TensorFormat`. TensorRT chooses one of them.

    Example:
        >>> formats_to_allow("tensorrt", "10.3.0", "HALF", 720), formats_to_allow("tensorrt", "10.3.0", "HALF", 36)
        (('HWC8', 'LINEAR'), ('LINEAR',))
    """
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:3])
    since = _HWC_SINCE[product].get(dtype)
    if since is not None and numbers >= since:
        return ("HWC", ROW_MAJOR)
    if dtype == "HALF" and channels > 0 and channels % _HWC8_CHANNELS == 0:
        return ("HWC8", ROW_MAJOR)
    return (ROW_MAJOR,)


@dataclass(frozen=True)
class OutputMemory:
    """How an output of the network lies in memory.

    Attributes:
        shape: Shape of the output. (N, C, H, W) for head outputs.
        dtype: Type of its values.
        memory_shape: Shape of the array in memory: `shape`, or (N, H, W, cell_stride) if channels come last. For other
            outputs than heads, whose layout does not matter, (number of values,).
        cell_stride: 0 if channels come first. Otherwise, the number of values from one cell to the next. It may be
            larger than C; the values behind the channels have no meaning.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    memory_shape: tuple[int, ...]
    cell_stride: int = 0

    def channels_first(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Returns the view of shape (N, C, H, W) of a head output, which is an array of shape `memory_shape`."""
        return values[..., : self.shape[1]].transpose(0, 3, 1, 2) if self.cell_stride else values


@dataclass(frozen=True)
class StoredOutput:
    """What TensorRT says about how a context stores an output.

    Attributes:
        name: Name of the output.
        dtype: Type of its values.
        shape: Its shape.
        strides: Stride of each axis.
        format: Name of its `trt.TensorFormat`.
        vectorized_axis: The axis of which each element holds several values. -1: there is none.
        vector_size: Number of values in an element.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    format: str = ROW_MAJOR
    vectorized_axis: int = -1
    vector_size: int = 1

    @classmethod
    def ask(cls, engine: Any, context: Any, name: str, dtype: np.dtype[Any]) -> StoredOutput:
        """Asks a `trt.ICudaEngine` and its context, whose input shapes are set."""
        axis = engine.get_tensor_vectorized_dim(name)
        return cls(
            name,
            dtype,
            tuple(context.get_tensor_shape(name)),
            tuple(context.get_tensor_strides(name)),
            engine.get_tensor_format(name).name,
            axis,
            engine.get_tensor_components_per_element(name) if axis >= 0 else 1,
        )


def head_memory(stored: StoredOutput, origin: object) -> OutputMemory:
    """Returns the layout of a head output.

    Args:
        stored: What TensorRT says about it.
        origin: The engine file, for error messages.

    Raises:
        ModelError: If the kernels cannot read it.
    """
    shape, axis = stored.shape, stored.vectorized_axis
    stride = cell_stride(shape, stored.strides, axis, stored.vector_size)
    if stride is None:
        packed = f", {stored.vector_size} values of axis {axis} in each element" if axis >= 0 else ""
        raise ModelError(
            f"{origin}: TensorRT stores the head output {stored.name!r} of shape {shape} in the format "
            f"{stored.format} with strides {stored.strides}{packed}. It must be stored as (N, C, H, W) without gaps, "
            f"or as (N, H, W, C). Build the engine again with: {_REBUILD}"
        )
    return OutputMemory(shape, stored.dtype, (shape[0], *shape[2:], stride) if stride else shape, stride)


def other_memory(stored: StoredOutput) -> OutputMemory:
    """Returns how much memory TensorRT needs for an output that retinasdk does not read."""
    sides = list(stored.shape)
    if stored.vectorized_axis >= 0:
        sides[stored.vectorized_axis] = -(-sides[stored.vectorized_axis] // stored.vector_size)
    elements = max((side * stride for side, stride in zip(sides, stored.strides, strict=False)), default=1)
    return OutputMemory(stored.shape, stored.dtype, (max(elements * stored.vector_size, math.prod(stored.shape)),))


def cell_stride(shape: Sequence[int], strides: Sequence[int], vectorized_axis: int, vector_size: int) -> int | None:
    """Derives the layout of a head output from its strides.

    Note [Units of strides]. NVIDIA's NvInferRuntime.h says that strides are in elements, not in components: a stride of
    1 spans 8 values with HWC8. No GPU has confirmed it. Strides in values are different numbers for the same layout, so
    they are recognized too.

    Args:
        shape: (N, C, H, W).
        strides: Stride of each of these axes.
        vectorized_axis: The axis of which each element holds several values. -1: there is none.
        vector_size: Number of values in an element.

    Returns:
        0 if channels come first, (N, C, H, W) without gaps. If they come last, the number of values from one cell to
        the next. If both are true, as with one channel, it says last. None if it is another layout.

    Example:
        >>> cell_stride((1, 36, 4, 5), (720, 20, 5, 1), -1, 1), cell_stride((1, 36, 4, 5), (720, 1, 180, 36), -1, 1)
        (0, 36)
    """
    if len(shape) != 4 or len(strides) != 4 or vectorized_axis not in (-1, 1):
        return None
    batch, channels, height, width = shape
    if vectorized_axis == -1:
        # The stride of the innermost axis along which there are several cells. A single cell may have a gap behind it.
        cell = next((step for side, step in zip(shape[:1:-1], strides[:1:-1], strict=True) if side > 1), strides[0])
        if cell >= channels and _fits(shape, strides, (height * width * cell, 1, width * cell, cell)):
            return cell
        return 0 if _fits(shape, strides, (channels * height * width, height * width, width, 1)) else None
    vectors = -(-channels // vector_size)
    for unit in (1, vector_size):
        cell = vectors * unit
        if _fits((batch, vectors, height, width), strides, (height * width * cell, 1, width * cell, cell)):
            return vectors * vector_size
    return None


def _fits(shape: Sequence[int], strides: Sequence[int], expected: Sequence[int]) -> bool:
    """Whether the strides are the expected ones, except on axes of length 1, where they do not matter."""
    return all(side == 1 or step == wanted for side, step, wanted in zip(shape, strides, expected, strict=True))
