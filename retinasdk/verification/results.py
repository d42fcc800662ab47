"""`Verification`: what `verify` found, what it tolerates, and whether that passes. Data, ready for JSON."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tolerance:
    """By how much two backends may differ and still be the same model.

    element: an element of a tensor is beyond where it differs by more than this part of the tensor's spread, which is
        the standard deviation of the reference's. share: part of a tensor's elements that may be beyond.
    iou: from this overlap on two boxes of a class are the same object. score: by which their scores may differ.
    unmatched: part of both's boxes that the other may not have; rounded down.
    """

    element: float
    share: float
    iou: float
    score: float
    unmatched: float


# Against float32 on the CPU. Other orders of summing need "fp32". The bundled models in float16, run by ONNX Runtime,
# need half of "fp16". "int8" is a judgement: a network that needs more finds other objects.
TOLERANCES = {
    "fp32": Tolerance(element=0.001, share=0.0001, iou=0.99, score=0.001, unmatched=0.0),
    "fp16": Tolerance(element=0.05, share=0.01, iou=0.9, score=0.01, unmatched=0.01),
    "int8": Tolerance(element=0.5, share=0.05, iou=0.75, score=0.15, unmatched=0.1),
}


@dataclass(frozen=True)
class TensorDifference:
    """One head output, over all images.

    level: from 0, the finest. head: "logits" or "deltas". name: of the reference's output.
    max_abs: largest difference; max_relative: largest as part of the tensor's spread; both of finite elements.
    share_beyond: part of the elements beyond `Tolerance.element`. not_finite: how many are NaN or infinite on one side.
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
    """The boxes of one image above the score threshold.

    reference, tested: how many. missing: those that the reference alone has; extra: the tested alone.
    rivals: those that both networks know, and that one side dropped for a rival of nearly the same score: no fault, as
        that the rules are equal is seen in `postprocess`.
    max_score: largest difference of a pair's scores. max_pixels: largest of its edges, in pixels of the image.
    postprocess: "equal" where preprocessing, decode and NMS of the tested backend gave, to the last bit, what the CPU's
        give with its head outputs; else "different"; "undecided" where its head outputs change from run to run.
    """

    image: str
    reference: int
    tested: int
    missing: int
    extra: int
    rivals: int
    max_score: float
    max_pixels: float
    postprocess: str


@dataclass(frozen=True)
class Verification:
    """What `verify` found. reference, tested: which file on which device. precision: whose tolerance holds."""

    reference: str
    tested: str
    precision: str
    tolerance: Tolerance
    score_threshold: float
    tensors: tuple[TensorDifference, ...]
    images: tuple[ImageDifference, ...]

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def failures(self) -> tuple[str, ...]:
        """A line for each check that failed."""
        lines = [self._why_beyond(item) for item in self.tensors if not self.is_within(item)]
        unmatched = self.total("missing") + self.total("extra")
        if unmatched > self.allowed_unmatched:
            most = max(self.images, key=lambda item: item.missing + item.extra)
            lines.append(
                f"boxes: {unmatched} without a counterpart, allowed are {self.allowed_unmatched}; most in {most.image}"
            )
        if self.images:
            most = max(self.images, key=lambda item: item.max_score)
            if most.max_score > self.tolerance.score:
                lines.append(
                    f"scores: one differs by {most.max_score:.3f}, allowed is {self.tolerance.score:g}; in {most.image}"
                )
        unequal = [item.image for item in self.images if item.postprocess == "different"]
        if unequal:
            lines.append(
                f"decode and NMS: with the same head outputs not equal to the CPU's in {len(unequal)} of "
                f"{len(self.images)} images, first in {unequal[0]}"
            )
        return tuple(lines)

    def is_within(self, item: TensorDifference) -> bool:
        """Whether the tolerance allows it."""
        return item.share_beyond <= self.tolerance.share and item.not_finite == 0

    def _why_beyond(self, item: TensorDifference) -> str:
        where = f"level {item.level}, {item.head} ({item.name})"
        if item.not_finite:
            return f"{where}: {item.not_finite} elements are NaN or infinite on one side alone"
        return (
            f"{where}: {item.share_beyond:.2%} of the elements differ by more than {self.tolerance.element:.1%} of the "
            f"spread, allowed are {self.tolerance.share:.2%}; the largest difference is {item.max_abs:.3g}"
        )

    @property
    def allowed_unmatched(self) -> int:
        """How many boxes may have no counterpart."""
        return int(self.tolerance.unmatched * (self.total("reference") + self.total("tested")))

    def total(self, name: str) -> int:
        """Sum of a count of `ImageDifference` over all images."""
        return sum(getattr(item, name) for item in self.images)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the fields, and passed and failures."""
        return {"passed": self.passed, "failures": list(self.failures), **dataclasses.asdict(self)}
