"""In which order a head's channels lie, found by sending numbered values through the graph's own reshapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk.convert.importing.cut import piece
from retinasdk.convert.importing.graph import GraphView
from retinasdk.convert.importing.heads import Head
from retinasdk.convert.importing.running import Runner
from retinasdk.convert.importing.trial import OldRun
from retinasdk.errors import ModelError

if TYPE_CHECKING:
    import numpy.typing as npt

_MOVES = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
_INT64 = 7  # onnx.TensorProto.INT64
_CELLS = (2, 3)  # rows and columns of a numbered map whose size is free


def channel_order(
    view: GraphView, head: Head, anchors: int, what: str, old: OldRun | str
) -> tuple[tuple[int, ...] | None, bool]:
    """Old channel of each new one, so that the new ones lie anchor by anchor; None: they do already.

    what: "logits" or "deltas", for errors. old: gives what the reshapes take from the graph's inputs, if they do.
    The second value says whether the graph itself shows the order; else anchor by anchor is assumed, as every known
    framework has it. Raises `ModelError` for an order that is neither that nor value by value.
    """
    each = head.channels // anchors
    if anchors == 1 or each == 1:
        return None, True
    found = _moved(view, head.taps[0].tensor, head.channels, old)
    if found is None:
        return None, False
    numbers, moved = found
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
        return None, False  # moved as a whole: anchors and values are not told apart
    raise ModelError(
        f"the {what} head: wanted channels that lie anchor by anchor or value by value, but the graph puts them into "
        f"shape {moved.shape} in another order; export the network without what follows its head convolutions"
    )


def _moved(
    view: GraphView, tensor: str, channels: int, old: OldRun | str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
    """Numbers (N, C, h, w), and the same behind all that only moves them.

    None: the graph moves nothing, or by sizes that cannot be computed here.
    """
    end = tensor
    while True:
        moves = [i for i in view.users(end) if view.nodes[i].op_type in _MOVES and view.nodes[i].input[0] == end]
        if len(moves) != 1:
            break
        end = view.nodes[moves[0]].output[0]
    if end == tensor:
        return None
    known = view.shape(tensor) or [None] * 4
    height, width = (side or usual for side, usual in zip(known[2:], _CELLS, strict=True))
    attempts: list[tuple[tuple[int, ...], Mapping[str, npt.NDArray[Any]]]] = [((1, channels, height, width), {})]
    if not isinstance(old, str):
        attempts.append((old.shapes[tensor], old.feeds))
    for shape, feeds in attempts:
        numbers = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
        try:
            model = piece(view, {tensor: shape, **{name: values.shape for name, values in feeds.items()}}, [end])
            # The numbers' own type, whatever the network's is: moves take any.
            model.graph.input[0].type.tensor_type.elem_type = _INT64
            model.graph.output[0].type.tensor_type.elem_type = _INT64
            (moved,) = Runner(model).run({tensor: numbers, **feeds}, [end])
        except Exception:  # the next attempt knows more sizes
            continue
        return numbers, moved
    return None
