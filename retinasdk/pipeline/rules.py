"""Translates the spec and the options of a call to the arguments of both devices' decoding and suppression kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk.errors import ModelError
from retinasdk.pipeline.call_options import Thresholds
from retinasdk.pipeline.preprocess import Transform
from retinasdk.pipeline.suppression import MAX_PER_IMAGE, Suppression
from retinasdk.spec import ModelSpec

if TYPE_CHECKING:
    import numpy.typing as npt

# For each rule of `Suppression`: the function of csrc/include/retinasdk/ops.h, and the arguments that are specific to
# the rule.
_SUPPRESSION_OPS: dict[str, tuple[str, dict[str, str]]] = {
    "greedy": ("nms", {}),
    "soft_linear": ("soft_nms", {"decay": "linear"}),
    "soft_gaussian": ("soft_nms", {"decay": "gaussian"}),
    "fusion": ("fuse", {}),
}
# Where the half turn of angles begins, in radians.
_FIRST_ANGLES = {"le90": -math.pi / 2, "le135": -math.pi / 4}


def logit(score: float) -> float:
    """Returns the inverse of the sigmoid. It is -infinity for scores up to 0 and infinity for scores from 1."""
    if score <= 0.0:
        return -math.inf
    return math.log(score) - math.log1p(-score) if score < 1.0 else math.inf


def lowest_threshold(score_threshold: Thresholds, class_ids: Sequence[int]) -> float:
    """Returns the lowest threshold of the classes `class_ids`, or of all classes if `class_ids` is empty."""
    if not isinstance(score_threshold, tuple):
        return score_threshold
    return min(score_threshold[index] for index in class_ids or range(len(score_threshold)))


def logit_thresholds(score_thresholds: Sequence[float]) -> npt.NDArray[np.float32]:
    """Returns the logit of each class's score threshold, (K,) float32."""
    return np.array([logit(score) for score in score_thresholds], dtype=np.float32)


def each_class(score_threshold: Thresholds, spec: ModelSpec) -> tuple[float, ...]:
    """Returns one score threshold for each class of the spec."""
    return score_threshold if isinstance(score_threshold, tuple) else (score_threshold,) * len(spec.labels)


def ignored_regions(ignore: npt.NDArray[np.float32], transforms: Sequence[Transform]) -> npt.NDArray[np.float32]:
    """Converts regions to network-input pixels of each image.

    Args:
        ignore: (R, 4) float32 xyxy regions in pixels of the original images.
        transforms: One transform for each of N images.

    Returns:
        (N, R, 4) float32 xyxy. Regions that rounding has left without area come last: decoding stops at the first one.
    """
    converted = np.stack([transform.to_network(ignore) for transform in transforms])
    is_empty = (converted[..., 2:] <= converted[..., :2]).any(axis=-1)
    order = np.argsort(is_empty, axis=1, kind="stable")
    return np.take_along_axis(converted, order[..., None], axis=1)


def decode_rules(spec: ModelSpec) -> dict[str, Any]:
    """Returns the arguments of the decode functions that depend on the spec alone. They are equal on both devices."""
    coder = spec.box_coder
    return {
        "top_k": spec.top_k,
        "top_k_anchors": spec.top_k_unit == "anchor",
        "coder_kind": "center" if coder.is_rotated else coder.kind,
        "coder_weights": coder.weights[:4],
        "coder_means": coder.means[:4],
        "coder_clamp_max": math.inf if coder.clamp_max is None else coder.clamp_max,
        "coder_clamp_min": -math.inf if coder.clamp_min is None else coder.clamp_min,
        "inclusive_pixels": spec.inclusive_pixels,
        "or_equal": spec.score_comparison == ">=",
        "drop_empty": spec.drop_empty == "before_nms",
        "rotated": rotated_coder(spec) if spec.is_rotated else None,
    }


def rotated_coder(spec: ModelSpec) -> dict[str, Any]:
    """Returns the fields of RotatedCoder, see csrc/include/retinasdk/rotated_box_coder.h, for rotated boxes."""
    coder = spec.box_coder
    return {
        "coding": "delta" if coder.kind == "center_angle" else "sin_cos",
        "weights": (*coder.weights, 1.0)[:5],
        "means": (*coder.means, 0.0)[:5],
        "clamp_max": math.inf if coder.clamp_max is None else coder.clamp_max,
        "clamp_min": -math.inf if coder.clamp_min is None else coder.clamp_min,
        "angle_unit": 1.0 if coder.norm_factor is None else coder.norm_factor * math.pi,
        "limits_angle": coder.angle_version in _FIRST_ANGLES,
        "first_angle": _FIRST_ANGLES.get(coder.angle_version, 0.0),
        "swaps_edges": coder.edge_swap,
        "turns_offsets": coder.proj_xy,
        "inclusive_pixels": spec.inclusive_pixels,
    }


def suppression_op(suppression: Suppression, spec: ModelSpec) -> tuple[str, dict[str, Any]]:
    """Returns the function of csrc/include/retinasdk/ops.h that applies a suppression rule, and its arguments.

    Args:
        suppression: How overlapping boxes are resolved.
        spec: Spec of the model, for what `suppression` leaves to it.

    Returns:
        The name of the function, and its keyword arguments except the arrays and `max_detections`. They are equal on
        both devices.
    """
    op, rules = _SUPPRESSION_OPS[suppression.rule]
    if spec.is_rotated:
        return _rotated_suppression(suppression, spec)
    arguments: dict[str, Any] = {
        "iou_threshold": spec.nms_iou_threshold if suppression.iou_threshold is None else suppression.iou_threshold,
        "or_equal": spec.nms_comparison == ">=",
        "inclusive_pixels": spec.inclusive_pixels,
        "across_classes": suppresses_across_classes(suppression, spec),
        "max_per_class": suppression.max_per_class or spec.max_per_class or MAX_PER_IMAGE,
        **rules,
    }
    if op == "soft_nms":
        arguments["sigma"] = suppression.sigma
    if op == "fuse":
        arguments["fused_score"] = suppression.fused_score
    return op, arguments


