"""From head outputs to detections: decode and suppression in csrc, then scores and original pixels in NumPy.

Decode and suppression are the CPU's here, the GPU's in backends/_gpu_lane.py; what comes after them is the same code
for both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk import _native
from retinasdk._call_options import Thresholds
from retinasdk.backends import HeadOutputs
from retinasdk.detections import Detections
from retinasdk.errors import ModelError
from retinasdk.preprocess import Transform
from retinasdk.spec import ModelSpec
from retinasdk.suppression import AS_FRAMEWORK, Suppression

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True)
class Candidates:
    """Decoded, not yet suppressed, for N images with room for C candidates each; host.

    boxes (N, C, 4) float32 xyxy in network-input pixels; logits (N, C) float32; class_ids (N, C) int32; counts (N,)
    int32. Only the first counts[i] of image i mean anything: level by level, best first inside a level.
    """

    boxes: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Kept:
    """What NMS left of one image, best first; host.

    boxes (n, 4) float32 xyxy in network-input pixels; scores (n,) float32, 0 to 1; class_ids (n,) int32.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int32]


def logit(score: float) -> float:
    """Inverse of the sigmoid: the logit above which scores are above `score`."""
    if score <= 0.0:
        return -math.inf
    return math.log(score) - math.log1p(-score) if score < 1.0 else math.inf


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


def lowest_threshold(score_threshold: Thresholds, class_ids: Sequence[int]) -> float:
    """Of the classes that are asked for; empty: of all."""
    if not isinstance(score_threshold, tuple):
        return score_threshold
    return min(score_threshold[index] for index in class_ids or range(len(score_threshold)))


def logit_thresholds(score_thresholds: Sequence[float]) -> npt.NDArray[np.float32]:
    """(K,) float32: the logits of a score for each class."""
    return np.array([logit(score) for score in score_thresholds], dtype=np.float32)


def each_class(score_threshold: Thresholds, spec: ModelSpec) -> tuple[float, ...]:
    """A score for each class."""
    return score_threshold if isinstance(score_threshold, tuple) else (score_threshold,) * len(spec.labels)


def ignored_regions(ignore: npt.NDArray[np.float32], transforms: Sequence[Transform]) -> npt.NDArray[np.float32]:
    """(N, R, 4) float32 in network-input pixels of regions (R, 4) in pixels of each original image."""
    return np.stack([transform.to_network(ignore) for transform in transforms])


def decode_rules(spec: ModelSpec) -> dict[str, Any]:
    """What the spec alone says of decoding, as arguments that both devices take."""
    coder = spec.box_coder
    return {
        "top_k": spec.top_k,
        "coder_kind": coder.kind,
        "coder_weights": coder.weights,
        "coder_means": coder.means,
        "coder_clamp_max": math.inf if coder.clamp_max is None else coder.clamp_max,
        "coder_clamp_min": -math.inf if coder.clamp_min is None else coder.clamp_min,
        "plus_one": spec.plus_one,
        "or_equal": spec.score_comparison == ">=",
        "drop_empty": spec.drop_empty == "before_nms",
    }


def nms_rules(spec: ModelSpec) -> dict[str, Any]:
    """What the spec alone says of NMS, but for how many are kept, as arguments that both devices take."""
    return AS_FRAMEWORK.op(spec)[1]


def level_strides(
    shapes: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], spec: ModelSpec, padded: tuple[int, int]
) -> list[tuple[float, float]]:
    """(y, x) stride of each level for a network input of (height, width) `padded`.

    shapes: of each level's logits and deltas. Raises `ModelError` where they do not fit the spec.
    """
    strides = []
    for level, (logits, deltas) in zip(spec.levels, shapes, strict=True):
        rows, columns = logits[2:]
        if logits[1] != spec.anchors_per_cell * len(spec.labels):
            raise ModelError(
                f"output {level.logits} must have {spec.anchors_per_cell} anchors x {len(spec.labels)} classes = "
                f"{spec.anchors_per_cell * len(spec.labels)} channels, got {logits}; does the spec fit the model?"
            )
        wanted = (logits[0], spec.anchors_per_cell * 4, rows, columns)
        if deltas != wanted:
            raise ModelError(f"output {level.deltas} must be {wanted}, got {deltas}; does the spec fit the model?")
        if level.stride is None and (rows == 0 or columns == 0):
            raise ModelError(f"output {level.logits} has no cells: {logits}; use a larger input")
        strides.append(level.stride or (float(padded[0] // rows), float(padded[1] // columns)))
    return strides


def base_anchors(spec: ModelSpec) -> list[npt.NDArray[np.float32]]:
    """(A, 4) float32 of each level."""
    return [np.array(level.base_anchors, dtype=np.float32) for level in spec.levels]


def clip_sizes(transforms: Sequence[Transform], spec: ModelSpec) -> npt.NDArray[np.float32]:
    """(N, 2) float32: the largest y and x of each image's boxes before NMS; -1: no limit."""
    if spec.clip not in ("resized", "padded"):
        return np.full((len(transforms), 2), -1, dtype=np.float32)
    sizes = [transform.resized if spec.clip == "resized" else transform.padded for transform in transforms]
    return np.array([_clip_limit(size, spec) for size in sizes], dtype=np.float32)


def _clip_limit(size: tuple[int, int], spec: ModelSpec) -> tuple[int, int]:
    """The largest y and x of boxes that are clipped to (height, width) `size`."""
    return size if spec.clip_limit == "edge" else (size[0] - 1, size[1] - 1)


def nms(
    candidates: Candidates, *, iou_threshold: float, max_detections: int, **rules: Any
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Greedy NMS: kept candidate indices (N, M) int32, best first, -1 behind the last; and their counts (N,) int32.

    rules: or_equal, plus_one, across_classes, max_per_class, as in csrc/ops.h.
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
            height, width = _clip_limit(transform.original, spec)
            xyxy = np.clip(xyxy, 0, np.array([width, height, width, height], dtype=np.float32))
        reported = np.ones(len(xyxy), dtype=bool)
        if spec.drop_empty == "after_nms":
            reported = (xyxy[:, 2:] - xyxy[:, :2] + np.float32(spec.plus_one) > 0).all(axis=1)
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
