"""Computes COCO average precision with pycocotools, image by image.

pycocotools expects all detections at once and uses about 2 kB for each. Here each image is matched when it is added,
and only what pycocotools' accumulation reads is kept: the score of each detection, and whether it matches at each IoU.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk._util.lazy import require
from retinasdk.detections import Detections
from retinasdk.evaluation.annotations import TrueBox
from retinasdk.evaluation.rotated import overlaps

if TYPE_CHECKING:
    import numpy.typing as npt

# COCOeval.stats, in order: average precision over IoU 0.50:0.95, at 0.50, at 0.75, and by object size (small, medium,
# large); average recall with 1, 10 and 100 detections per image, and by size.
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
# COCOeval.params.areaRng, in order: any size; below 32 x 32 pixels; up to 96 x 96; larger.
SIZES = ("all", "small", "medium", "large")
_IOUS = 10  # 0.50, 0.55, ... 0.95
_IMAGE_ID = 1


@dataclass(frozen=True)
class ImageMatches:
    """Matches of one image at IoU 0.50.

    A detection is neither true nor false if it lies on a crowd region, or exceeds the number of detections that count.

    Attributes:
        true: (n,) bool, whether each of the n detections matches an object.
        false: (n,) bool, whether each detection matches none.
        missed: (m,) bool, whether each of the m ground-truth boxes has no detection.
    """

    true: npt.NDArray[np.bool_]
    false: npt.NDArray[np.bool_]
    missed: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class CocoNumbers:
    """The numbers of all images. Classes are in the order of the scorer's labels.

    Attributes:
        metrics: Values by the names in `METRICS`; None if undefined. If another number of detections counts, the name
            "AR100" carries that number.
        precision: (10 IoUs, 101 recalls, classes, sizes) float64; sizes as in `SIZES`. -1 if undefined.
        boxes: (classes, sizes) int64, ground-truth boxes without crowds.
        scores: (n,) float64, scores of the n detections that count at IoU 0.50, highest first.
        is_true: (n,) bool, whether each of them matches an object.
        image: (n,) int64, index of the image of each.
        boxes_of_image: (images,) int64, ground-truth boxes without crowds.
    """

    metrics: dict[str, float | None]
    precision: npt.NDArray[np.float64]
    boxes: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    is_true: npt.NDArray[np.bool_]
    image: npt.NDArray[np.int64]
    boxes_of_image: npt.NDArray[np.int64]

    def average_precision(self, number: int, size: str = "all", iou: int | None = None) -> float | None:
        """Returns the average precision of one class.

        Args:
            number: Index of the class.
            size: One of `SIZES`.
            iou: Index of one of the ten IoUs. None averages over all.

        Returns:
            A value from 0 to 1, or None if there is nothing to find.
        """
        values = self.precision[slice(None) if iou is None else iou, :, number, SIZES.index(size)]
        defined = values[values > -1]
        return float(np.mean(defined)) if defined.size else None


def check_pycocotools() -> None:
    """Raises `MissingDependencyError` if pycocotools cannot be imported."""
    require("pycocotools.cocoeval", "evaluation")


class CocoScorer:
    """Collects images one by one and computes COCO's numbers.

    Args:
        labels: Labels of the classes.
        counted: Number of detections per image and class that count, highest scores first.
    """

    def __init__(self, labels: Sequence[str], counted: int = 100) -> None:
        self._coco: Any = require("pycocotools.coco", "evaluation").COCO
        self._eval: Any = require("pycocotools.cocoeval", "evaluation").COCOeval
        self._records = [_ClassRecord() for _ in labels]
        self._images = 0
        self._counted = [1, 10, counted]

    def add(self, boxes: Sequence[TrueBox], detections: Detections) -> None:
        """Adds the next image. Categories and class ids are indices into the scorer's labels."""
        for number, entries in self._matched(boxes, detections).items():
            self._records[number].add(self._images, entries)
        self._images += 1

    def matches(self, boxes: Sequence[TrueBox], detections: Detections) -> ImageMatches:
        """Matches one image without adding it."""
        true, false = np.zeros(len(detections), np.bool_), np.zeros(len(detections), np.bool_)
        missed = np.zeros(len(boxes), np.bool_)
        for of_any_size, *_ in self._matched(boxes, detections).values():
            found = np.array(of_any_size["dtIds"], np.int64) - 1
            hit, counts = of_any_size["dtMatches"][0] > 0, ~of_any_size["dtIgnore"][0]
            true[found], false[found] = hit & counts, ~hit & counts
            boxes_of_class = np.array(of_any_size["gtIds"], np.int64) - 1
            missed[boxes_of_class] = (of_any_size["gtMatches"][0] == 0) & (of_any_size["gtIgnore"] == 0)
        return ImageMatches(true, false, missed)

    def numbers(self) -> CocoNumbers:
        """Computes the numbers of all images added so far."""
        precision, recall = [], []
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
            for record in self._records:  # one by one: entries take far more memory than records
                scorer = self._eval(iouType="bbox")
                scorer.evalImgs = record.entries()
                scorer.params.imgIds = list(range(len(record.images)))
                scorer.params.catIds = [0]
                scorer.params.maxDets = self._counted
                scorer._paramsEval = scorer.params  # as evaluate() leaves it
                scorer.accumulate()
                precision.append(scorer.eval["precision"])
                recall.append(scorer.eval["recall"])
            scorer.eval.update(precision=np.concatenate(precision, axis=2), recall=np.concatenate(recall, axis=1))
            scorer.params.maxDets = [1, 10, 100]  # what summarize() looks for; the tables keep their places
            scorer.summarize()
        defined = [float(value) if value > -1 else None for value in scorer.stats]
        hits = [record.hits() for record in self._records]
        scores, is_true, image = (np.concatenate(columns) for columns in zip(*hits, strict=True))
        order = np.argsort(-scores, kind="stable")
        boxes_of_image = np.zeros(self._images, np.int64)
        for record in self._records:
            boxes_of_image[record.images] += record.true_boxes()[:, 0]
        return CocoNumbers(
            metrics=dict(zip((*METRICS[:8], f"AR{self._counted[-1]}", *METRICS[9:]), defined, strict=True)),
            precision=scorer.eval["precision"][..., -1],
            boxes=np.array([record.true_boxes().sum(axis=0) for record in self._records]),
            scores=scores[order],
            is_true=is_true[order],
            image=image[order],
            boxes_of_image=boxes_of_image,
        )

    def _matched(self, boxes: Sequence[TrueBox], detections: Detections) -> dict[int, list[dict[str, Any]]]:
        """Returns COCOeval.evalImgs of one image: for each class in it, an entry for each size.

        Ids are positions counted from 1, since 0 means "no match" in pycocotools.
        """
        truth = [
            {
                "id": position,
                "image_id": _IMAGE_ID,
                "category_id": box.category,
                "bbox": list(box.xywh),
                "area": box.area,
                "iscrowd": int(box.is_crowd),
            }
            for position, box in enumerate(boxes, start=1)
        ]
        found = detections.to_coco(_IMAGE_ID)
        for position, item in enumerate(found, start=1):
            item.update(id=position, area=float(detections.area[position - 1]), iscrowd=0)
        present = sorted({item["category_id"] for item in (*truth, *found)})
        with contextlib.redirect_stdout(io.StringIO()):
            scorer = self._eval(self._index(truth, present), self._index(found, present), "bbox")
            scorer.params.maxDets = self._counted
            if detections.xywhr is not None:
                scorer.computeIoU = functools.partial(self._rotated_ious, scorer, boxes, detections.xywhr)
            scorer.evaluate()
        entries = list(scorer.evalImgs)
        sizes = len(SIZES)
        return {number: entries[place * sizes : (place + 1) * sizes] for place, number in enumerate(present)}

    def _rotated_ious(
        self, scorer: Any, boxes: Sequence[TrueBox], xywhr: npt.NDArray[np.float32], image: int, category: int
    ) -> Any:
        """What COCOeval.computeIoU returns for one class: IoUs with the detections in the order of their scores."""
        truth, found = scorer._gts[image, category], scorer._dts[image, category]
        found = sorted(found, key=lambda item: -item["score"])[: self._counted[-1]]
        if not truth or not found:
            return []
        own = [boxes[item["id"] - 1] for item in truth]
        upright = [(x + w / 2, y + h / 2, w, h, 0.0) for x, y, w, h in (box.xywh for box in own)]
        rotated = [other if box.xywhr is None else box.xywhr for box, other in zip(own, upright, strict=True)]
        return overlaps(xywhr[[item["id"] - 1 for item in found]], rotated, [box.is_crowd for box in own])

    def _index(self, items: list[dict[str, Any]], categories: Sequence[int]) -> Any:
        index = self._coco()
        index.dataset = {
            "images": [{"id": _IMAGE_ID}],
            "categories": [{"id": number} for number in categories],
            "annotations": items,
        }
        index.createIndex()
        return index


