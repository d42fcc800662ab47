"""Reads the boxes that a framework printed as JSON."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk._util.box_matching import Boxes
from retinasdk._util.json_text import parse_json

if TYPE_CHECKING:
    import numpy.typing as npt

BOX_FORMATS = ("xyxy", "xywh", "cxcywh")
# Names by which the frameworks call their lists.
_BOXES = ("boxes", "bboxes", "pred_boxes", "xyxy")
_SCORES = ("scores", "confidence")
_LABELS = ("labels", "classes", "pred_classes", "class_ids")
_MAX_BYTES = 1 << 28
_FORMS = (
    '{"boxes": [[x1, y1, x2, y2], ...], "scores": [...], "labels": [...]} or a COCO results list '
    '[{"bbox": [x, y, width, height], "score": ..., "category_id": ...}, ...]'
)


def as_xyxy(boxes: npt.NDArray[np.float64], box_format: str) -> npt.NDArray[np.float64]:
    """Converts boxes (n, 4) of one of `BOX_FORMATS` to corners."""
    if box_format == "xyxy":
        return boxes
    start, size = boxes[:, :2], boxes[:, 2:]
    if box_format == "cxcywh":
        start = start - size / 2
    return np.concatenate([start, start + size], axis=1)


def read_expected(
    expected: str | os.PathLike[str] | Mapping[str, Any] | Sequence[Any],
    labels: Sequence[str],
    box_format: str | None,
) -> tuple[Boxes, str]:
    """Reads boxes, scores and classes of one image.

    Args:
        expected: Path of a JSON file, or its content.
        labels: Labels of the model, by class index.
        box_format: One of `BOX_FORMATS`. None: "xywh" for a COCO results list, else "xyxy".

    Returns:
        The boxes as corners, and their format.

    Raises:
        ValueError: The file cannot be read, or has another content. The message says what was expected.
    """
    origin = "expected"
    if isinstance(expected, (str, os.PathLike)):
        origin = os.fspath(expected)
        expected = _load(Path(expected))
    if isinstance(expected, Sequence) and len(expected) == 1 and _is_table(expected[0]):
        expected = expected[0]  # The list of images that torchvision returns, with one image.
    if _is_table(expected):
        columns = [_column(expected, names, origin) for names in (_BOXES, _SCORES, _LABELS)]
        usual = "xyxy"
    elif (entries := _entries(expected)) is not None:
        images = {str(item.get("image_id")) for item in entries}
        if len(images) > 1:
            raise ValueError(f"{origin} has results of {len(images)} images; keep those of the one that is compared")
        columns = [[_entry(item, name, origin) for item in entries] for name in ("bbox", "score", "category_id")]
        usual = "xywh"
    else:
        raise ValueError(f"{origin} must be {_FORMS}")
    box_format = box_format or usual
    return _boxes(columns, labels, box_format, origin), box_format


def _load(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"{path} is no file; give the JSON file with the boxes of the framework")
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path} has more than {_MAX_BYTES >> 20} MiB, too much for the boxes of one image")
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}. It must be {_FORMS}") from error


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping) and any(name in value for name in _BOXES)


def _entries(value: Any) -> list[Mapping[str, Any]] | None:
    """Returns the entries of a COCO results list, or None if the value is none."""
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return list(value) if is_list and all(isinstance(item, Mapping) for item in value) else None


def _column(table: Any, names: Sequence[str], origin: str) -> Any:
    for name in names:
        if name in table:
            return table[name]
    raise ValueError(f"{origin} has no {names[0]!r}, only {', '.join(map(str, table))}; it must be {_FORMS}")


def _entry(item: Mapping[str, Any], name: str, origin: str) -> Any:
    if name not in item:
        raise ValueError(f"{origin}: an entry of the list has no {name!r}; it must be {_FORMS}")
    return item[name]


def _boxes(columns: Sequence[Any], labels: Sequence[str], box_format: str, origin: str) -> Boxes:
    if box_format not in BOX_FORMATS:
        raise ValueError(f"the box format must be one of {', '.join(BOX_FORMATS)}; got {box_format!r}")
    try:
        boxes, scores = (np.asarray(column, np.float64) for column in columns[:2])
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{origin}: boxes and scores must be numbers: {error}; it must be {_FORMS}") from error
    classes = _class_ids(columns[2], labels, origin)
    boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != (len(boxes),) or classes.shape != (len(boxes),):
        raise ValueError(
            f"{origin}: boxes, scores and labels must have the shapes (n, 4), (n) and (n), got {boxes.shape}, "
            f"{scores.shape} and {classes.shape}"
        )
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise ValueError(f"{origin}: boxes and scores must be finite numbers")
    # Keras fills a fixed number of rows with scores of -1.
    return Boxes(as_xyxy(boxes, box_format), scores, classes).take(scores >= 0)


def _class_ids(values: Any, labels: Sequence[str], origin: str) -> npt.NDArray[np.int64]:
    """Returns class indices; names are looked up among the labels of the model."""
    index_of = {label: index for index, label in reversed(list(enumerate(labels)))}
    found = []
    for value in values if isinstance(values, Sequence) and not isinstance(values, str) else np.atleast_1d(values):
        if isinstance(value, str):
            if value not in index_of:
                raise ValueError(
                    f"{origin}: the class {value!r} is no label of the model; its labels are "
                    f"{', '.join(labels[:10])}{', ...' if len(labels) > 10 else ''}"
                )
            found.append(index_of[value])
        elif isinstance(value, (int, float, np.integer, np.floating)) and value % 1 == 0:
            found.append(int(value))
        else:
            raise ValueError(f"{origin}: labels must be class indices or names, got {value!r}")
    if any(abs(value) >= 1 << 31 for value in found):
        raise ValueError(f"{origin}: a class index is out of range")
    return np.array(found, np.int64)
