"""Detections made by hand."""

from __future__ import annotations

from typing import Any

from pictures import LABELS

from retinasdk import Detections


def found(**changes: Any) -> Detections:
    arrays = {
        "xyxy": [[10, 20, 30, 60], [0, 0, 5.5, 5], [40, 10, 80, 50], [1, 2, 3, 4]],
        "scores": [0.9, 0.8, 0.5, 0.25],
        "class_ids": [0, 2, 0, 1],
        "labels": LABELS,
    }
    return Detections(**{**arrays, **changes})  # type: ignore[arg-type]
