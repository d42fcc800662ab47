"""Tables of results: their types, their rows, and the bits of the detections."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from retinasdk import Detections, ImageError

pa = pytest.importorskip("pyarrow")
LABELS = ("ship", "plane")


def some(count: int, seed: int) -> Detections:
    boxes = np.random.default_rng(seed).random((count, 4), np.float32)
    found = Detections(boxes, boxes[:, 0], np.arange(count) % 2, LABELS)
    object.__setattr__(found, "image_size", (30 + count, 40))
    return found


def table(rows: str, results: list[Any], is_rotated: bool = False) -> Any:
    from retinasdk.ray.rows import result_table

    inputs = pa.table({"path": pa.array([f"{number}.jpg" for number in range(len(results))], pa.string())})
    return result_table(inputs, results, LABELS, is_rotated=is_rotated, rows=rows)


def test_a_row_for_each_image() -> None:
    results = [some(3, 1), ImageError("0.jpg:\n broken"), some(0, 2), some(1, 3)]
    made = table("image", results)
    assert [(field.name, str(field.type)) for field in made.schema] == [
        ("path", "string"),
        ("width", "int32"),
        ("height", "int32"),
        ("boxes", "list<item: fixed_size_list<item: float>[4]>"),
        ("scores", "list<item: float>"),
        ("class_ids", "list<item: int32>"),
        ("labels", "list<item: string>"),
        ("error", "string"),
    ]
    for row, result in zip(made.to_pylist(), results, strict=True):
        if isinstance(result, Exception):
            assert row["error"] == "0.jpg: broken"
            assert {name for name, value in row.items() if value is None} == set(row) - {"path", "error"}
            continue
        assert (row["height"], row["width"], row["error"]) == (*result.image_size, None)  # type: ignore[misc]
        assert np.array(row["boxes"], np.float32).tobytes() == result.xyxy.tobytes()
        assert np.array(row["scores"], np.float32).tobytes() == result.scores.tobytes()
        assert row["class_ids"] == result.class_ids.tolist()
        assert row["labels"] == list(result.names)


def test_a_row_for_each_box() -> None:
    results = [some(3, 1), ImageError("broken"), some(0, 2), some(1, 3)]
    made = table("box", results).to_pylist()
    assert [row["path"] for row in made] == ["0.jpg"] * 3 + ["1.jpg", "2.jpg", "3.jpg"]
    assert [row["error"] for row in made] == [None] * 3 + ["broken", None, None]
    assert [row["width"] for row in made] == [40] * 3 + [None, 40, 40]
    for row, item in zip([*made[:3], made[5]], [*results[0], *results[3]], strict=True):
        assert (row["x1"], row["y1"], row["x2"], row["y2"]) == item.xyxy
        assert (row["score"], row["class_id"], row["label"]) == (item.score, item.class_id, item.label)
    for row in made[3:5]:
        assert {row[name] for name in ("x1", "y1", "x2", "y2", "score", "class_id", "label")} == {None}


@pytest.mark.parametrize("rows", ["image", "box"])
def test_rotated_boxes(rows: str) -> None:
    boxes = np.array([[50, 40, 40, 20, 0.3], [30, 30, 20, 10, -1.2]], np.float32)
    found = Detections.rotated(boxes, np.array([0.9, 0.8]), np.array([0, 1]), LABELS)
    object.__setattr__(found, "image_size", (90, 90))
    made = table(rows, [ImageError("x"), found], is_rotated=True).to_pylist()
    if rows == "image":
        assert np.array(made[1]["rotated_boxes"], np.float32).tobytes() == boxes.tobytes()
        assert made[0]["rotated_boxes"] is None
    else:
        names = ("center_x", "center_y", "box_width", "box_height", "angle")
        assert np.array([[row[name] for name in names] for row in made[1:]], np.float32).tobytes() == boxes.tobytes()


@pytest.mark.parametrize("rows", ["image", "box"])
def test_all_or_no_images_can_fail(rows: str) -> None:
    columns = table(rows, [some(2, 1)]).schema
    assert table(rows, [ImageError("x"), ImageError("y")]).schema == columns
    assert table(rows, []).schema == columns
