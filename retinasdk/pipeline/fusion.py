"""`fuse`: combines the detections of several models in one image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from retinasdk import _native
from retinasdk.detections import Detections


def fuse(
    detections: Sequence[Detections], *, weights: Sequence[float] | None = None, iou_threshold: float = 0.55
) -> Detections:
    """Combines the detections of several models in one image by weighted boxes fusion.

    The boxes are processed in descending order of score. A box joins the fused box of its class with which it has the
    highest IoU, if that IoU is above `iou_threshold`. Otherwise it starts a new fused box. The corners of a fused box
    are the mean of its members' corners, weighted by the scores. Its score is the mean of the members' scores, times
    min(members, models) / models, so an object that only one model finds gets a lower score.

    The method is from Solovyev et al., Weighted boxes fusion, 2021, arXiv:1910.13302.

    Args:
        detections: The detections of each model, for the same image and with the same labels.
        weights: How much each model is trusted: one number above 0 for each model. Only the ratios matter. Scores that
            exceed 1 after weighting become 1. Defaults to equal weights.
        iou_threshold: IoU above which two boxes are the same object, from 0 to 1.

    Returns:
        The fused detections, best first, with the labels of the input.

    Raises:
        TypeError: If `detections` is not a list of `Detections`.
        ValueError: If `detections` is empty or has rotated boxes, the labels differ, a weight is not valid, or
            `iou_threshold` is not from 0 to 1.

    Example:
        >>> import numpy as np, retinasdk
        >>> one = retinasdk.Detections(np.array([[10, 20, 30, 60]]), np.array([0.8]), np.array([0]), ("person",))
        >>> two = retinasdk.Detections(np.array([[10, 22, 30, 62]]), np.array([0.8]), np.array([0]), ("person",))
        >>> retinasdk.fuse([one, two]).xyxy.tolist()
        [[10.0, 21.0, 30.0, 61.0]]
    """
    if isinstance(detections, Detections) or not all(isinstance(item, Detections) for item in detections):
        raise TypeError("detections must be a list of Detections, one for each model: retinasdk.fuse([first, second])")
    if not detections:
        raise ValueError("detections must have one entry for each model, got an empty list")
    if any(item.xywhr is not None for item in detections):
        raise ValueError("rotated boxes cannot be fused; use Detections.join to put the detections side by side")
    labels = detections[0].labels
    if any(item.labels != labels for item in detections):
        raise ValueError("all detections must have the same labels in the same order, but they differ")
    shares = _shares(len(detections), weights)
    if not 0.0 <= iou_threshold <= 1.0:
        raise ValueError(f"iou_threshold must be from 0 to 1, got {iou_threshold!r}")
    total = sum(map(len, detections))
    scores = [item.scores * share for item, share in zip(detections, shares, strict=True)]
    boxes, fused_scores, class_ids, counts = _native.fuse(
        np.concatenate([item.xyxy for item in detections])[None],
        np.concatenate(scores)[None],
        np.concatenate([item.class_ids for item in detections])[None],
        np.array([total], np.int32),
        classes=len(labels),
        fused_score="mean",
        scale="probability",
        models=len(detections),
        iou_threshold=iou_threshold,
        max_detections=max(1, total),
    )
    count = counts[0]
    return Detections(boxes[0, :count], fused_scores[0, :count], class_ids[0, :count], labels)


def _shares(models: int, weights: Sequence[float] | None) -> list[np.float32]:
    """Returns the weights, scaled to a mean of 1."""
    if weights is None:
        return [np.float32(1)] * models
    if len(weights) != models or not all(0 < weight < np.inf for weight in weights):
        raise ValueError(f"weights must be {models} numbers above 0, one for each model; got {list(weights)}")
    return [np.float32(weight * models / sum(weights)) for weight in weights]
