"""Results of an evaluation: average precision by class and size, and the best score threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from retinasdk.evaluation.operating_point import OperatingPoint


@dataclass(frozen=True)
class ClassResult:
    """Average precision of one class.

    Attributes:
        AP: Average precision over IoU 0.50 to 0.95, 0 to 1. None if there is nothing to find.
        AP50: Average precision at IoU 0.50. None if there is nothing to find.
        boxes: Number of ground-truth boxes without crowds.
    """

    AP: float | None
    AP50: float | None
    boxes: int


@dataclass(frozen=True)
class SizeResult:
    """Average precision of one class on objects of one size.

    Attributes:
        AP: Average precision over IoU 0.50 to 0.95, 0 to 1. None if there are no such objects.
        boxes: Number of ground-truth boxes without crowds.
    """

    AP: float | None
    boxes: int


@dataclass(frozen=True)
class Evaluation:
    """The result of `retinasdk.evaluate`.

    Attributes:
        metrics: The 12 COCO metrics by name (AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl), 0 to 1.
            None if undefined.
        per_class: `ClassResult` by the model's label.
        left_out: Categories of the annotations that the model does not know. They are not scored.
        images: Number of images scored.
        per_class_and_size: `SizeResult` by label, then by size: "small" (below 32 x 32 pixels), "medium" (up to
            96 x 96), "large".
        best_f1: The score threshold with the best balance of false and missed boxes. None without any detection.
    """

    metrics: dict[str, float | None]
    per_class: dict[str, ClassResult]
    left_out: tuple[str, ...]
    images: int
    per_class_and_size: dict[str, dict[str, SizeResult]]
    best_f1: OperatingPoint | None

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as a dictionary for JSON: the metrics at the top level, then the other fields."""
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
