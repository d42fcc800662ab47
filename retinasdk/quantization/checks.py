"""Compares the detections of a quantized network with those in float32, and their average precision."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from retinasdk._util.progress import Progress, ProgressCallback, tracked
from retinasdk.detections import Detections
from retinasdk.detector import Detector
from retinasdk.images import ImageInput
from retinasdk.spec import ModelSpec
from retinasdk.verification.compare import pair_boxes

_SAME_OBJECT_IOU = 0.5


@dataclass(frozen=True)
class Outcome:
    """The results of one network.

    Attributes:
        detections: Detections in each image that is compared.
        AP: Average precision on the annotated images, 0 to 1. None without annotations.
    """

    detections: list[Detections]
    AP: float | None


@dataclass(frozen=True)
class Checks:
    """Runs networks as whole detectors.

    Attributes:
        path: File that each checked network is written to.
        spec: Spec of the networks.
        images: Images whose detections are compared.
        root: Folder of the annotated images.
        annotations: Annotation file in COCO format. None measures no average precision.
        progress: Called with a `Progress` for each image.
    """

    path: Path
    spec: ModelSpec
    images: Sequence[ImageInput]
    root: Any
    annotations: str | os.PathLike[str] | None
    progress: ProgressCallback | None

    def of(self, model: Any, title: str) -> Outcome:
        """Runs a network, an `onnx.ModelProto`; `title` names it in the progress."""
        self.path.write_bytes(model.SerializeToString())
        with Detector(self.path, device="cpu", spec=self.spec) as detector:
            found = [detector(image) for image in tracked(self.images, self.progress, f"compare, {title}", "image")]
            return Outcome(found, self._average_precision(detector, title))

    def _average_precision(self, detector: Detector, title: str) -> float | None:
        if self.annotations is None:
            return None
        from retinasdk.evaluation.evaluate import evaluate

        def show(report: Progress) -> None:
            if self.progress is not None:
                self.progress(replace(report, step=f"AP, {title}"))

        result = evaluate(detector, self.root, self.annotations, progress=show)
        return result.metrics["AP"]


def agreement_of(wanted: Sequence[Detections], found: Sequence[Detections]) -> float | None:
    """Returns the fraction of all detections that have a counterpart, 0 to 1, or None if there are none."""
    both = sum(map(len, wanted)) + sum(map(len, found))
    pairs = sum(len(pair_boxes(*pair, _SAME_OBJECT_IOU)) for pair in zip(wanted, found, strict=True))
    return 2 * pairs / both if both else None


def why_refused(
    before: float | None, after: float | None, agreement: float | None, *, max_ap_drop: float, min_agreement: float
) -> str | None:
    """Returns why a quantized network is not good enough, or None if it is."""
    if before is not None and after is not None:
        drop = 100 * (before - after)
        if drop > max_ap_drop:
            return (
                f"AP falls by {drop:.2f} points, from {before:.4f} to {after:.4f}; at most {max_ap_drop:g} are allowed "
                "(max_ap_drop)"
            )
    elif agreement is not None and agreement < min_agreement:
        return (
            f"only {agreement:.1%} of the detections have a counterpart; at least {min_agreement:.1%} are required "
            "(min_agreement)"
        )
    return None
