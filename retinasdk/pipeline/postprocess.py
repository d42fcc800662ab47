"""From head outputs to detections: decode and suppression in csrc, then scores and original pixels in NumPy.

Decode and suppression are the CPU's here, the GPU's in tensorrt/lane.py; what comes after them is the same code
for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk import _native
from retinasdk.detections import Detections
from retinasdk.pipeline.call_options import Thresholds
from retinasdk.pipeline.preprocess import Transform
from retinasdk.pipeline.rules import (
    base_anchors,
    clip_limit,
    clip_sizes,
    decode_rules,
    each_class,
    ignored_regions,
    level_strides,
    logit,
    logit_thresholds,
    lowest_threshold,
)
from retinasdk.pipeline.suppression import AS_FRAMEWORK, Suppression
from retinasdk.pipeline.types import Candidates, HeadOutputs, Kept
from retinasdk.spec import ModelSpec

if TYPE_CHECKING:
    import numpy.typing as npt


def sigmoid(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """1 / (1 + exp(-x)), computed in float64 and rounded once."""
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
    """The best `spec.top_k` (anchor, class) pairs of each level with a score above `score_threshold`, as boxes.

    class_ids: only these classes, as if the network had no others; empty: all. ignore: (R, 4) float32 xyxy in pixels of
    the original image; a box of which more than half of the area lies in one of these regions is left out.
    Raises `ModelError` where the outputs do not fit the spec.
    """
    shapes = [(logits.shape, deltas.shape) for logits, deltas in zip(heads.logits, heads.deltas, strict=True)]
    return Candidates(
        *_native.decode(
            list(heads.logits),
            list(heads.deltas),
            base_anchors(spec),
            strides=level_strides(shapes, spec, transforms[0].padded),
            clip_sizes=clip_sizes(transforms, spec),
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
    """Greedy NMS: kept candidate indices (N, M) int32, best first, -1 behind the last; and their counts (N,) int32.

    rules: or_equal, inclusive_pixels, across_classes, max_per_class, as in csrc/ops.h.
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
    """What is left of each image by the spec's rules and `suppression`.

    score_threshold: a score that falls to it, by a soft rule, drops its box.
    """
    op, rules = suppression.op(spec)
    arrays = (candidates.boxes, candidates.logits, candidates.class_ids, candidates.counts)
    room = suppression.room(spec)
    if op == "fuse":
        boxes, means, class_ids, counts = _native.fuse(*arrays, classes=len(spec.labels), max_detections=room, **rules)
        return [Kept(boxes[i, :count], means[i, :count], class_ids[i, :count]) for i, count in enumerate(counts)]
    fallen = None
    if op == "soft_nms":
        thresholds = np.array(each_class(score_threshold, spec), dtype=np.float32)
        kept, counts, fallen = _native.soft_nms(*arrays, score_thresholds=thresholds, max_detections=room, **rules)
    else:
        kept, counts = _native.nms(*arrays, max_detections=room, **rules)
    results = []
    for image, count in enumerate(counts):
        best = kept[image, :count]
        scores = sigmoid(candidates.logits[image, best]) if fallen is None else fallen[image, :count]
        results.append(Kept(candidates.boxes[image, best], scores, candidates.class_ids[image, best]))
    return results


def to_original(kept: Sequence[Kept], spec: ModelSpec, transforms: Sequence[Transform]) -> list[Kept]:
    """The same in pixels of the original images; what the spec clips and drops after NMS is clipped and dropped."""
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


def to_scores(kept: Kept, spec: ModelSpec) -> Detections:
    """`Detections` of boxes that are in pixels of the original image."""
    return Detections(xyxy=kept.boxes, scores=kept.scores, class_ids=kept.class_ids, labels=spec.labels)


def to_detections(kept: Sequence[Kept], spec: ModelSpec, transforms: Sequence[Transform]) -> list[Detections]:
    """One `Detections` for each image, boxes in pixels of the original image."""
    return [to_scores(image, spec) for image in to_original(kept, spec, transforms)]


def postprocess(
    heads: HeadOutputs,
    spec: ModelSpec,
    transforms: Sequence[Transform],
    *,
    score_threshold: Thresholds,
    class_ids: Sequence[int] = (),
) -> list[Detections]:
    """One `Detections` for each image, best first, in pixels of the original image."""
    candidates = decode(heads, spec, transforms, score_threshold=score_threshold, class_ids=class_ids)
    return to_detections(suppress(candidates, spec, score_threshold=score_threshold), spec, transforms)
