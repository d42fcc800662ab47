"""Post-processing on the CPU: from head outputs to detections.

Decoding and suppression call the C++ code in csrc; scores and the conversion to original pixels use NumPy. On the GPU,
tensorrt/lane.py decodes and suppresses; the later steps are the same code for both devices.

Note [Why a box is missing]
A pair of anchor and class is missing from the result for the first reason in this list that applies to it:

1. `decode`: its class was not requested, or is one of `spec.ignore_labels`.
2. `decode`: its score is not above the score threshold, or its logit is NaN.
3. `decode`: it is not among the best `spec.top_k` pairs or anchors of its feature level.
4. `decode`: a coordinate of its box is NaN or infinite.
5. `decode`: its box has no area after clipping, and `spec.drop_empty` is "before_nms".
6. `decode`: more than half of its box lies in one of the call's `ignore` regions.
7. `suppress`: its box overlaps a better one that suppresses it, lowers its score to the threshold or absorbs it.
8. `suppress`: there are more boxes than `Suppression.max_per_class`, or than `max_detections`.
9. `to_original`: its box has no area in the original image, and `spec.drop_empty` is "after_nms".

If the image is cut into tiles, retinasdk/tiling/tiled_detection.py drops more boxes when it merges the tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk import _native
from retinasdk.detections import Detections
from retinasdk.pipeline.call_options import Thresholds
from retinasdk.pipeline.preprocess import Transform
from retinasdk.pipeline.rotated import to_xywhr
from retinasdk.pipeline.rules import (
    base_anchors,
    clip_limit,
    clip_sizes,
    decode_rules,
    detection_limit,
    each_class,
    ignored_regions,
    level_clips,
    level_strides,
    logit,
    logit_thresholds,
    lowest_threshold,
    suppression_op,
)
from retinasdk.pipeline.suppression import AS_FRAMEWORK, Suppression
from retinasdk.pipeline.types import Candidates, HeadOutputs, Kept
from retinasdk.spec import ModelSpec

if TYPE_CHECKING:
    import numpy.typing as npt


def sigmoid(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Returns 1 / (1 + exp(-x)) as float32. It is computed in float64 and rounded once."""
    with np.errstate(over="ignore"):
        return np.asarray(1.0 / (1.0 + np.exp(-logits.astype(np.float64))), dtype=np.float32)


def decode(
    heads: HeadOutputs,
    spec: ModelSpec,
    transforms: Sequence[Transform],
    *,
    score_threshold: Thresholds,
    class_ids: Sequence[int] = (),
    ignore: npt.NDArray[np.float32] | None = None,
) -> Candidates:
    """Decodes the best `spec.top_k` pairs or anchors of each level whose score is above the threshold.

    Args:
        heads: Raw head outputs of N images.
        spec: Spec of the model.
        transforms: One transform for each of the N images, all with the same padded size.
        score_threshold: Lowest confidence score, for all classes or for each class index.
        class_ids: Indices of the classes to decode, as if the network had no others. Empty: all classes.
        ignore: (R, 4) float32 xyxy regions in pixels of the original image. A box is dropped if more than half of its
            area lies in one of them.

    Returns:
        The decoded boxes, before suppression.

    Raises:
        ModelError: If the outputs do not fit the spec.
    """
    shapes = [(logits.shape, deltas.shape) for logits, deltas in zip(heads.logits, heads.deltas, strict=True)]
    strides = level_strides(shapes, spec, transforms[0].padded)
    return Candidates(
        *_native.decode(
            list(heads.logits),
            list(heads.deltas),
            base_anchors(spec),
            strides=strides,
            clip_sizes=clip_sizes(transforms, spec),
            level_clips=level_clips(shapes, strides, spec),
            logit_threshold=logit(lowest_threshold(score_threshold, class_ids)),
            class_thresholds=logit_thresholds(score_threshold) if isinstance(score_threshold, tuple) else None,
            class_ids=list(class_ids),
            ignored=None if ignore is None else ignored_regions(ignore, transforms),
            **decode_rules(spec),
        )
    )


