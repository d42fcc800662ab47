"""COCO average precision of a detector on annotated images, by pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from retinasdk._lazy import require
from retinasdk.detector import Detector

# COCOeval.stats, in its order: average precision over IoU 0.50:0.95, at 0.50, at 0.75, by object size (small, medium,
# large); average recall with 1, 10, 100 detections an image, by size
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
DEFAULT_SCORE_THRESHOLD = 0.01  # average precision counts low scores too
_BATCH = 8


@dataclass(frozen=True)
class ClassResult:
    """AP and AP50 of one class (None where there is nothing to find), and its ground-truth boxes without crowds."""

    AP: float | None
    AP50: float | None
    boxes: int


@dataclass(frozen=True)
class Evaluation:
    """metrics: the 12 COCO numbers by the names in `METRICS`, None where undefined; left_out: categories of the
    annotations that the model does not know; images: how many were scored."""

    metrics: dict[str, float | None]
    per_class: dict[str, ClassResult]
    left_out: tuple[str, ...]
    images: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the metrics at the top, then per_class, left_out and images."""
        per_class = {name: vars(result).copy() for name, result in self.per_class.items()}
        return {**self.metrics, "per_class": per_class, "left_out": list(self.left_out), "images": self.images}


def evaluate(
    detector: Detector,
    images: str | os.PathLike[str],
    annotations: str | os.PathLike[str],
    *,
    score_threshold: float = DEFAULT_SCORE_THRESHOLD,
    progress: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> Evaluation:
    """Scores `detector` on the images of folder `images` that the COCO-format JSON file `annotations` lists.

    Categories are matched to the model's labels by name; the others are left out and named in the result. Crowd boxes
    (iscrowd 1) are ignored as COCO does. progress: wraps the sequence of batches, e.g. `tqdm.tqdm`.

    Raises `ValueError` for annotations that cannot be used, `ImageError` for images, `MissingDependencyError` without
    pycocotools.
    """
    coco_module = require("pycocotools.coco", "evaluation")
    eval_module = require("pycocotools.cocoeval", "evaluation")
    truth = _read_annotations(Path(annotations))
    label_to_class = {label: index for index, label in reversed(list(enumerate(detector.labels)))}
    categories = {item["name"]: item["id"] for item in truth["categories"]}
    known = {name: category_id for name, category_id in categories.items() if name in label_to_class}
    if not known:
        raise ValueError(
            f"{annotations}: none of its categories ({_some(categories)}) is a label of the model "
            f"({_some(detector.labels)}); names must be equal"
        )
    category_of_class = {label_to_class[name]: category_id for name, category_id in known.items()}

    paths = [(item["id"], Path(images) / item["file_name"]) for item in truth["images"]]
    missing = [path for _, path in paths if not path.is_file()]
    if missing:
        raise ValueError(
            f"{annotations} lists {missing[0].name}, which is not in {images}; give the folder that holds it"
        )
    category_ids = [category_of_class.get(index, -1) for index in range(len(detector.labels))]
    results: list[dict[str, Any]] = []
    for batch in progress([paths[start : start + _BATCH] for start in range(0, len(paths), _BATCH)]):
        found = detector(
            [str(path) for _, path in batch], score_threshold=score_threshold, classes=sorted(category_of_class)
        )
        for (image_id, _), detections in zip(batch, found, strict=True):
            results += detections.to_coco(image_id, category_ids)

    wanted = set(known.values())
    truth["annotations"] = [item for item in truth["annotations"] if item["category_id"] in wanted]
    for number, item in enumerate(truth["annotations"], start=1):
        item["id"] = number  # pycocotools takes the id 0 for "no match"
    truth["categories"] = [item for item in truth["categories"] if item["id"] in wanted]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        reference = coco_module.COCO()
        reference.dataset = truth
        reference.createIndex()
        # Its loadRes refuses an empty list.
        predictions = reference.loadRes(results) if results else _no_results(coco_module, truth)
        scorer = eval_module.COCOeval(reference, predictions, "bbox")
        scorer.params.catIds = sorted(wanted)
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    return Evaluation(
        metrics={name: _defined(value) for name, value in zip(METRICS, scorer.stats, strict=True)},
        per_class=_per_class(scorer, truth, known),
        left_out=tuple(sorted(set(categories) - set(known))),
        images=len(paths),
    )


def _read_annotations(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read the annotations: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: wanted COCO annotations in JSON, but it does not parse: {error}") from error
    try:
        image_ids = _distinct("image id", [item["id"] for item in content["images"]])
        category_ids = _distinct("category id", [item["id"] for item in content["categories"]])
        _distinct("category name", [item["name"] for item in content["categories"]])
        for item in content["images"]:
            os.fspath(item["file_name"])
        for item in content["annotations"]:
            _x, _y, width, height = (float(value) for value in item["bbox"])
            if not math.isfinite(sum(item["bbox"])) or width < 0 or height < 0:
                raise ValueError(f"bbox {item['bbox']} is no (x, y, width, height)")
            if item["image_id"] not in image_ids or item["category_id"] not in category_ids:
                raise ValueError(f"an annotation names an image or a category that is not listed: {item}")
            item.setdefault("iscrowd", 0)
            item.setdefault("area", width * height)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: wanted COCO's lists images (id, file_name), categories (id, name) and annotations (image_id, "
            f"category_id, bbox of four numbers), but {type(error).__name__}: {error}"
        ) from error
    if not content["images"]:
        raise ValueError(f"{path}: wanted at least one image, got an empty list")
    return cast(dict[str, Any], content)


def _distinct(what: str, values: list[Any]) -> set[Any]:
    repeated = [value for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise ValueError(f"the {what} {repeated[0]!r} is given twice")
    return set(values)


def _no_results(coco_module: Any, truth: dict[str, Any]) -> Any:
    empty = coco_module.COCO()
    empty.dataset = {**truth, "annotations": []}
    empty.createIndex()
    return empty


def _per_class(scorer: Any, truth: dict[str, Any], known: dict[str, int]) -> dict[str, ClassResult]:
    # (IoU thresholds, recalls, classes), of all sizes, with 100 detections
    precision = scorer.eval["precision"][:, :, :, 0, -1]
    order = list(scorer.params.catIds)
    results = {}
    for name, category_id in known.items():
        values = precision[:, :, order.index(category_id)]
        boxes = sum(item["category_id"] == category_id and not item["iscrowd"] for item in truth["annotations"])
        results[name] = ClassResult(_mean_defined(values), _mean_defined(values[0]), boxes)
    return results


def _mean_defined(values: Any) -> float | None:
    defined = values[values > -1]
    return float(np.mean(defined)) if defined.size else None


def _defined(value: float) -> float | None:
    return float(value) if value > -1 else None


def _some(names: Iterable[str], most: int = 8) -> str:
    names = list(dict.fromkeys(names))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
