"""`Suppression`: how overlapping boxes are resolved."""

from __future__ import annotations

import math
from dataclasses import dataclass

RULES = ("greedy", "soft_linear", "soft_gaussian", "fusion")
FUSED_SCORES = ("mean", "best")
MAX_PER_IMAGE = 1 << 20


@dataclass(frozen=True)
class Suppression:
    """Describes how overlapping boxes are resolved. The defaults follow the framework that trained the model.

    Example:
        >>> import retinasdk
        >>> detector = retinasdk.Detector(suppression=retinasdk.Suppression("soft_gaussian", sigma=0.3))

    Attributes:
        rule: What happens to a box that overlaps a box of the same class with a higher score.

            - "greedy": The box is dropped (greedy NMS).
            - "soft_linear": If the IoU is above `iou_threshold`, the score is multiplied by 1 - IoU.
            - "soft_gaussian": The score is multiplied by exp(-IoU^2 / sigma), for every IoU.
            - "fusion": Boxes that overlap are averaged, weighted by their scores (weighted boxes fusion). To combine
              the boxes of several models, use `retinasdk.fuse`.

            With the two soft rules, a box is dropped when its score falls to the score threshold, and the reduced
            scores are reported. Sources: Bodla et al., Soft-NMS, 2017; Solovyev et al., Weighted boxes fusion, 2021.
        across_classes: True: boxes of different classes suppress each other too (class-agnostic NMS), as they always
            do where the model's spec has `nms_across_classes` (KerasHub).
        iou_threshold: IoU above which two boxes overlap, from 0 to 1. Defaults to the value of the model's spec. Not
            used by "soft_gaussian".
        sigma: Width of the Gaussian of "soft_gaussian", above 0. A smaller value reduces the scores more.
        fused_score: Score of a fused box: the "mean" or the "best" of the scores of its members. Only boxes above the
            score threshold are members, so the mean depends on the threshold: detect with a low one, such as 0.01, and
            filter the result.
        max_per_class: Maximum number of detections of each class in an image. Defaults to no limit. A box beyond the
            limit does not suppress other boxes.
        max_detections: Maximum number of detections in an image. Defaults to the value of the model's spec.

    Raises:
        ValueError: If a value is not valid.
    """

    rule: str = "greedy"
    across_classes: bool = False
    iou_threshold: float | None = None
    sigma: float = 0.5
    fused_score: str = "mean"
    max_per_class: int | None = None
    max_detections: int | None = None

    def __post_init__(self) -> None:
        _check(self.rule in RULES, f"rule must be one of {', '.join(RULES)}", self.rule)
        _check(isinstance(self.across_classes, bool), "across_classes must be True or False", self.across_classes)
        valid = self.iou_threshold is None or (_is_number(self.iou_threshold) and 0 <= self.iou_threshold <= 1)
        _check(
            valid,
            "iou_threshold must be a number from 0 to 1, or None for the value of the model's spec",
            self.iou_threshold,
        )
        # Smaller values become 0 in float32.
        valid = _is_number(self.sigma) and 1e-30 <= self.sigma <= 1e30
        _check(valid, "sigma must be a number above 0, such as 0.5", self.sigma)
        _check(self.fused_score in FUSED_SCORES, f"fused_score must be {' or '.join(FUSED_SCORES)}", self.fused_score)
        for name in ("max_per_class", "max_detections"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_PER_IMAGE
            _check(value is None or whole, f"{name} must be an integer from 1 to {MAX_PER_IMAGE}, or None", value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check(is_valid: bool, expected: str, given: object) -> None:
    if not is_valid:
        raise ValueError(f"{expected}; got {given!r}")


# The rules of the framework that trained the model.
AS_FRAMEWORK = Suppression()
