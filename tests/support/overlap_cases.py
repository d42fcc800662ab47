"""Seeded inputs and hand-written edges of soft NMS and weighted boxes fusion. NumPy only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from cases import INF, NAN, NmsCase, crowd, nms_case

SQUARE = [0, 0, 10, 10]
HALF = [0, 0, 10, 5]  # IoU 0.5 with SQUARE
FAR = [50, 50, 60, 60]


@dataclass(frozen=True)
class OverlapCase:
    """Candidates of one image, and the rule: arguments of soft_nms() or of fuse() besides those of nms()."""

    candidates: NmsCase
    rule: dict[str, Any]

    def options(self) -> dict[str, Any]:
        return {**self.candidates.options(), **self.rule}

    def __str__(self) -> str:
        shown = [f"{name} {value}" for name, value in self.rule.items() if np.ndim(value) == 0]
        return ", ".join([self.candidates.name, *shown])


def _candidates() -> Iterator[NmsCase]:
    """What both rules are held against their oracles with; classes 0 to 4."""
    yield nms_case("no box", [])
    yield nms_case("one box", [SQUARE])
    yield nms_case("twins", [SQUARE, SQUARE])
    yield nms_case("twins of two classes", [SQUARE, SQUARE], class_ids=[1, 0])
    yield nms_case("twins of two classes, across", [SQUARE, SQUARE], class_ids=[1, 0], across_classes=True)
    yield nms_case("equal logits", [SQUARE, [1, 0, 11, 10], SQUARE], logits=[2, 2, 2])
    yield nms_case("touching", [SQUARE, [10, 0, 20, 10], [0, 10, 10, 20]], iou_threshold=0.0)
    for or_equal in (False, True):
        yield nms_case(f"at the threshold, or equal {or_equal}", [SQUARE, HALF], or_equal=or_equal)
    yield nms_case("without area", [[5, 5, 5, 5], [5, 5, 5, 5], [0, 5, 10, 5]], iou_threshold=0.0)
    yield nms_case("pixels", [[5, 5, 5, 5], [5, 5, 5, 5], [5, 5, 6, 5]], iou_threshold=0.0, inclusive_pixels=True)
    yield nms_case("reversed", [SQUARE, [10, 10, 0, 0], [8, 0, 2, 10]], iou_threshold=0.0)
    odd = [SQUARE, [NAN, 0, 10, 10], [0, -INF, 10, 10], [0, 0, INF, 10], [1, 0, 11, 10], [40, 0, 50, 10]]
    yield nms_case("NaN and infinity", odd, logits=[1, 9, 9, 9, NAN, INF])
    yield nms_case("logits that no score tells apart", [SQUARE, HALF, FAR], logits=[-INF, 60, 70])
    rivals = [SQUARE, [30, 0, 40, 10], [31, 0, 41, 10]]
    for maximum in (1, 2):
        some: dict[str, Any] = {"class_ids": [0, 0, 1], "across_classes": True, "max_per_class": maximum}
        yield nms_case(f"at most {maximum} a class, across", rivals, **some)
    for count in (63, 64, 65, 257):
        yield NmsCase(f"{count} boxes", *crowd(count, count, classes=2, extent=100))
    for across_classes in (False, True):
        for maximum in (1, 7, 1 << 20):
            rules: dict[str, Any] = {"across_classes": across_classes, "max_per_class": maximum}
            data = crowd(maximum % 100, 150, classes=5, extent=100)
            yield NmsCase(f"150 of 5 classes, {rules}", *data, iou_threshold=0.25, **rules)
            yield NmsCase(f"40 kept, {rules}", *data, max_detections=40, inclusive_pixels=across_classes, **rules)


def soft_cases() -> Iterator[OverlapCase]:
    """All candidates with every decay; a threshold for each class, of which one drops all that falls."""
    thresholds = np.array([0.05, 0.0, 0.3, 1.0, 0.5], np.float32)
    for candidates in _candidates():
        for decay, sigma in (("linear", 1.0), ("gaussian", 0.5), ("gaussian", 0.05), ("gaussian", 1e-6)):
            yield OverlapCase(candidates, {"decay": decay, "sigma": sigma, "score_thresholds": thresholds})


def fusion_cases() -> Iterator[OverlapCase]:
    """All candidates with every score."""
    for candidates in _candidates():
        for fused_score, models in (("mean", 1), ("best", 1), ("mean", 3)):
            yield OverlapCase(candidates, {"fused_score": fused_score, "models": models, "classes": 5})
