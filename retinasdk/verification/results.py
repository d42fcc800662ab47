"""Results of `verify`: the differences found, the tolerances, and whether they are met."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tolerance:
    """How much two backends may differ and still count as the same model.

    Attributes:
        element: An element of a tensor is beyond the tolerance if it differs by more than this fraction of the
            tensor's spread (the standard deviation of the reference tensor).
        share: Fraction of a tensor's elements that may be beyond, 0 to 1.
        iou: Two boxes of a class count as the same object from this IoU on.
        score: Largest allowed difference of their scores.
        unmatched: Fraction of all boxes that may have no counterpart. The count is rounded down.
    """

    element: float
    share: float
    iou: float
    score: float
    unmatched: float


# Against float32 on the CPU. "fp32" allows for other orders of summation. The bundled models in float16, run by ONNX
# Runtime, need half of "fp16". "int8" is a judgment: a network that needs more detects different objects.
TOLERANCES = {
    "fp32": Tolerance(element=0.001, share=0.0001, iou=0.99, score=0.001, unmatched=0.0),
    "fp16": Tolerance(element=0.05, share=0.01, iou=0.9, score=0.01, unmatched=0.01),
    "int8": Tolerance(element=0.5, share=0.05, iou=0.75, score=0.15, unmatched=0.1),
}


@dataclass(frozen=True)
class TensorDifference:
    """How one head output differs, over all images.

    Attributes:
        level: Feature level, from 0 for the finest.
        head: "logits" or "deltas".
        name: Name of the reference's output.
        max_abs: Largest absolute difference of finite elements.
        max_relative: Largest difference of finite elements, as a fraction of the tensor's spread.
        share_beyond: Fraction of the elements beyond `Tolerance.element`, 0 to 1.
        not_finite: Number of elements that are NaN or infinite in only one of the two.
    """

    level: int
    head: str
    name: str
    max_abs: float
    max_relative: float
    share_beyond: float
    not_finite: int


@dataclass(frozen=True)
class ImageDifference:
    """How the detections of one image differ, above the score threshold.

    Attributes:
        image: Path of the image, or its number.
        reference: Number of boxes of the reference.
        tested: Number of boxes of the tested backend.
        missing: Boxes that only the reference has.
        extra: Boxes that only the tested backend has.
        suppressed_in_one: Boxes that both networks score, and that NMS suppressed in one because a neighbor has nearly
            the same score. This is no error: `postprocess` shows whether the rules are equal.
        max_score: Largest difference of the scores of a pair.
        max_pixels: Largest difference of the edges of a pair, in pixels of the image.
        postprocess: "equal" if preprocessing, decoding and NMS of the tested backend give bit for bit what the CPU
            gives from the same head outputs, else "different". "undecided" if its head outputs vary from run to run.
    """

    image: str
    reference: int
    tested: int
    missing: int
    extra: int
    suppressed_in_one: int
    max_score: float
    max_pixels: float
    postprocess: str


@dataclass(frozen=True)
class Verification:
    """The result of `retinasdk.verify`.

    Attributes:
        reference: File and device of the reference.
        tested: File and device of the tested backend.
        precision: Precision whose tolerance applies: "fp32", "fp16" or "int8".
        tolerance: The tolerance.
        score_threshold: Boxes with scores above it are compared.
        tensors: Differences of each head output.
        images: Differences of each image's detections.
    """

    reference: str
    tested: str
    precision: str
    tolerance: Tolerance
    score_threshold: float
    tensors: tuple[TensorDifference, ...]
    images: tuple[ImageDifference, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return not self.failures

    @property
    def failures(self) -> tuple[str, ...]:
        """One line for each check that failed."""
        lines = [self._why_beyond(item) for item in self.tensors if not self.is_within(item)]
        unmatched = self.total("missing") + self.total("extra")
        if unmatched > self.allowed_unmatched:
            most = max(self.images, key=lambda item: item.missing + item.extra)
            lines.append(
                f"boxes: {unmatched} without a counterpart, {self.allowed_unmatched} allowed; most in {most.image}"
            )
        if self.images:
            most = max(self.images, key=lambda item: item.max_score)
            if most.max_score > self.tolerance.score:
                lines.append(
                    f"scores: one differs by {most.max_score:.3f}, {self.tolerance.score:g} allowed; in {most.image}"
                )
        unequal = [item.image for item in self.images if item.postprocess == "different"]
        if unequal:
            lines.append(
                f"decoding and NMS: results from the same head outputs differ from the CPU's in {len(unequal)} of "
                f"{len(self.images)} images, first in {unequal[0]}"
            )
        return tuple(lines)

    def is_within(self, item: TensorDifference) -> bool:
        """Whether a tensor's difference is within the tolerance."""
        return item.share_beyond <= self.tolerance.share and item.not_finite == 0

    def _why_beyond(self, item: TensorDifference) -> str:
        where = f"level {item.level}, {item.head} ({item.name})"
        if item.not_finite:
            return f"{where}: {item.not_finite} elements are NaN or infinite in only one of the two"
        return (
            f"{where}: {item.share_beyond:.2%} of the elements differ by more than {self.tolerance.element:.1%} of the "
            f"spread, {self.tolerance.share:.2%} allowed; the largest difference is {item.max_abs:.3g}"
        )

    @property
    def allowed_unmatched(self) -> int:
        """Number of boxes that may have no counterpart."""
        return int(self.tolerance.unmatched * (self.total("reference") + self.total("tested")))

    def total(self, name: str) -> int:
        """Sums a count of `ImageDifference`, given by its name, over all images."""
        return sum(getattr(item, name) for item in self.images)

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as a dictionary for JSON, with `passed` and `failures`."""
        return {"passed": self.passed, "failures": list(self.failures), **dataclasses.asdict(self)}
