"""`evaluate`: COCO average precision of a detector on annotated images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk._util.progress import Progress, ProgressCallback, begin
from retinasdk.detections import Detections
from retinasdk.detector import Detector
from retinasdk.evaluation.annotations import TrueBox, read_annotations
from retinasdk.evaluation.categories import ScoredClasses, scored_classes
from retinasdk.evaluation.coco import METRICS, SIZES, CocoNumbers, CocoScorer, check_pycocotools
from retinasdk.evaluation.operating_point import best_f1, worst_images
from retinasdk.evaluation.results import ClassResult, Evaluation, SizeResult
from retinasdk.evaluation.rotated import is_rotated
from retinasdk.tiling.grid import TilesOption, check_tiles

if TYPE_CHECKING:
    from retinasdk.evaluation.report import DrawnImage

__all__ = ["DEFAULT_BATCH", "DEFAULT_SCORE_THRESHOLD", "METRICS", "ClassResult", "Evaluation", "SizeResult", "evaluate"]

DEFAULT_SCORE_THRESHOLD = 0.01  # average precision also counts detections of low scores
DEFAULT_BATCH = 8
DEFAULT_COUNTED = 100  # detections per image, as in COCO
_IOU_50 = 0


def evaluate(
    detector: Detector,
    images: str | os.PathLike[str],
    annotations: str | os.PathLike[str],
    *,
    score_threshold: float = DEFAULT_SCORE_THRESHOLD,
    classes: Sequence[str | int] | None = None,
    rename: Mapping[str, str] | None = None,
    batch: int = DEFAULT_BATCH,
    tiles: TilesOption = None,
    counted: int = DEFAULT_COUNTED,
    report: str | os.PathLike[str] | None = None,
    progress: ProgressCallback | None = None,
) -> Evaluation:
    """Measures the average precision of a detector on annotated images, as COCO defines it.

    If the model detects rotated boxes, overlaps are those of rotated boxes. They are read from a `segmentation` of 4
    corners, else from a `bbox` of 5 numbers (x, y, width, height, angle); see the guide on rotated boxes.

    Categories are matched with the model's labels by name. Categories that the model does not know are left out and
    listed in the result. Crowd boxes (iscrowd 1) are ignored, as in COCO. Memory does not grow with the number of
    images: they are read `batch` at a time.

    Args:
        detector: The detector to measure.
        images: Folder of the images.
        annotations: JSON file in COCO format. The images that it lists are evaluated.
        score_threshold: Detections with scores above this are counted, 0 to 1. Average precision needs low scores too.
        classes: Score only these labels (names or indices). Defaults to all labels that have a category.
        rename: The model's label for categories that are named differently, `{category: label}`. Several categories
            may map to one label.
        batch: Number of images per call of the detector.
        tiles: As in a call of the detector.
        counted: Number of detections per image and class that count, highest scores first. COCO's 100 hides most
            detections in large images. The metric "AR100" carries this number in its name.
        report: Existing folder for a report: `index.html` with precision-recall curves, a histogram of scores and
            pictures of the images with most mistakes at the best F1. Needs matplotlib.
        progress: Called with a `retinasdk.Progress` for each batch of images; it counts images.

    Raises:
        ValueError: If annotations or options cannot be used.
        ImageError: If an image cannot be read.
        OSError: If the report cannot be written.
        MissingDependencyError: If pycocotools or matplotlib is not installed.

    Example:
        ```python notest
        result = retinasdk.evaluate(retinasdk.Detector("people"), "val/images", "val/annotations.json")
        print(result.metrics["AP50"], result.best_f1)
        ```
    """
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise ValueError(f"batch must be an integer of at least 1, got {batch!r}")
    if isinstance(counted, bool) or not isinstance(counted, int) or counted < 1:
        raise ValueError(f"counted must be an integer of at least 1, got {counted!r}")
    check_tiles(tiles)
    check_pycocotools()
    if report is not None:
        _check_report(Path(report))
    truth = read_annotations(Path(annotations))
    scored = scored_classes(truth, detector.labels, rename=rename or {}, classes=classes)
    paths = truth.paths(Path(images))
    if is_rotated(detector) and not any(box.xywhr is not None for boxes in truth.boxes for box in boxes):
        raise ValueError(
            f"{annotations} has upright boxes only, but the model detects rotated boxes; each annotation needs a "
            "segmentation of 4 corners, or a bbox of 5 numbers: x, y, width, height, angle"
        )
    run = _Run(detector, scored, paths, [_scored_boxes(boxes, scored) for boxes in truth.boxes], tiles)

    scorer = CocoScorer(scored.labels, counted)
    for start in range(0, len(paths), batch):
        members = range(start, min(start + batch, len(paths)))
        if progress is not None:
            progress(Progress("detect", start, len(paths), "image"))
        for index, detections in zip(members, run.detect(members, score_threshold), strict=True):
            scorer.add(run.boxes[index], detections)
    begin(progress, "compute the average precision")
    numbers = scorer.numbers()
    result = _evaluation(numbers, scored, len(paths))
    if report is not None:
        from retinasdk.evaluation.report import write_report

        begin(progress, "write the report")

        threshold = score_threshold if result.best_f1 is None else max(result.best_f1.score, score_threshold)
        title = f"{detector.spec.name} on {Path(annotations).name}"
        worst = run.draw_worst(scorer, numbers, threshold)
        write_report(Path(report), title, result, numbers, scored.labels, worst)
    return result


@dataclass(frozen=True)
class _Run:
    """The images of one evaluation. Categories and class ids are indices into `scored.labels`."""

    detector: Detector
    scored: ScoredClasses
    paths: Sequence[Path]
    boxes: Sequence[Sequence[TrueBox]]
    tiles: TilesOption

    def detect(self, members: Sequence[int], score_threshold: float) -> list[Detections]:
        number_of_class = np.zeros(len(self.detector.labels), np.int32)
        number_of_class[list(self.scored.class_ids)] = range(len(self.scored.labels))
        # A callable other than Detector does not need to support tiles.
        options: dict[str, Any] = {} if self.tiles is None else {"tiles": self.tiles}
        found = self.detector(
            [str(self.paths[index]) for index in members],
            score_threshold=score_threshold,
            classes=sorted(self.scored.class_ids),
            **options,
        )
        return [
            Detections(item.xyxy, item.scores, number_of_class[item.class_ids], self.scored.labels, xywhr=item.xywhr)
            for item in found
        ]

    def draw_worst(self, scorer: CocoScorer, numbers: CocoNumbers, score_threshold: float) -> Iterator[DrawnImage]:
        """Detects again in the worst images, since keeping all detections would take memory for every image."""
        from retinasdk.evaluation.pictures import draw_mistakes
        from retinasdk.evaluation.report import MOST_PICTURES, DrawnImage

        for mistakes in worst_images(numbers, score_threshold, MOST_PICTURES):
            path, boxes = self.paths[mistakes.image], self.boxes[mistakes.image]
            (detections,) = self.detect([mistakes.image], score_threshold)
            names = [self.scored.labels[box.category] for box in boxes]
            matches = scorer.matches(boxes, detections)
            yield DrawnImage(path.name, mistakes, draw_mistakes(path, boxes, names, detections, matches))


def _check_report(folder: Path) -> None:
    from retinasdk._util.charts import check_charts

    check_charts()
    if not folder.is_dir():
        raise ValueError(f"{folder} is not an existing folder; create it, then write the report into it")


def _scored_boxes(boxes: Sequence[TrueBox], scored: ScoredClasses) -> tuple[TrueBox, ...]:
    return tuple(
        box._replace(category=scored.class_of_category[box.category])
        for box in boxes
        if box.category in scored.class_of_category
    )


def _evaluation(numbers: CocoNumbers, scored: ScoredClasses, images: int) -> Evaluation:
    per_class, per_size = {}, {}
    for number, label in enumerate(scored.labels):
        per_class[label] = ClassResult(
            numbers.average_precision(number),
            numbers.average_precision(number, iou=_IOU_50),
            int(numbers.boxes[number, 0]),
        )
        per_size[label] = {
            size: SizeResult(numbers.average_precision(number, size), int(numbers.boxes[number, place]))
            for place, size in enumerate(SIZES[1:], start=1)
        }
    return Evaluation(
        metrics=numbers.metrics,
        per_class=per_class,
        left_out=scored.left_out,
        images=images,
        per_class_and_size=per_size,
        best_f1=best_f1(numbers),
    )
