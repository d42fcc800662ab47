"""What an evaluation found: average precision by class and size, and the best score threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from retinasdk.evaluation.operating_point import OperatingPoint


@dataclass(frozen=True)
class ClassResult:
    """AP and AP50 of one class (None where there is nothing to find), and its ground-truth boxes without crowds."""

    AP: float | None
    AP50: float | None
    boxes: int


@dataclass(frozen=True)
class SizeResult:
    """AP of one class on objects of one size (None where there are none), and how many they are, without crowds."""

    AP: float | None
    boxes: int


@dataclass(frozen=True)
class Evaluation:
    """metrics: the 12 COCO numbers by the names in `METRICS`, None where undefined; per_class: by the model's labels;
    left_out: categories of the annotations that the model does not know; images: how many were scored;
    per_class_and_size: by label, then "small" (below 32 x 32 pixels), "medium" (up to 96 x 96), "large";
    best_f1: the score threshold with the best balance of false and missed boxes, None without any detection."""

    metrics: dict[str, float | None]
    per_class: dict[str, ClassResult]
    left_out: tuple[str, ...]
    images: int
    per_class_and_size: dict[str, dict[str, SizeResult]]
    best_f1: OperatingPoint | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the metrics at the top, then the other fields by their names."""
        sizes = {
            name: {size: vars(result).copy() for size, result in results.items()}
            for name, results in self.per_class_and_size.items()
        }
        return {
            **self.metrics,
            "per_class": {name: vars(result).copy() for name, result in self.per_class.items()},
            "left_out": list(self.left_out),
            "images": self.images,
            "per_class_and_size": sizes,
            "best_f1": None if self.best_f1 is None else vars(self.best_f1).copy(),
        }
