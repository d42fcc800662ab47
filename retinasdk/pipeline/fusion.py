"""`fuse`: the detections of several models in one image, as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from retinasdk import _native
from retinasdk.detections import Detections


def fuse(
    detections: Sequence[Detections], *, weights: Sequence[float] | None = None, iou_threshold: float = 0.55
) -> Detections:
    """Weighted boxes fusion of what several models found in one image (Solovyev et al., 2021, arXiv:1910.13302).

    Going down the scores, a box joins the fused box of its class that it overlaps most, if by an IoU above
    `iou_threshold`, or begins a new one. Corners are averaged, weighted by the scores; the score is the members' mean,
    times min(members, models) / models, so that what one model alone found counts less.

    detections: one for each model, of one image and with the same labels.
    weights: how much each model is trusted, above 0; None: all alike. Only their ratios matter. A score that weights
        bring above 1 is 1.

    Returns the fused boxes, best first. Raises `TypeError` and `ValueError`.
    """
    if isinstance(detections, Detections) or not all(isinstance(item, Detections) for item in detections):
        raise TypeError("detections must be a list of Detections, one for each model")
    if not detections:
        raise ValueError("detections must have one entry for each model, got an empty list")
    labels = detections[0].labels
    if any(item.labels != labels for item in detections):
        raise ValueError("all detections must have the same labels in the same order, got different ones")
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
    """The weights, with a mean of 1."""
    if weights is None:
        return [np.float32(1)] * models
    if len(weights) != models or not all(0 < weight < np.inf for weight in weights):
        raise ValueError(f"weights must be {models} numbers above 0, one for each model; got {list(weights)}")
    return [np.float32(weight * models / sum(weights)) for weight in weights]
