"""`Suppression`: what becomes of boxes that overlap."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from retinasdk.spec import ModelSpec

# rule: the op of csrc/ops.h, and what it is told of the rule
_OPS: dict[str, tuple[str, dict[str, str]]] = {
    "greedy": ("nms", {}),
    "soft_linear": ("soft_nms", {"decay": "linear"}),
    "soft_gaussian": ("soft_nms", {"decay": "gaussian"}),
    "fusion": ("fuse", {}),
}
RULES = tuple(_OPS)
FUSED_SCORES = ("mean", "best")
_MAX_PER_IMAGE = 1 << 20


@dataclass(frozen=True)
class Suppression:
    """How overlapping boxes are dealt with; as it stands, as the model's framework does. Frozen, and checked when made.

    rule: "greedy": a box that overlaps a better one of its class is dropped.
        "soft_linear": its score falls instead, times 1 - IoU; "soft_gaussian": times exp(-IoU^2 / sigma), whatever the
        IoU (Bodla et al., Soft-NMS, 2017). A box is dropped when its score falls to the score threshold; the scores
        reported are the fallen ones.
        "fusion": boxes that overlap are averaged, weighted by their scores (Solovyev et al., Weighted boxes fusion,
        2021). For the boxes of several models: `retinasdk.fuse`.
    across_classes: boxes of different classes count as rivals, too.
    iou_threshold: above it boxes overlap, from 0 to 1; None: the spec's. The Gaussian rule does not ask it.
    sigma: of the Gaussian rule, above 0: the smaller, the more a score falls.
    fused_score: of a fused box: "mean" of its members', or their "best". Only boxes above the score threshold are
        members, so a mean depends on it: detect with a low one, such as 0.01, and filter what is found.
    max_per_class, max_detections: at most so many are reported of a class and of an image; None: no limit for a class,
        the spec's for an image. What is too much of a class suppresses nothing.

    Raises `ValueError`.
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
        _check(valid, "iou_threshold must be a number from 0 to 1, or None for the model's", self.iou_threshold)
        # Smaller ones are 0 in float32.
        valid = _is_number(self.sigma) and 1e-30 <= self.sigma <= 1e30
        _check(valid, "sigma must be a number above 0, such as 0.5", self.sigma)
        _check(self.fused_score in FUSED_SCORES, f"fused_score must be {' or '.join(FUSED_SCORES)}", self.fused_score)
        for name in ("max_per_class", "max_detections"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MAX_PER_IMAGE
            _check(value is None or whole, f"{name} must be an integer from 1 to {_MAX_PER_IMAGE}, or None", value)

    def op(self, spec: ModelSpec) -> tuple[str, dict[str, Any]]:
        """The op of csrc/ops.h, and its arguments but for arrays and for how many are kept; both devices take them."""
        op, rules = _OPS[self.rule]
        arguments: dict[str, Any] = {
            "iou_threshold": spec.nms_iou_threshold if self.iou_threshold is None else self.iou_threshold,
            "or_equal": spec.nms_comparison == ">=",
            "inclusive_pixels": spec.inclusive_pixels,
            "across_classes": self.across_classes,
            "max_per_class": self.max_per_class or _MAX_PER_IMAGE,
            **rules,
        }
        if op == "soft_nms":
            arguments["sigma"] = self.sigma
        if op == "fuse":
            arguments["fused_score"] = self.fused_score
        return op, arguments

    def room(self, spec: ModelSpec) -> int:
        """How many are reported of an image at the most."""
        return self.max_detections or spec.max_detections


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check(is_valid: bool, wanted: str, given: object) -> None:
    if not is_valid:
        raise ValueError(f"{wanted}; got {given!r}")


AS_FRAMEWORK = Suppression()  # nothing is changed
