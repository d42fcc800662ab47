"""Reads the post-processing rules that the graph contains after its heads: anchors, box decoding, thresholds."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk.convert.flavours.preset import BaseAnchors
from retinasdk.convert.importing.graph import GraphView, inner_nodes
from retinasdk.convert.importing.heads import HeadPair

if TYPE_CHECKING:
    import numpy.typing as npt

_CLAMP = float(np.log(1000 / 16))
# Operators between raw deltas and exp that change no value, or only the box center.
_PASSED = frozenset({"Slice", "Split", "Reshape", "Squeeze", "Unsqueeze", "Gather", "Identity", "Cast", "Concat"})
_PASSED |= {"Transpose", "Flatten", "Add"}


@dataclass(frozen=True)
class SizeDecoding:
    """What the graph does to the size deltas dw and dh before exp: first multiplies, then clamps.

    Attributes:
        factor: What dw and dh are multiplied by.
        clamp_min: Lower bound; None if there is none.
        clamp_max: Upper bound; None if there is none.
    """

    factor: float
    clamp_min: float | None
    clamp_max: float | None


@dataclass(frozen=True)
class GraphPostprocessing:
    """Post-processing rules that were read in the graph. None means: not in the graph.

    Attributes:
        base_anchors: Boxes xyxy in pixels around cell (0, 0), one entry for each level.
        score_threshold: Minimum score of a candidate, 0 to 1.
        nms_iou_threshold: IoU above which NMS removes a box, 0 to 1.
        size_decoding: What happens to dw and dh before exp.
    """

    base_anchors: tuple[BaseAnchors, ...] | None
    score_threshold: float | None
    nms_iou_threshold: float | None
    size_decoding: SizeDecoding


def read_postprocessing(view: GraphView, heads: HeadPair) -> GraphPostprocessing:
    """Reads the constants of the post-processing that follows the heads in the graph."""
    after_logits = view.descendants(heads.logits.tensor_names)
    thresholds: set[float] = set()
    ious: set[float] = set()
    for node in (item for index in after_logits for item in (view.nodes[index], *inner_nodes(view.nodes[index]))):
        if node.op_type in ("Greater", "GreaterOrEqual") and view.constant(node.input[0]) is None:
            thresholds |= _scalar(view, node.input[1])
        elif node.op_type == "NonMaxSuppression":
            ious |= _scalar(view, node.input[3]) if len(node.input) > 3 else set()
            thresholds |= {value for value in (_scalar(view, node.input[4]) if len(node.input) > 4 else ()) if value}
    thresholds = {value for value in thresholds if 0 < value < 1}
    return GraphPostprocessing(
        base_anchors=_read_base_anchors(view, heads),
        score_threshold=thresholds.pop() if len(thresholds) == 1 else None,
        nms_iou_threshold=ious.pop() if len(ious) == 1 else None,
        size_decoding=_read_size_decoding(view, view.descendants(heads.deltas.tensor_names)),
    )


def _scalar(view: GraphView, name: str) -> set[float]:
    value = view.constant(name) if name else None
    return {float(f"{float(value.reshape(-1)[0]):.7g}")} if value is not None and value.size == 1 else set()


def _read_base_anchors(view: GraphView, heads: HeadPair) -> tuple[BaseAnchors, ...] | None:
    """Finds one constant of A boxes around a common center for each level, smallest level first."""
    found: dict[bytes, npt.NDArray[np.float64]] = {}
    names = [*view.initializers, *(node.output[0] for node in view.nodes if node.op_type == "Constant")]
    network = {name for index in view.ancestors(heads.tensor_names) for name in view.inputs_of(index)}
    for name in names:
        if name in network:
            continue
        values = view.constant(name)
        if values is None or values.size != heads.anchors * 4 or values.shape[-1] != 4 or values.shape[-2:-1] == (1,):
            continue
        boxes = values.reshape(-1, 4).astype(np.float64)
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        if (boxes[:, 2:] > boxes[:, :2]).all() and (np.ptp(centers, axis=0) <= 1).all():
            found.setdefault(boxes.tobytes(), boxes)
    if len(found) != len(heads.deltas.tensors):
        return None
    ordered = sorted(found.values(), key=lambda boxes: float((boxes[:, 2:] - boxes[:, :2]).max()))
    return tuple(tuple((box[0], box[1], box[2], box[3]) for box in boxes.tolist()) for boxes in ordered)


def _read_size_decoding(view: GraphView, after_deltas: Collection[int]) -> SizeDecoding:
    """Follows the graph back from each Exp, through operators that move, clamp and scale values."""
    clamp_min = clamp_max = None
    factor = 1.0
    for tensor in [view.nodes[i].input[0] for i in sorted(after_deltas) if view.nodes[i].op_type == "Exp"]:
        current: str | None = tensor
        own_factor = 1.0
        while current in view.producer and view.producer[current] in after_deltas:
            index = view.producer[current]
            node = view.nodes[index]
            constants: list[Any] = [view.constant(name) if name else None for name in node.input]
            numbers = [float(c.reshape(-1)[-1]) for c in constants if c is not None and c.size in (1, 2, 4)]
            if node.op_type in ("Clip", "Min", "Max"):
                clamp_max = next((number for number in numbers if abs(number - _CLAMP) < 1e-3), clamp_max)
                clamp_min = next((number for number in numbers if abs(number + _CLAMP) < 1e-3), clamp_min)
            elif node.op_type in ("Mul", "Div") and numbers:
                own_factor *= numbers[0] if node.op_type == "Mul" else 1 / numbers[0] if numbers[0] else 1.0
            elif node.op_type not in _PASSED:
                break
            current = view.pixel_input(index)
        factor = own_factor if own_factor != 1.0 else factor
    return SizeDecoding(factor, clamp_min, clamp_max)
