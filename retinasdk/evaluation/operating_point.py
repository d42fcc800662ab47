"""The score threshold that serves best, and what each image looks like at it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from retinasdk.evaluation.coco import CocoNumbers


@dataclass(frozen=True)
class OperatingPoint:
    """Detections with scores above `score`, at IoU 0.50: precision is the share of them that are right, recall the
    share of all true boxes that they find, f1 the harmonic mean of both."""

    score: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class ImageMistakes:
    """Counts of one image at an operating point. image: its index."""

    image: int
    missed: int
    false: int
    true: int


def best_f1(numbers: CocoNumbers) -> OperatingPoint | None:
    """Where F1, over the objects of all classes, is highest; of equal ones the highest score. None: no detections."""
    scores, total = numbers.scores, int(numbers.boxes_of_image.sum())
    # A threshold takes all detections of one score, or none.
    last = np.flatnonzero(np.append(scores[:-1] != scores[1:], True)) if scores.size else np.zeros(0, np.int64)
    if not last.size or not total:
        return None
    true = np.cumsum(numbers.is_true)[last]
    f1 = 2 * true / (last + 1 + total)
    best = int(np.argmax(f1))
    taken = int(last[best])
    # Halfway to the next score: a threshold that equals a score may fall on either side by its rounding.
    below = scores[taken + 1] if taken + 1 < scores.size else 0.0
    return OperatingPoint(
        score=float(scores[taken] + below) / 2,
        precision=float(true[best] / (taken + 1)),
        recall=float(true[best] / total),
        f1=float(f1[best]),
    )


def worst_images(numbers: CocoNumbers, score_threshold: float, most: int) -> list[ImageMistakes]:
    """The images with most missed and false boxes together, the worst first; those without any are left out."""
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
