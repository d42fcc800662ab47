"""Finds the channel order of a head by sending numbered values through the reshapes that follow it in the graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk.convert.flavours import Preset
from retinasdk.convert.importing.graph import GraphView
from retinasdk.convert.importing.heads import HeadBranch
from retinasdk.convert.importing.onnx_runner import OnnxRunner
from retinasdk.convert.importing.original_run import OriginalRun
from retinasdk.convert.importing.subgraph import extract_subgraph
from retinasdk.errors import ModelError

if TYPE_CHECKING:
    import numpy.typing as npt

_MOVES = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
_INT64 = 7  # onnx.TensorProto.INT64
_CELLS = (2, 3)  # Rows and columns of the numbered map where the size is dynamic.


def channel_order(
    view: GraphView, head: HeadBranch, anchors: int, kind: str, original: OriginalRun | str
) -> tuple[tuple[int, ...] | None, bool]:
    """Finds how the channels have to be reordered so that they are stored anchor by anchor (channel a * K + k).

    Args:
        view: The original graph.
        head: The head.
        anchors: Number of anchors per cell.
        kind: "logits" or "deltas", for error messages.
        original: A run of the original graph, for reshapes that take sizes from the graph's inputs.

    Returns:
        The original channel of each new channel, or None if the order is right already; and whether the graph shows
        the order. If it does not, anchor by anchor is assumed, as in every known framework.

    Raises:
        ModelError: The order is neither anchor by anchor nor value by value (channel k * A + a).
    """
    each = head.channels // anchors
    if anchors == 1 or each == 1:
        return None, True
    traced = _trace_numbered_values(view, head.tensors[0].tensor, head.channels, original)
    if traced is None:
        return None, False
    numbers, moved = traced
    batch, _, height, width = numbers.shape
    value_by_value = tuple(np.arange(head.channels).reshape(each, anchors).T.reshape(-1).tolist())

    def is_order(*order: npt.NDArray[np.int64]) -> bool:
        return any(np.array_equal(moved.reshape(-1), item.reshape(-1)) for item in order)

    if moved.shape[-1] == each:
        if is_order(numbers.reshape(batch, anchors, each, height, width).transpose(0, 3, 4, 1, 2)):
            return None, True
        if is_order(numbers.reshape(batch, each, anchors, height, width).transpose(0, 3, 4, 2, 1)):
            return value_by_value, True
    if is_order(numbers) and moved.ndim > 2 and anchors != each and moved.shape[1] in (anchors, each):
        return (None if moved.shape[1] == anchors else value_by_value), True
    if is_order(numbers, numbers.transpose(0, 2, 3, 1)):
        return None, False  # Moved as a whole: this does not tell anchors from values.
    raise ModelError(
        f"the channels of the {kind} head are ordered neither anchor by anchor nor value by value: the graph reshapes "
        f"them to {moved.shape} in another order. Export the network up to its head convolutions only"
    )


def framework_order(
    order: tuple[int, ...] | None, preset: Preset, anchors: int, each: int, kind: str
) -> tuple[int, ...] | None:
    """Adds what a framework stores otherwise than a spec: classes that it never reports, and the order of deltas.

    Args:
        order: The original channel of each channel that is stored anchor by anchor, as of `channel_order`.
        preset: Rules of the framework.
        anchors: Number of anchors per cell.
        each: Number of channels of an anchor.
        kind: "logits" or "deltas".

    Returns:
        The original channel of each channel of the output, or None if the order is right already.
    """
    own = list(range(each))
    if kind == "logits":
        own = own[preset.first_class :]
    elif preset.delta_order == "yxhw":
        own = [1, 0, 3, 2]
    if own == list(range(each)):
        return order
    stored = [anchor * each + index for anchor in range(anchors) for index in own]
    return tuple(stored if order is None else (order[index] for index in stored))


def _trace_numbered_values(
    view: GraphView, tensor: str, channels: int, original: OriginalRun | str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
    """Returns numbered values (N, C, h, w) before and after the operators that only move values.

    Returns None if nothing moves values here, or by sizes that cannot be computed.
    """
    end = tensor
    while True:
        moves = [i for i in view.consumers(end) if view.nodes[i].op_type in _MOVES and view.nodes[i].input[0] == end]
        if len(moves) != 1:
            break
        end = view.nodes[moves[0]].output[0]
    if end == tensor:
        return None
    known = view.shape(tensor) or [None] * 4
    height, width = (side or default for side, default in zip(known[2:], _CELLS, strict=True))
    attempts: list[tuple[tuple[int, ...], Mapping[str, npt.NDArray[Any]]]] = [((1, channels, height, width), {})]
    if not isinstance(original, str):
        attempts.append((original.head_shapes[tensor], original.feeds))
    for shape, feeds in attempts:
        numbers = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
        try:
            inputs = {tensor: shape, **{name: values.shape for name, values in feeds.items()}}
            model = extract_subgraph(view, inputs, [end])
            # The numbers are integers, whatever the type of the network: operators that move values take any type.
            model.graph.input[0].type.tensor_type.elem_type = _INT64
            model.graph.output[0].type.tensor_type.elem_type = _INT64
            (moved,) = OnnxRunner(model).run({tensor: numbers, **feeds}, [end])
        except Exception:  # The next attempt knows more sizes.  # nosec B112
            continue
        return numbers, moved
    return None
