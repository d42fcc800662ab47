"""Reads the post-processing rules that the graph contains after its heads: anchors, box decoding, thresholds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk.convert.flavours.preset import BaseAnchors
from retinasdk.convert.importing.graph import GraphView, inner_graphs, inner_nodes
from retinasdk.convert.importing.heads import HeadPair

if TYPE_CHECKING:
    import numpy.typing as npt

_CLAMP = float(np.log(1000 / 16))
# Operators between raw deltas and exp that change no value, or only the box center.
_PASSED = frozenset({"Slice", "Split", "Reshape", "Squeeze", "Unsqueeze", "Gather", "Identity", "Cast", "Concat"})
_PASSED |= {"Transpose", "Flatten", "Add"}
# Operators between a constant count, such as 1000, and the input of TopK or Slice that takes it: min(1000, n), or
# "1000 if 1000 < n else n". Through each of them the constant stays an upper bound.
_COUNTED = frozenset({"Min", "ReduceMin", "Concat", "Cast", "Unsqueeze", "Squeeze", "Reshape", "Identity", "Where"})
_COUNTED |= {"Clip"}
# Operators that move values and compute none.
_MOVED = frozenset({"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather", "Concat"})
_MOVED |= {"Identity", "Cast"}
_MAX_COUNT = 1 << 20  # Above this a count is written to mean "no limit".


@dataclass(frozen=True)
class SizeDecoding:
    """What the graph does to the size deltas dw and dh before exp: first multiplies, then clamps.

    Attributes:
        factor: What dw and dh are multiplied by.
        clamp_min: Lower bound; None if there is none.
        clamp_max: Upper bound; None if there is none.
        has_exp: Whether the graph decodes sizes with exp at all.
    """

    factor: float
    clamp_min: float | None
    clamp_max: float | None
    has_exp: bool


@dataclass(frozen=True)
class GraphPostprocessing:
    """Post-processing rules that were read in the graph. None means: not in the graph.

    Attributes:
        base_anchors: Constant boxes xyxy in pixels around cell (0, 0), one entry for each level, finest first.
        score_threshold: Minimum score of a candidate, 0 to 1.
        nms_iou_threshold: IoU above which NMS removes a box, 0 to 1.
        top_k: Maximum number of candidates of each level.
        top_k_of_levels: Maximum number of candidates of all levels together, after `top_k`.
        max_detections: Maximum number of detections in an image.
        max_per_class: Maximum number of detections of each class; None also where that is as many as NMS can find.
        size_decoding: What happens to dw and dh before exp.
        has_nms: Whether NMS follows the heads.
        has_best_class: Whether only the best class of each anchor becomes a candidate.
        several: Different values of a rule that should have one, by its name here; that rule is None.
    """

    base_anchors: tuple[BaseAnchors, ...] | None
    score_threshold: float | None
    nms_iou_threshold: float | None
    top_k: int | None
    top_k_of_levels: int | None
    max_detections: int | None
    max_per_class: int | None
    size_decoding: SizeDecoding
    has_nms: bool
    has_best_class: bool
    several: Mapping[str, Sequence[float]]


def read_postprocessing(view: GraphView, heads: HeadPair) -> GraphPostprocessing:
    """Reads the constants of the post-processing that follows the heads in the graph."""
    after_logits = view.descendants(heads.logits.tensor_names)
    suppressing = [index for index in sorted(after_logits) if _is_nms(view, index)]
    after_nms = view.descendants([name for index in suppressing for name in view.nodes[index].output])
    thresholds, ious, per_class = _read_thresholds(view, after_logits)
    top_k, top_k_of_levels = _read_top_k(view, heads, after_logits - after_nms)
    several = {"score_threshold": sorted(thresholds), "nms_iou_threshold": sorted(ious)}
    return GraphPostprocessing(
        base_anchors=_read_base_anchors(view, heads),
        score_threshold=_only(thresholds),
        nms_iou_threshold=_only(ious),
        top_k=top_k,
        top_k_of_levels=top_k_of_levels,
        max_detections=_read_max_detections(view, suppressing, after_nms),
        max_per_class=max((count for count in per_class if count < _MAX_COUNT), default=None),
        size_decoding=_read_size_decoding(view, view.descendants(heads.deltas.tensor_names)),
        has_nms=bool(suppressing),
        has_best_class=any(
            item.op_type == "ArgMax"
            for index in after_logits
            for item in (view.nodes[index], *inner_nodes(view.nodes[index]))
        ),
        several={name: values for name, values in several.items() if len(values) > 1},
    )


def _is_nms(view: GraphView, index: int) -> bool:
    """Whether a node is NMS: the standard operator, also inside a branch or a loop, or a plugin named like it."""
    node = view.nodes[index]
    return any(_is_nms_itself(item) for item in (node, *inner_nodes(node)))


def _is_nms_itself(node: Any) -> bool:
    return "NMS" in node.op_type or "NonMaxSuppression" in node.op_type


def _read_thresholds(view: GraphView, after_logits: Collection[int]) -> tuple[set[float], set[float], set[int]]:
    """Returns the score thresholds, the IoU thresholds and the limits per class that the graph contains."""
    thresholds: set[float] = set()
    of_scores: set[float] = set()  # Those that are compared with scores for certain, so that 0 counts, too.
    ious: set[float] = set()
    per_class: set[int] = set()
    for node in (item for index in after_logits for item in (view.nodes[index], *inner_nodes(view.nodes[index]))):
        if node.op_type in ("Greater", "GreaterOrEqual") and view.constant(node.input[0]) is None:
            are_scores = _are_scores(view, node.input[0])
            (of_scores if are_scores else thresholds).update(_scalar(view, node.input[1]))
        elif node.op_type in ("Less", "LessOrEqual") and view.constant(node.input[1]) is None:
            are_scores = _are_scores(view, node.input[1])
            (of_scores if are_scores else thresholds).update(_scalar(view, node.input[0]))
        elif node.op_type == "NonMaxSuppression":
            given = [*node.input, "", "", ""]
            per_class |= {int(value) for value in _scalar(view, given[2])}
            ious |= _scalar(view, given[3])
            thresholds |= _scalar(view, given[4])
        elif "NMS" in node.op_type:
            values = {item.name: item.f for item in node.attribute}
            thresholds |= {_rounded(values[name]) for name in ("score_threshold",) if name in values}
            ious |= {_rounded(values[name]) for name in ("iou_threshold",) if name in values}
    likely = {value for value in thresholds if 0 < value < 1}
    return {value for value in of_scores if 0 <= value < 1} or likely, ious, per_class


def _are_scores(view: GraphView, tensor: str) -> bool:
    """Whether a tensor holds the results of a sigmoid, moved and not changed."""
    while tensor in view.producer:
        node = view.nodes[view.producer[tensor]]
        if node.op_type == "Sigmoid":
            return True
        if node.op_type not in _MOVED:
            return False
        tensor = node.input[0]
    return False


def _only(values: Collection[float]) -> float | None:
    return next(iter(values)) if len(values) == 1 else None


def _rounded(value: float) -> float:
    """Rounds away the digits that float32 adds."""
    return float(f"{value:.7g}")


def _read_top_k(view: GraphView, heads: HeadPair, before_nms: Collection[int]) -> tuple[int | None, int | None]:
    """Returns how many candidates of one level, and then of all levels together, the TopK nodes keep.

    A graph of a fixed size has smaller counts on levels that have fewer anchors, so the largest is the limit. A TopK
    after those of the levels chooses among the candidates of all levels.
    """
    all_nodes = [index for index in before_nms if view.nodes[index].op_type == "TopK"]
    later = view.descendants([name for index in all_nodes for name in view.nodes[index].output])
    first = [index for index in all_nodes if index not in later]
    levels = {view.producer[name] for name in heads.logits.tensor_names}
    if len(first) == 1 and len(view.ancestors(view.nodes[first[0]].input[:1]) & levels) > 1:
        return None, None
    of_level, of_levels = (
        [count for index in indices for count in _counts(view, view.nodes[index].input[1])]
        for indices in (first, [index for index in all_nodes if index in later])
    )
    return max(of_level, default=None), min(of_levels, default=None)


def _read_max_detections(view: GraphView, suppressing: Sequence[int], after_nms: Collection[int]) -> int | None:
    """Returns the smallest constant count of the Slice and TopK nodes that shorten the list of detections."""
    found = []
    inner = [node for index in suppressing for graph in inner_graphs(view.nodes[index]) for node in _after_nms(graph)]
    for node in [view.nodes[index] for index in after_nms] + inner:
        if node.op_type == "TopK":
            found += _counts(view, node.input[1])
        elif node.op_type == "Slice" and len(node.input) > 2 and _is_slice_of_rows(view, node):
            found += _counts(view, node.input[2])
    return min(found, default=None)


def _after_nms(graph: Any) -> list[Any]:
    """Returns the TopK nodes of a branch or loop body that choose among what NMS has left there."""
    found: list[Any] = []
    left: set[str] = set()
    for node in graph.node:
        if _is_nms_itself(node) or left & set(node.input):
            left.update(node.output)
            found += [node] if node.op_type == "TopK" else []
    return found


def _is_slice_of_rows(view: GraphView, node: Any) -> bool:
    """Whether a Slice keeps the first entries of a list, and not some columns of a table."""
    start = view.constant(node.input[1])
    axes = view.constant(node.input[3]) if len(node.input) > 3 and node.input[3] else np.zeros(1)
    steps = view.constant(node.input[4]) if len(node.input) > 4 and node.input[4] else np.ones(1)
    if start is None or axes is None or steps is None or start.any() or axes.size != 1 or (steps != 1).any():
        return False
    shape, axis = view.shape(node.input[0]), int(axes.reshape(-1)[0])
    return axis == 0 if shape is None else len(shape) == 1 or axis % len(shape) == len(shape) - 2


def _counts(view: GraphView, tensor: str) -> list[int]:
    """Returns the smallest constant integer that bounds a count, as a list of one; an empty list if there is none."""
    found: list[int] = []
    pending = [tensor]
    while pending:
        name = pending.pop()
        values = view.constant(name)
        if values is not None:
            found += [int(value) for value in values.reshape(-1) if values.dtype.kind in "iu" and value > 0]
        elif (node := view.producing_node(name)) is not None and node.op_type in _COUNTED:
            skipped = node.op_type in ("Unsqueeze", "Squeeze", "Reshape", "ReduceMin")
            if node.op_type == "Clip":  # The input, and the upper bound if there is one.
                pending += [node.input[0], *node.input[2:]]
            else:
                pending += node.input[1:] if node.op_type == "Where" else node.input[:1] if skipped else node.input
    bound = min(found, default=_MAX_COUNT)
    return [bound] if bound < _MAX_COUNT else []


def _scalar(view: GraphView, name: str) -> set[float]:
    value = view.constant(name) if name else None
    return {_rounded(float(value.reshape(-1)[0]))} if value is not None and value.size == 1 else set()


def _read_base_anchors(view: GraphView, heads: HeadPair) -> tuple[BaseAnchors, ...] | None:
    """Finds one constant of A boxes around a common center for each level, smallest level first."""
    if heads.values != 4:
        return None
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
    exponents = [view.nodes[i].input[0] for i in sorted(after_deltas) if view.nodes[i].op_type == "Exp"]
    for tensor in exponents:
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
    return SizeDecoding(factor, clamp_min, clamp_max, bool(exponents))
