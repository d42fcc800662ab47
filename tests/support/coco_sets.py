"""Annotated sets made by hand, and a detector that finds in them what it was told."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import LABELS, blocks
from PIL import Image as PillowImage

from retinasdk import Detections, Detector
from retinasdk.evaluation.evaluate import evaluate

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 1, "name": "person"}]

A, B, FAR = (10.0, 10.0, 50.0, 50.0), (60.0, 20.0, 110.0, 80.0), (0.0, 60.0, 20.0, 90.0)

near = functools.partial(pytest.approx, abs=1e-6)


class Oracle:
    """Finds in image `<n>.png` what it was told, above the score threshold and of the classes asked for."""

    labels = LABELS

    def __init__(self, found: dict[str, list[tuple[str, float, tuple[float, ...]]]]) -> None:
        self.found = found

    def __call__(
        self, images: Sequence[str], *, score_threshold: float, classes: Sequence[int | str]
    ) -> list[Detections]:
        results = []
        for image in images:
            items = sorted(self.found.get(Path(image).name, []), key=lambda item: -item[1])
            detections = Detections(
                np.array([item[2] for item in items], np.float32).reshape(-1, 4),
                np.array([item[1] for item in items], np.float32),
                np.array([LABELS.index(item[0]) for item in items], np.int32),
                LABELS,
            )
            results.append(detections[detections.scores > score_threshold].filter(classes=classes))
        return results


def truth(boxes: dict[str, list[tuple[str, tuple[float, ...]]]], **changes: Any) -> dict[str, Any]:
    """COCO annotations of boxes xyxy by image; ids of annotations start at 0, as some tools write them."""
    ids = {item["name"]: item["id"] for item in CATEGORIES}
    images = [{"id": 100 + index, "file_name": name} for index, name in enumerate(boxes)]
    annotations = []
    for image, items in zip(images, boxes.values(), strict=True):
        for label, (x1, y1, x2, y2) in items:
            bbox = [x1, y1, x2 - x1, y2 - y1]
            annotations.append(
                {"id": len(annotations), "image_id": image["id"], "category_id": ids[label], "bbox": bbox}
            )
    return {"images": images, "categories": CATEGORIES, "annotations": annotations, **changes}


def save_set(folder: Path, annotations: dict[str, Any]) -> Path:
    """Saves them as truth.json, and a picture for each image they list."""
    for index, image in enumerate(annotations["images"]):
        PillowImage.fromarray(blocks(90, 120, seed=index)).save(folder / image["file_name"])
    (folder / "truth.json").write_text(json.dumps(annotations))
    return folder / "truth.json"


def check(write: Callable[..., Path], annotations: dict[str, Any], oracle: Any, **options: Any) -> Any:
    path = write(annotations)
    return evaluate(oracle, path.parent, path, **options)


def own_truth(detector: Detector, count: int = 5) -> dict[str, Any]:
    """Annotations that are the model's own detections on the pictures that `save_set` makes."""
    boxes = {}
    for index in range(count):
        detections = detector(blocks(90, 120, seed=index), score_threshold=0.3, classes=["person", "dog"])
        boxes[f"{index}.png"] = [(item.label, item.xyxy) for item in detections]
    assert sum(map(len, boxes.values())) > count
    return truth(boxes)
