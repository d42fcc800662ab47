"""`verify_boxes`: compares the boxes of a model with those that its training framework found in the same image."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from retinasdk._util.box_matching import Boxes, are_left, pair_equal
from retinasdk.detector import Detector
from retinasdk.images import ImageInput, as_rgb
from retinasdk.spec import ModelSpec
from retinasdk.verification.box_causes import probable_causes
from retinasdk.verification.expected_boxes import read_expected

__all__ = ["BoxComparison", "verify_boxes"]


@dataclass(frozen=True)
class BoxComparison:
    """The result of `retinasdk.verify_boxes`.

    Attributes:
        model: File of the model.
        image: Path of the image, or "image".
        score_threshold: Boxes with scores above it were compared.
        pixels: Largest difference of an edge that counts as equal, in pixels of the image.
        score: Largest difference of a score that counts as equal.
        expected: Number of boxes of the framework.
        found: Number of boxes of retinasdk.
        agreeing: Number of pairs of one class that agree within `pixels` and `score`.
        at_threshold: Boxes that only one side has, with a score within the tolerance of the threshold. They count
            as no difference.
        max_pixels: Largest difference of an edge in those pairs.
        max_score: Largest difference of a score in those pairs.
        missing: Boxes that only the framework has, best first, as text.
        extra: Boxes that only retinasdk has, best first, as text.
        causes: What probably causes the differences, the most likely first.
    """

    model: str
    image: str
    score_threshold: float
    pixels: float
    score: float
    expected: int
    found: int
    agreeing: int
    at_threshold: int
    max_pixels: float
    max_score: float
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    causes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether all boxes agree, and there is at least one."""
        return not self.missing and not self.extra and self.expected > 0

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as a dictionary for JSON, with `passed`."""
        return {"passed": self.passed, **dataclasses.asdict(self)}


def verify_boxes(
    model: str | os.PathLike[str],
    expected: str | os.PathLike[str] | Mapping[str, Any] | Sequence[Any],
    image: ImageInput,
    *,
    box_format: str | None = None,
    pixels: float = 0.1,
    score: float = 0.001,
    score_threshold: float | None = None,
    spec: ModelSpec | None = None,
    device: str = "cpu",
) -> BoxComparison:
    """Compares the boxes of a model with those that its training framework found in the same image.

    Each expected box is paired with the nearest box of its class that is free.

    Example:
        ```python notest
        result = retinasdk.verify_boxes("model.onnx", "boxes.json", "photo.jpg")
        print(result.agreeing, "of", result.expected, result.causes)
        ```

    Args:
        model: Name of a bundled model or path of an ONNX file or engine.
        expected: Path of a JSON file, or its content: `{"boxes": [[x1, y1, x2, y2], ...], "scores": [...], "labels":
            [...]}` with class indices or names, or a COCO results list of one image. Boxes are in pixels of the image.
        image: The image, as `Detector` accepts it: the one that the framework was given, before its resize.
        box_format: "xyxy", "xywh" or "cxcywh". Defaults to "xywh" for a COCO results list, else to "xyxy".
        pixels: Largest difference of an edge that counts as equal, in pixels.
        score: Largest difference of a score that counts as equal.
        score_threshold: Compare boxes with scores above this, 0 to 1. Defaults to the threshold of the model.
        spec: Spec of the model, if it is neither beside the file nor in it.
        device: "cpu" or "cuda".

    Raises:
        ValueError: If `expected` has another content, or an option is out of range.
        ModelError: If the model cannot be used.
        ImageError: If the image cannot be read.
        DeviceError: If the GPU is asked for and cannot be used.
    """
    for name, value in (("pixels", pixels), ("score", score)):
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a number above 0, got {value!r}")
    # Convolutions of the usual kind: the fast ones differ from the framework's in the fifth digit.
    with Detector(model, device=device, spec=spec, score_threshold=score_threshold, convolution="direct") as detector:
        theirs, read_as = read_expected(expected, detector.spec.labels, box_format)
        threshold = detector.spec.score_threshold if score_threshold is None else score_threshold
        if score_threshold is not None:
            theirs = theirs.take(theirs.scores > threshold)
        rgb = as_rgb(image)
        detections = detector(rgb)
        path, labels = detector.model_path, detector.spec.labels
        max_detections = detector.spec.max_detections
    ours = Boxes.of(detections.xyxy, detections.scores, detections.class_ids)
    pairs = pair_equal(theirs, ours, pixels=pixels, score=score)
    is_lost, is_more = are_left(len(theirs), pairs[:, 0]), are_left(len(ours), pairs[:, 1])
    near = [np.abs(boxes.scores - threshold) <= score for boxes in (theirs, ours)]
    lost, more = theirs.take(is_lost & ~near[0]), ours.take(is_more & ~near[1])
    first, second = theirs.take(pairs[:, 0]), ours.take(pairs[:, 1])
    causes = probable_causes(
        theirs,
        ours,
        box_format=read_as,
        size=(rgb.shape[0], rgb.shape[1]),
        max_detections=max_detections,
        pixels=pixels,
        score=score,
    )
    return BoxComparison(
        model=path.name,
        image=os.fspath(image) if isinstance(image, (str, os.PathLike)) else "image",
        score_threshold=threshold,
        pixels=pixels,
        score=score,
        expected=len(theirs),
        found=len(ours),
        agreeing=len(pairs),
        at_threshold=int((is_lost & near[0]).sum() + (is_more & near[1]).sum()),
        max_pixels=float(np.abs(first.xyxy - second.xyxy).max(initial=0.0)),
        max_score=float(np.abs(first.scores - second.scores).max(initial=0.0)),
        missing=_in_words(lost, labels),
        extra=_in_words(more, labels),
        causes=tuple(causes) if len(lost) or len(more) else (),
    )


def _in_words(boxes: Boxes, labels: Sequence[str]) -> tuple[str, ...]:
    ordered = boxes.take(np.argsort(-boxes.scores, kind="stable"))
    return tuple(
        f"{labels[class_id] if 0 <= class_id < len(labels) else f'class {class_id}'}, score {score:.4f}, box "
        f"{' '.join(f'{value:.2f}' for value in box)}"
        for box, score, class_id in zip(
            ordered.xyxy.tolist(), ordered.scores.tolist(), ordered.class_ids.tolist(), strict=True
        )
    )
