"""Evaluation on the overlap of rotated boxes, and the annotations that hold them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from coco_sets import near
from PIL import Image as PillowImage

from retinasdk import Detections
from retinasdk.evaluation.annotations import read_annotations
from retinasdk.evaluation.evaluate import evaluate
from retinasdk.evaluation.rotated import overlaps, rotated_box

pytest.importorskip("pycocotools", reason="evaluation is an extra: pip install 'retinasdk[eval]'")

LABELS = ("ship", "plane")
A, B = (50.0, 50.0, 60.0, 20.0, math.pi / 4), (120.0, 60.0, 40.0, 10.0, -0.3)


class Oracle:
    labels = LABELS
    spec = SimpleNamespace(is_rotated=True, name="oracle")

    def __init__(self, boxes: Sequence[tuple[float, ...]], scores: Sequence[float]) -> None:
        self._found = Detections.rotated(np.array(boxes), np.array(scores), np.zeros(len(boxes), int), LABELS)

    def __call__(self, images: Sequence[str], **_: Any) -> list[Detections]:
        return [self._found for _ in images]


def corners(box: tuple[float, ...]) -> list[float]:
    return Detections.rotated([box], [1], [0], LABELS).polygons.reshape(-1).tolist()


def as_polygon(box: tuple[float, ...]) -> dict[str, Any]:
    return {"bbox": [0, 0, 1, 1], "segmentation": [corners(box)]}


def as_five_numbers(box: tuple[float, ...]) -> dict[str, Any]:
    x, y, width, height, angle = box
    return {"bbox": [x - width / 2, y - height / 2, width, height, angle]}


def save(folder: Path, items: Sequence[dict[str, Any]]) -> Path:
    PillowImage.new("RGB", (200, 100)).save(folder / "0.png")
    content = {
        "images": [{"id": 1, "file_name": "0.png"}],
        "categories": [{"id": 3, "name": "ship"}],
        "annotations": [{"id": i, "image_id": 1, "category_id": 3, **item} for i, item in enumerate(items)],
    }
    path = folder / "truth.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("write", [as_polygon, as_five_numbers])
def test_rotated_boxes_are_compared_as_such(write: Any, tmp_path: Path) -> None:
    path = save(tmp_path, [write(A), write(B)])
    right = evaluate(Oracle([A, B], [0.9, 0.8]), tmp_path, path)  # type: ignore[arg-type]
    assert near(1.0) == right.per_class["ship"].AP
    # The boxes around A turned to the other side are the same, but the boxes share little.
    mirrored = (*A[:4], -A[4])
    wrong = evaluate(Oracle([mirrored, B], [0.9, 0.8]), tmp_path, path)  # type: ignore[arg-type]
    assert near(0.5 * 51 / 101) == wrong.per_class["ship"].AP50


def test_a_score_decides_which_of_two_counts(tmp_path: Path) -> None:
    """The better score comes first whatever the order of the boxes, as COCOeval sorts them."""
    path = save(tmp_path, [as_polygon(A)])
    found = [(52.0, 50.0, 60.0, 20.0, A[4]), A]
    result = evaluate(Oracle(found, [0.5, 0.9]), tmp_path, path)  # type: ignore[arg-type]
    assert near(1.0) == result.per_class["ship"].AP


def test_the_report_draws_them(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = save(tmp_path, [as_polygon(A), as_five_numbers(B)])
    (tmp_path / "report").mkdir()
    evaluate(Oracle([A, (30, 30, 20, 5, 1)], [0.9, 0.8]), tmp_path, path, report=tmp_path / "report")  # type: ignore[arg-type]
    assert "0.png" in (tmp_path / "report" / "index.html").read_text()


def test_crowds_count_the_part_inside() -> None:
    found = np.array([[0, 0, 10, 10, 0.3]], np.float32)
    crowd, same = (0.0, 0.0, 40.0, 40.0, 0.3), (0.0, 0.0, 10.0, 10.0, 0.3)
    np.testing.assert_allclose(overlaps(found, [crowd, crowd, same], [True, False, False]), [[1, 1 / 16, 1]], atol=1e-6)
    flat = np.array([[0, 0, 0, 0, 0]], np.float32)
    assert overlaps(flat, [(0, 0, 0, 0, 0)], [False]).tolist() == [[0]]


def test_a_polygon_becomes_its_smallest_rectangle(tmp_path: Path) -> None:
    x, y, width, height, angle = rotated_box([0, 0, 1, 1], [corners(B)])  # type: ignore[misc]
    assert (x, y) == near((B[0], B[1])) or (x, y) == pytest.approx((B[0], B[1]), abs=1e-3)
    assert sorted((width, height)) == pytest.approx([10, 40], abs=1e-3)
    assert math.sin(2 * (angle - B[4])) == pytest.approx(0, abs=1e-4)
    crooked = rotated_box([0, 0, 1, 1], [[0, 0, 10, 1, 10, 5, 0, 5]])
    assert crooked is not None
    assert crooked[2] * crooked[3] == pytest.approx(50)
    (boxes,) = read_annotations(save(tmp_path, [as_five_numbers(A)])).boxes
    assert boxes[0].xywh == pytest.approx((50 - 40 / 2**0.5, 50 - 40 / 2**0.5, 80 / 2**0.5, 80 / 2**0.5), abs=1e-3)
    assert boxes[0].area == near(1200)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"bbox": [1, 2, 3, 4, 90]}, "with the angle in radians"),
        ({"bbox": [1, 2, -3, 4, 0.5]}, "is not a valid rotated box"),
        ({"bbox": [1, 2, 3]}, "not enough values"),
        ({"bbox": [1, 2, 3, 4], "segmentation": [[0, 0, 1, 0, 1, 1, 0, math.inf]]}, "not finite"),
    ],
)
def test_broken_annotations(item: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_annotations(save(tmp_path, [item]))


def test_annotations_without_any_rotation(tmp_path: Path) -> None:
    path = save(tmp_path, [{"bbox": [1, 2, 3, 4]}])
    with pytest.raises(ValueError, match="has upright boxes only, but the model detects rotated boxes"):
        evaluate(Oracle([A], [0.9]), tmp_path, path)  # type: ignore[arg-type]