def nms(
    candidates: Candidates, *, iou_threshold: float, max_detections: int, **rules: Any
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Applies greedy NMS to the candidates of N images.

    Args:
        candidates: The decoded boxes.
        iou_threshold: IoU above which two boxes overlap, from 0 to 1.
        max_detections: Maximum number of boxes to keep for each image.
        **rules: `or_equal`, `inclusive_pixels`, `across_classes` and `max_per_class`, as in
            csrc/include/retinasdk/ops.h.

    Returns:
        Indices of the kept candidates, (N, M) int32, best first and padded with -1, and their counts, (N,) int32.
    """
    arrays = (candidates.boxes, candidates.logits, candidates.class_ids, candidates.counts)
    return _native.nms(*arrays, iou_threshold=iou_threshold, max_detections=max_detections, **rules)


def suppress(
    candidates: Candidates,
    spec: ModelSpec,
    suppression: Suppression = AS_FRAMEWORK,
    *,
    score_threshold: Thresholds = 0.0,
) -> list[Kept]:
    """Resolves overlapping boxes of each image, by the rules of the spec and of `suppression`.

    Args:
        candidates: The decoded boxes of N images.
        spec: Spec of the model.
        suppression: How overlapping boxes are resolved.
        score_threshold: Used by the soft rules: a box is dropped when its score falls to this threshold.

    Returns:
        The boxes that remain, one `Kept` for each image.
    """
    op, rules = suppression_op(suppression, spec)
    arrays = (candidates.boxes, candidates.logits, candidates.class_ids, candidates.counts)
    limit = detection_limit(suppression, spec)
    if op == "fuse":
        boxes, means, class_ids, counts = _native.fuse(*arrays, classes=len(spec.labels), max_detections=limit, **rules)
        return [Kept(boxes[i, :count], means[i, :count], class_ids[i, :count]) for i, count in enumerate(counts)]
    decayed = None
    if op == "soft_nms":
        thresholds = np.array(each_class(score_threshold, spec), dtype=np.float32)
        kept, counts, decayed = _native.soft_nms(*arrays, score_thresholds=thresholds, max_detections=limit, **rules)
    else:
        kept, counts = getattr(_native, op)(*arrays, max_detections=limit, **rules)
    results = []
    for image, count in enumerate(counts):
        best = kept[image, :count]
        scores = sigmoid(candidates.logits[image, best]) if decayed is None else decayed[image, :count]
        results.append(Kept(candidates.boxes[image, best], scores, candidates.class_ids[image, best]))
    return results


def to_original(kept: Sequence[Kept], spec: ModelSpec, transforms: Sequence[Transform]) -> list[Kept]:
    """Converts boxes to pixels of the original images, and applies the clipping and dropping that follow NMS.

    Args:
        kept: The boxes of each image, in pixels of the network input.
        spec: Spec of the model. `clip` "original" and `drop_empty` "after_nms" are applied here.
        transforms: One transform for each image.

    Returns:
        The boxes of each image, in pixels of the original image. Rotated boxes are (n, 5) from here on: center x,
        center y, width, height and angle.
    """
    if spec.is_rotated:
        return [
            Kept(to_xywhr(image.boxes, transform), image.scores, image.class_ids)
            for image, transform in zip(kept, transforms, strict=True)
        ]
    results = []
    for image, transform in zip(kept, transforms, strict=True):
        xyxy = transform.to_original(image.boxes)
        if spec.clip == "original":
            height, width = clip_limit(transform.original, spec)
            xyxy = np.clip(xyxy, 0, np.array([width, height, width, height], dtype=np.float32))
        reported = np.ones(len(xyxy), dtype=bool)
        if spec.drop_empty == "after_nms":
            reported = (xyxy[:, 2:] - xyxy[:, :2] + np.float32(spec.inclusive_pixels) > 0).all(axis=1)
        results.append(Kept(xyxy[reported], image.scores[reported], image.class_ids[reported]))
    return results


def as_detections(kept: Kept, spec: ModelSpec) -> Detections:
    """Returns boxes that are in pixels of the original image as `Detections` with the labels of the spec."""
    if spec.is_rotated:
        return Detections.rotated(kept.boxes, kept.scores, kept.class_ids, spec.labels)
    return Detections(xyxy=kept.boxes, scores=kept.scores, class_ids=kept.class_ids, labels=spec.labels)


def to_detections(kept: Sequence[Kept], spec: ModelSpec, transforms: Sequence[Transform]) -> list[Detections]:
    """Converts boxes in network-input pixels to one `Detections` for each image, in pixels of the original image."""
    return [as_detections(image, spec) for image in to_original(kept, spec, transforms)]


def postprocess(
    heads: HeadOutputs,
    spec: ModelSpec,
    transforms: Sequence[Transform],
    *,
    score_threshold: Thresholds,
    class_ids: Sequence[int] = (),
) -> list[Detections]:
    """Decodes and suppresses head outputs by the rules of the spec alone.

    Args:
        heads: Raw head outputs of N images.
        spec: Spec of the model.
        transforms: One transform for each of the N images, all with the same padded size.
        score_threshold: Lowest confidence score, for all classes or for each class index.
        class_ids: Indices of the classes to detect. Empty: all classes.

    Returns:
        One `Detections` for each image, best first, in pixels of the original image.

    Raises:
        ModelError: If the outputs do not fit the spec.
    """
    candidates = decode(heads, spec, transforms, score_threshold=score_threshold, class_ids=class_ids)
    return to_detections(suppress(candidates, spec, score_threshold=score_threshold), spec, transforms)