def suppresses_across_classes(suppression: Suppression, spec: ModelSpec) -> bool:
    """Returns whether boxes of different classes suppress each other: if the caller asks for it or the spec says so."""
    return suppression.across_classes or spec.nms_across_classes


def check_suppression(suppression: Suppression, spec: ModelSpec) -> None:
    """Raises `ValueError` if the boxes of the model cannot be resolved by this rule."""
    if spec.is_rotated and suppression.rule != "greedy":
        raise ValueError(
            f"Suppression({suppression.rule!r}) does not work with rotated boxes; leave it out, or use "
            "Suppression('greedy') with iou_threshold, across_classes or max_per_class"
        )


def _rotated_suppression(suppression: Suppression, spec: ModelSpec) -> tuple[str, dict[str, Any]]:
    check_suppression(suppression, spec)
    return "rotated_nms", {
        "iou_threshold": spec.nms_iou_threshold if suppression.iou_threshold is None else suppression.iou_threshold,
        "or_equal": spec.nms_comparison == ">=",
        "across_classes": suppresses_across_classes(suppression, spec),
        "max_per_class": suppression.max_per_class or spec.max_per_class or MAX_PER_IMAGE,
        "shares_angle": spec.nms_angle == "lower_score",
    }


def detection_limit(suppression: Suppression, spec: ModelSpec) -> int:
    """Returns the maximum number of detections for each image."""
    return suppression.max_detections or spec.max_detections


def level_strides(
    shapes: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], spec: ModelSpec, padded: tuple[int, int]
) -> list[tuple[float, float]]:
    """Checks the shapes of the head outputs and returns the stride of each level.

    Args:
        shapes: Shapes of the logits and of the deltas of each level.
        spec: Spec of the model.
        padded: (height, width) of the network's input in pixels.

    Returns:
        The (y, x) stride of each level in pixels.

    Raises:
        ModelError: If the shapes do not fit the spec.
    """
    strides = []
    for level, (logits, deltas) in zip(spec.levels, shapes, strict=True):
        rows, columns = logits[2:]
        if logits[1] != spec.anchors_per_cell * len(spec.labels):
            raise ModelError(
                f"output {level.logits} must have {spec.anchors_per_cell} anchors x {len(spec.labels)} classes = "
                f"{spec.anchors_per_cell * len(spec.labels)} channels, got {logits}. The spec does not fit "
                "the model: convert the model again, so that both files are written together"
            )
        expected = (logits[0], spec.anchors_per_cell * spec.box_coder.deltas, rows, columns)
        if deltas != expected:
            raise ModelError(
                f"output {level.deltas} must have shape {expected}, got {deltas}. The spec does not fit the model: "
                "convert the model again, so that both files are written together"
            )
        if level.stride is None and (rows == 0 or columns == 0):
            raise ModelError(f"output {level.logits} has no cells, its shape is {logits}; use larger images")
        strides.append(level.stride or (float(padded[0] // rows), float(padded[1] // columns)))
    return strides


def level_clips(
    shapes: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], strides: Sequence[tuple[float, float]], spec: ModelSpec
) -> list[tuple[float, float]]:
    """Returns the largest (y, x) of the boxes of each level, for the clip rule "level"; nothing for other rules.

    Args:
        shapes: Shapes of the logits and of the deltas of each level.
        strides: The (y, x) stride of each level.
        spec: Spec of the model.
    """
    if spec.clip != "level":
        return []
    less = 0.0 if spec.clip_limit == "edge" else 1.0
    return [
        (logits[2] * stride[0] - less, logits[3] * stride[1] - less)
        for (logits, _), stride in zip(shapes, strides, strict=True)
    ]


def candidate_limit(spec: ModelSpec) -> int:
    """Returns the largest number of candidates of an image."""
    return len(spec.levels) * spec.top_k * (len(spec.labels) if spec.top_k_unit == "anchor" else 1)


def base_anchors(spec: ModelSpec) -> list[npt.NDArray[np.float32]]:
    """Returns the base anchors of each level, (A, 4) float32 xyxy around the center of a cell.

    For rotated boxes they are (A, 5): (center x, center y, width, height, angle).
    """
    return [np.array(level.base_anchors, dtype=np.float32) for level in spec.levels]


def clip_sizes(transforms: Sequence[Transform], spec: ModelSpec) -> npt.NDArray[np.float32]:
    """Returns the largest y and x of each image's boxes before NMS, (N, 2) float32. -1 means no limit."""
    if spec.clip not in ("resized", "padded"):
        return np.full((len(transforms), 2), -1, dtype=np.float32)
    sizes = [transform.resized if spec.clip == "resized" else transform.padded for transform in transforms]
    return np.array([clip_limit(size, spec) for size in sizes], dtype=np.float32)


def clip_limit(size: tuple[int, int], spec: ModelSpec) -> tuple[int, int]:
    """Returns the largest y and x of boxes that are clipped to (height, width) `size` in pixels."""
    return size if spec.clip_limit == "edge" else (size[0] - 1, size[1] - 1)