class _ClassRecord:
    """What COCOeval.accumulate reads of one class in the images that contain it, 18 bytes for each detection."""

    def __init__(self) -> None:
        self.images: list[int] = []
        self._counts: list[int] = []  # detections of each image
        self._true_boxes: list[tuple[int, ...]] = []  # of each image and size, without crowds
        self._scores, self._hits, self._ignored = bytearray(), bytearray(), bytearray()

    def add(self, image: int, entries: Sequence[dict[str, Any]]) -> None:
        """Adds COCOeval.evalImgs of one image, an entry for each size."""
        self.images.append(image)
        self._counts.append(len(entries[0]["dtScores"]))
        self._true_boxes.append(tuple(int(np.count_nonzero(entry["gtIgnore"] == 0)) for entry in entries))
        self._scores += np.array(entries[0]["dtScores"], np.float64).tobytes()
        self._hits += _packed([entry["dtMatches"] > 0 for entry in entries])
        self._ignored += _packed([entry["dtIgnore"] for entry in entries])

    def entries(self) -> list[dict[str, Any]]:
        """Returns COCOeval.evalImgs of this class: for each size, an entry for each image."""
        scores, hits, ignored = np.frombuffer(self._scores), _unpacked(self._hits), _unpacked(self._ignored)
        ends = np.cumsum(self._counts).tolist()
        return [
            {
                "dtScores": scores[end - count : end],
                "dtMatches": hits[size, :, end - count : end],
                "dtIgnore": ignored[size, :, end - count : end],
                "gtIgnore": np.zeros(boxes[size], np.bool_),
            }
            for size in range(len(SIZES))
            for count, end, boxes in zip(self._counts, ends, self._true_boxes, strict=True)
        ]

    def true_boxes(self) -> npt.NDArray[np.int64]:
        """Returns the number of ground-truth boxes without crowds, (images, sizes)."""
        return np.array(self._true_boxes, np.int64).reshape(-1, len(SIZES))

    def hits(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
        """Returns scores, matches and images of the detections that count at IoU 0.50."""
        counts = ~_unpacked(self._ignored)[0, 0]
        images = np.repeat(np.array(self.images, np.int64), self._counts)
        return np.frombuffer(self._scores)[counts], _unpacked(self._hits)[0, 0][counts], images[counts]


def _packed(flags: Sequence[npt.NDArray[np.bool_]]) -> bytes:
    """Packs flags (sizes, IoUs, detections) into bits."""
    return np.packbits(np.concatenate(flags).T, axis=1).tobytes()


def _unpacked(content: bytearray) -> npt.NDArray[np.bool_]:
    bits = len(SIZES) * _IOUS
    rows = np.frombuffer(content, np.uint8).reshape(-1, -(-bits // 8))
    flags: npt.NDArray[np.bool_] = np.unpackbits(rows, axis=1, count=bits).T.astype(np.bool_)
    return np.reshape(flags, (len(SIZES), _IOUS, len(rows)))
