"""Finds the best score threshold, and the images with most mistakes at it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from retinasdk.evaluation.coco import CocoNumbers


@dataclass(frozen=True)
class OperatingPoint:
    """How good detections with scores above a threshold are, at IoU 0.50.

    Attributes:
        score: The score threshold.
        precision: Share of the detections that match an object, 0 to 1.
        recall: Share of the objects that are found, 0 to 1.
        f1: Harmonic mean of precision and recall.
    """

    score: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class ImageMistakes:
    """Mistakes in one image at an operating point.

    Attributes:
        image: Index of the image.
        missed: Objects without a detection.
        false: Detections without an object.
        true: Detections that match an object.
    """

    image: int
    missed: int
    false: int
    true: int


def best_f1(numbers: CocoNumbers) -> OperatingPoint | None:
    """Finds the threshold with the highest F1 over the objects of all classes.

    Returns:
        The operating point; of equal ones, that of the highest score. None if there are no detections.
    """
    scores, total = numbers.scores, int(numbers.boxes_of_image.sum())
    # Detections of equal scores are on the same side of any threshold.
    last = np.flatnonzero(np.append(scores[:-1] != scores[1:], True)) if scores.size else np.zeros(0, np.int64)
    if not last.size or not total:
        return None
    true = np.cumsum(numbers.is_true)[last]
    f1 = 2 * true / (last + 1 + total)
    best = int(np.argmax(f1))
    taken = int(last[best])
    # Halfway to the next score: rounding would decide on which side of an equal threshold a score falls.
    below = scores[taken + 1] if taken + 1 < scores.size else 0.0
    return OperatingPoint(
        score=float(scores[taken] + below) / 2,
        precision=float(true[best] / (taken + 1)),
        recall=float(true[best] / total),
        f1=float(f1[best]),
    )


def worst_images(numbers: CocoNumbers, score_threshold: float, most: int) -> list[ImageMistakes]:
    """Returns the images with most missed and false boxes, worst first, without those that have none."""
    above = numbers.scores > score_threshold
    count = numbers.boxes_of_image.size
    true = np.bincount(numbers.image[above & numbers.is_true], minlength=count)
    false = np.bincount(numbers.image[above & ~numbers.is_true], minlength=count)
    missed = numbers.boxes_of_image - true
    order = np.argsort(-(missed + false), kind="stable")[:most]
    return [
        ImageMistakes(int(image), int(missed[image]), int(false[image]), int(true[image]))
        for image in order
        if missed[image] + false[image]
    ]
