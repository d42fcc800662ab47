"""Reads and checks COCO-format annotation files."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from retinasdk._util.json_text import check_unicode
from retinasdk.evaluation.rotated import enclosing, rotated_box

_EXPECTED = (
    "expected COCO format, with the lists images (id, file_name), categories (id, name) and annotations (image_id, "
    "category_id, bbox of four numbers, or five for rotated boxes)"
)


class TrueBox(NamedTuple):
    """One annotated object.

    Attributes:
        category: Index into `Annotations.categories`.
        xywh: Left, top, width and height of the box, in pixels.
        area: Area of the object, in pixels.
        is_crowd: Whether the box marks a region of many objects, which COCO ignores.
        xywhr: Rotated box (center x, center y, width, height, angle), as in `Detections.xywhr`. None if the annotation
            has an upright box only.
    """

    category: int
    xywh: tuple[float, float, float, float]
    area: float
    is_crowd: bool
    xywhr: tuple[float, float, float, float, float] | None = None


@dataclass(frozen=True)
class Annotations:
    """The content of one annotation file. Images are in the order of their ids, as in pycocotools.

    Attributes:
        origin: The file.
        categories: Category names, in the order of the file.
        file_names: File name of each image, relative to the image folder.
        boxes: The annotated objects of each image.
    """

    origin: Path
    categories: tuple[str, ...]
    file_names: tuple[str, ...]
    boxes: tuple[tuple[TrueBox, ...], ...]

    def paths(self, folder: Path) -> list[Path]:
        """Returns the path of each image in `folder`.

        Raises:
            ValueError: If an image is missing, or outside the folder.
        """
        root = os.path.abspath(folder)
        for name in self.file_names:
            if not Path(os.path.abspath(folder / name)).is_relative_to(root):
                raise ValueError(
                    f"{self.origin} lists {name}, which is outside the folder of the images, {folder}; give the folder "
                    "that holds all of them, and names relative to it"
                )
        paths = [folder / name for name in self.file_names]
        missing = [name for name, path in zip(self.file_names, paths, strict=True) if not os.path.isfile(path)]
        if missing:
            others = f" ({len(missing)} of its {len(paths)} images are missing)" if len(missing) > 1 else ""
            raise ValueError(
                f"{self.origin} lists {missing[0]}, which is not in {folder}{others}; give the folder that holds it"
            )
        return paths


def read_annotations(path: Path) -> Annotations:
    """Reads a COCO-format JSON file.

    Raises:
        ValueError: If the file cannot be read or is not valid. The message says what is wrong.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read the annotations: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: expected COCO annotations in JSON, but the file cannot be parsed: {error}"
        ) from error
    try:
        return _parsed(path, content)
    except RecursionError:  # Values nested nearly as deeply as the parser allows: they cannot even be shown.
        raise ValueError(f"{path}: {_EXPECTED}, got lists or objects that are nested hundreds of levels deep") from None
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: {_EXPECTED}, got {type(error).__name__}: {error}") from error


def _parsed(path: Path, content: dict[str, Any]) -> Annotations:
    images = sorted(content["images"], key=lambda item: item["id"])
    categories = content["categories"]
    image_of_id = _numbered("image id", [item["id"] for item in images])
    category_of_id = _numbered("category id", [item["id"] for item in categories])
    names = tuple(_numbered("category name", [_text(item, "name") for item in categories]))
    file_names = tuple(_text(item, "file_name") for item in images)
    boxes: list[list[TrueBox]] = [[] for _ in images]
    for item in content["annotations"]:
        for key, known in (("image_id", image_of_id), ("category_id", category_of_id)):
            if item[key] not in known:
                raise ValueError(f"an annotation has {key} {item[key]!r}, which is not listed: {_short(item)}")
        boxes[image_of_id[item["image_id"]]].append(_box(item, category_of_id[item["category_id"]]))
    if not images:
        raise ValueError("the list of images is empty; at least one image is needed")
    return Annotations(path, names, file_names, tuple(map(tuple, boxes)))


def _box(item: dict[str, Any], category: int) -> TrueBox:
    given = [float(value) for value in item["bbox"]]
    xywhr = rotated_box(given, item.get("segmentation"))
    x, y, width, height = given if len(given) == 4 or xywhr is None else enclosing(xywhr)
    if not all(map(math.isfinite, (x, y, width, height))) or width < 0 or height < 0:
        raise ValueError(f"bbox {item['bbox']} is not a valid (x, y, width, height): {_short(item)}")
    usual = width * height if xywhr is None else xywhr[2] * xywhr[3]
    area = float(item.get("area", usual))
    if not math.isfinite(area) or area < 0:
        raise ValueError(f"area {item['area']} is not a valid number of pixels: {_short(item)}")
    return TrueBox(category, (x, y, width, height), area, bool(item.get("iscrowd", 0)), xywhr)


def _text(item: dict[str, Any], key: str) -> str:
    if not isinstance(item[key], str):
        raise ValueError(f"{key} {item[key]!r} is not a text")
    text: str = item[key]
    check_unicode(text)
    if "\0" in text:
        raise ValueError(f"{key} {text!r} contains a zero byte")
    return text


def _numbered(what: str, values: list[Any]) -> dict[Any, int]:
    repeated = [value for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise ValueError(f"the {what} {repeated[0]!r} appears twice")
    return {value: index for index, value in enumerate(values)}


def _short(item: dict[str, Any]) -> str:
    """Returns the annotation without its segmentation, which may have thousands of numbers."""
    return str({key: value for key, value in item.items() if key != "segmentation"})
