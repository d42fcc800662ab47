"""Checks the sizes and types of a graph's inputs before anything of that size is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retinasdk.errors import ModelError

_MAX_VALUES = 1 << 26  # An image of 4729 x 4729. The network makes many times as many values on its way.
_MAX_BATCH = 256  # Where height and width are dynamic, the network is run on images of 256 x 384.


def check_inputs(onnx: Any, graph: Any, path: Path) -> None:
    """Checks the types and the fixed sizes of all inputs.

    Raises:
        ModelError: A type is unknown, a size is negative, the inputs have more than 67 million values, or a batch has
            more than 256 images.
    """
    weights = {tensor.name for tensor in graph.initializer}
    total = 0
    for item in graph.input:
        kind = item.type.tensor_type.elem_type
        if kind not in onnx.TensorProto.DataType.values():
            raise ModelError(f"{path} is damaged: the input {item.name!r} has the unknown type {kind}. Export it again")
        sides = [side.dim_value for side in item.type.tensor_type.shape.dim if side.HasField("dim_value")]
        axes = item.type.tensor_type.shape.dim
        if item.name not in weights and len(axes) == 4 and axes[0].dim_value > _MAX_BATCH:
            raise ModelError(
                f"{path}: the input {item.name!r} takes {axes[0].dim_value} images at once, and at most {_MAX_BATCH} "
                "are supported. Export the network with a dynamic batch, or with a batch of 1"
            )
        listed = " x ".join(map(str, sides))
        values = 1
        for side in sides:
            if side < 0:
                raise ModelError(f"{path}: the input {item.name!r} has a negative size: {listed}. Export it again")
            values *= side
        if item.name not in weights:  # Old exports list their weights as inputs, too.
            total += values
        if total > _MAX_VALUES:
            raise ModelError(
                f"{path}: the input {item.name!r} has the fixed size {listed}, more than {_MAX_VALUES} values in all "
                "inputs. Export the network with a dynamic size, or with a smaller one"
            )
