"""What a quantized network finds, against what it found in float32: average precision, and detection by detection."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from retinasdk.detections import Detections
from retinasdk.detector import Detector
from retinasdk.images import ImageInput
from retinasdk.spec import ModelSpec
from retinasdk.verification.compare import pair_boxes

Progress: TypeAlias = "Callable[[Sequence[Any], str], Iterable[Any]]"

_SAME_OBJECT_IOU = 0.5


@dataclass(frozen=True)
class Outcome:
    """What a network finds on the images that are compared, and its AP on the annotated ones."""

    detections: list[Detections]
    AP: float | None


@dataclass(frozen=True)
class Checks:
    """Runs whole detectors, from the file `path`, which holds the network that was checked last.

    images: that are compared. root: the folder of annotated ones.
    """

    path: Path
    spec: ModelSpec
    images: Sequence[ImageInput]
    root: Any
    annotations: str | os.PathLike[str] | None
    progress: Progress

    def of(self, model: Any, title: str) -> Outcome:
        self.path.write_bytes(model.SerializeToString())
        with Detector(self.path, device="cpu", spec=self.spec) as detector:
            found = [detector(image) for image in self.progress(self.images, f"compare, {title}")]
            return Outcome(found, self._average_precision(detector, title))

    def _average_precision(self, detector: Detector, title: str) -> float | None:
        if self.annotations is None:
            return None
        from retinasdk.evaluation.evaluate import evaluate

        result = evaluate(
            detector, self.root, self.annotations, progress=lambda batches: self.progress(batches, f"AP, {title}")
        )
        return result.metrics["AP"]


def agreement_of(wanted: Sequence[Detections], found: Sequence[Detections]) -> float | None:
    """Part of the detections of both that have a counterpart; None: there are none."""
    both = sum(map(len, wanted)) + sum(map(len, found))
    pairs = sum(len(pair_boxes(*pair, _SAME_OBJECT_IOU)) for pair in zip(wanted, found, strict=True))
    return 2 * pairs / both if both else None


def why_refused(
    before: float | None, after: float | None, agreement: float | None, *, max_ap_drop: float, min_agreement: float
) -> str | None:
    """What is wrong with an attempt; None: nothing."""
    if before is not None and after is not None:
        drop = 100 * (before - after)
        if drop > max_ap_drop:
            return (
                f"wanted AP to fall by at most {max_ap_drop:g} points (max_ap_drop), got {drop:.2f}, from {before:.4f} "
                f"to {after:.4f},"
            )
    elif agreement is not None and agreement < min_agreement:
        return (
            f"wanted at least {min_agreement:.1%} of the detections to have a counterpart (min_agreement), got "
            f"{agreement:.1%}"
        )
    return None
