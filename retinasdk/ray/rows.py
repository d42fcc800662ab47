"""Detections as Arrow tables: one row for each image, or one for each box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from retinasdk._util.lazy import require
from retinasdk.detections import Detections
from retinasdk.ray.files import Result

ROWS = ("image", "box")


def check_rows(rows: str) -> None:
    """Raises `ValueError` if the kind of rows is unknown."""
    if rows not in ROWS:
        raise ValueError(f"rows must be 'image' or 'box', got {rows!r}")


def result_table(inputs: Any, results: Sequence[Result], labels: Sequence[str], *, is_rotated: bool, rows: str) -> Any:
    """Returns a table with the columns of the inputs and those of the results.

    Args:
        inputs: pyarrow.Table with a row for each image.
        results: For each image, its detections or the exception that it raised.
        labels: Class names of the model.
        is_rotated: Whether the model detects rotated boxes.
        rows: "image": one row for each image, with lists. "box": one row for each box; an image without boxes and one
            that failed have one row whose columns of boxes are null, so that no image is missing.

    Returns:
        The pyarrow.Table.
    """
    pa = require("pyarrow", "retinasdk.ray")
    empty = Detections.empty(labels)
    found = [empty if isinstance(result, Exception) else result for result in results]
    failed = np.array([isinstance(result, Exception) for result in results], bool)
    sizes = np.array([item.image_size or (0, 0) for item in found], np.int32).reshape(-1, 2)
    counts = np.array([len(item) for item in found], np.int64)
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(item.xyxy for item in found)])
    values = {
        "scores": pa.array(np.concatenate([np.zeros(0, np.float32), *(item.scores for item in found)])),
        "class_ids": pa.array(np.concatenate([np.zeros(0, np.int32), *(item.class_ids for item in found)])),
        "labels": pa.array([name for item in found for name in item.names], pa.string()),
    }
    per_image = {
        "width": pa.array(sizes[:, 1], mask=failed),
        "height": pa.array(sizes[:, 0], mask=failed),
        "error": pa.array([_message(result) for result in results], pa.string()),
    }
    columns = {name: inputs.column(name) for name in inputs.column_names}
    rotated = np.zeros((0, 5), np.float32)
    if is_rotated:
        rotated = np.concatenate([rotated, *(item.xywhr for item in found if item.xywhr is not None)])
    if rows == "image":
        offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32(), mask=np.append(failed, False))
        groups = {
            "boxes": _fixed(pa, boxes),
            **values,
            **({"rotated_boxes": _fixed(pa, rotated)} if is_rotated else {}),
        }
        lists = {name: pa.ListArray.from_arrays(offsets, column) for name, column in groups.items()}
        return pa.table(
            {
                **columns,
                "width": per_image["width"],
                "height": per_image["height"],
                **lists,
                "error": per_image["error"],
            }
        )
    # The position of each row's image, and of its box; -1 where there is none.
    images = np.repeat(np.arange(len(found)), np.maximum(counts, 1))
    order = np.full(len(images), -1)
    order[np.repeat(counts > 0, np.maximum(counts, 1))] = np.arange(counts.sum())
    take = pa.array(order, pa.int64(), mask=order < 0)
    flat = {name: pa.array(np.ascontiguousarray(boxes[:, side])) for side, name in enumerate(("x1", "y1", "x2", "y2"))}
    if is_rotated:
        names = ("center_x", "center_y", "box_width", "box_height", "angle")
        flat.update({name: pa.array(np.ascontiguousarray(rotated[:, side])) for side, name in enumerate(names)})
    flat.update(zip(("score", "class_id", "label"), values.values(), strict=True))
    at = pa.array(images)
    whole = pa.table({**columns, "width": per_image["width"], "height": per_image["height"]}).take(at)
    for name, column in flat.items():
        whole = whole.append_column(name, column.take(take))
    return whole.append_column("error", per_image["error"].take(at))


def _fixed(pa: Any, array: Any) -> Any:
    """Returns an array (n, k) as n lists of k values, without a conversion of the values."""
    return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])


def _message(result: Result) -> str | None:
    if not isinstance(result, Exception):
        return None
    return " ".join(str(result).split()) or type(result).__name__
