"""The oracle of soft NMS and weighted boxes fusion: float64 NumPy, from the prose of csrc/ops.h and the two papers.

Where the contract rounds to float32 (an IoU, a weight, a score after each step), so does the oracle: of boxes with
whole coordinates both then decide alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from reference import Array, iou, sigmoid

NO_LIMIT = 1 << 20


def single(values: Any) -> Any:
    """Rounded to float32, as float64."""
    with np.errstate(over="ignore"):
        return np.asarray(values, np.float64).astype(np.float32).astype(np.float64)


def soft_nms(
    boxes: npt.NDArray[np.floating],
    logits: npt.NDArray[np.floating],
    class_ids: npt.NDArray[np.integer],
    *,
    score_thresholds: npt.NDArray[np.floating],
    decay: str,
    sigma: float,
    iou_threshold: float,
    max_detections: int,
    or_equal: bool = False,
    inclusive_pixels: bool = False,
    across_classes: bool = False,
    max_per_class: int = NO_LIMIT,
) -> tuple[list[int], list[float]]:
    """Bodla et al., "Soft-NMS", 2017: (indices, fallen scores), best first."""
    boxes, scores = boxes.astype(np.float64), single(sigmoid(logits))
    sigma, iou_threshold = float(np.float32(sigma)), float(np.float32(iou_threshold))
    left = [i for i in range(len(boxes)) if np.isfinite(boxes[i]).all() and not np.isnan(logits[i])]
    kept: list[int] = []
    while left and len(kept) < max_detections:
        best = min(left, key=lambda i: (-scores[i], i))
        left.remove(best)
        if sum(class_ids[i] == class_ids[best] for i in kept) == max_per_class:
            continue
        kept.append(best)
        rivals = [i for i in left if across_classes or class_ids[i] == class_ids[best]]
        for i, overlap in zip(
            rivals, single(iou(boxes[best], boxes[rivals], inclusive_pixels=inclusive_pixels)), strict=True
        ):
            if decay == "gaussian":
                weight = single(np.exp(-(overlap**2) / sigma))
            else:
                near = overlap >= iou_threshold if or_equal else overlap > iou_threshold
                weight = single(1 - overlap) if near else 1.0
            before, scores[i] = scores[i], single(scores[i] * weight)
            if scores[i] < before and not scores[i] > np.float32(score_thresholds[class_ids[i]]):
                left.remove(i)
    return kept, [float(scores[i]) for i in kept]


@dataclass(frozen=True)
class Fused:
    """boxes (n, 4), scores (n,), class_ids (n,), best first.

    margin: how far the closest decision was from falling otherwise, as a difference of IoUs or of scores.
    """

    boxes: Array
    scores: Array
    class_ids: npt.NDArray[np.int64]
    margin: float


def fuse(
    boxes: npt.NDArray[np.floating],
    scores: npt.NDArray[np.floating],
    class_ids: npt.NDArray[np.integer],
    *,
    fused_score: str,
    models: int = 1,
    iou_threshold: float,
    max_detections: int,
    or_equal: bool = False,
    inclusive_pixels: bool = False,
    across_classes: bool = False,
    max_per_class: int = NO_LIMIT,
) -> Fused:
    """Solovyev et al., "Weighted boxes fusion", 2021."""
    boxes, scores = boxes.astype(np.float64), single(scores)
    iou_threshold = float(np.float32(iou_threshold))
    usable = [i for i in range(len(boxes)) if np.isfinite(boxes[i]).all() and np.isfinite(scores[i]) and scores[i] > 0]
    clusters: list[list[int]] = []  # of members, the founder first
    means: list[Array] = []
    margin = np.inf
    for i in sorted(usable, key=lambda i: (-scores[i], i)):
        mine = [k for k, (founder, *_) in enumerate(clusters) if across_classes or class_ids[founder] == class_ids[i]]
        overlaps = iou(boxes[i], np.array([means[k] for k in mine]).reshape(-1, 4), inclusive_pixels=inclusive_pixels)
        nearest = sorted(overlaps, reverse=True)[:2]
        margin = min([margin, *np.abs(np.array(nearest) - iou_threshold)])
        if len(nearest) == 2 and nearest[0] > iou_threshold:
            margin = min(margin, nearest[0] - nearest[1])
        if mine and (max(overlaps) > iou_threshold or (or_equal and max(overlaps) == iou_threshold)):
            k = mine[int(np.argmax(overlaps))]
            clusters[k].append(i)
            means[k] = single(np.average(boxes[clusters[k]], axis=0, weights=scores[clusters[k]]))
        else:
            clusters.append([i])
            means.append(boxes[i])

    def score_of(members: list[int]) -> float:
        score = scores[members].mean() if fused_score == "mean" else scores[members].max()
        return min(1.0, float(score) * min(len(members), models) / models)

    fused = [score_of(members) for members in clusters]
    order = sorted(range(len(clusters)), key=lambda k: (-single(fused[k]), k))
    gaps = -np.diff([fused[k] for k in order])
    margin = min([margin, *gaps[gaps > 0]])  # equal scores are so in the SDK, too
    kept: list[int] = []
    for k in order:
        founder = clusters[k][0]
        if sum(class_ids[clusters[j][0]] == class_ids[founder] for j in kept) < max_per_class:
            kept.append(k)
    kept = kept[:max_detections]
    return Fused(
        np.array([means[k] for k in kept]).reshape(-1, 4),
        np.array([fused[k] for k in kept]),
        np.array([class_ids[clusters[k][0]] for k in kept], dtype=np.int64),
        float(margin),
    )
