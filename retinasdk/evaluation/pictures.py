"""Draws the mistakes of a detector: missed objects and false detections."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from retinasdk._util.lazy import require
from retinasdk.detections import Detections, rotated_corners
from retinasdk.drawing import LabelFont, draw_polygon, font_size, line_width
from retinasdk.evaluation.annotations import TrueBox
from retinasdk.evaluation.charts import FALSE, MISSED, TRUE
from retinasdk.evaluation.coco import ImageMatches
from retinasdk.evaluation.rotated import Rotated
from retinasdk.images import ImageInput, as_rgb

_MANY = 20  # with more mistakes, names and scores would hide the picture
_LONGER_SIDE = (640, 1600)  # small pictures are enlarged, so that names can be read

Box = tuple[float, float, float, float]


def draw_mistakes(
    image: ImageInput, boxes: Sequence[TrueBox], names: Sequence[str], detections: Detections, matches: ImageMatches
) -> bytes:
    """Draws missed boxes in red, false detections in orange and right ones in green.

    Missed boxes carry their names, false ones name and score. The name is left out if there is a single class, and all
    text if there are more than 20 mistakes.

    Args:
        image: The image, as `Detector` accepts it.
        boxes: The annotated objects.
        names: Name of each annotated object.
        detections: The detections.
        matches: Which of them match.

    Returns:
        A JPEG file. Small images are enlarged so that names can be read.
    """
    pillow, draw_module = (require(f"PIL.{name}", "drawing") for name in ("Image", "ImageDraw"))
    picture = pillow.fromarray(as_rgb(image))
    longer = max(picture.size)
    scale = min(max(longer, _LONGER_SIDE[0]), _LONGER_SIDE[1]) / longer
    if scale != 1:
        size = tuple(max(1, round(side * scale)) for side in picture.size)
        picture = picture.resize(size, pillow.Resampling.BILINEAR)
    draw = draw_module.Draw(picture)
    font = LabelFont(font_size(picture.size))
    width = max(2, line_width(picture.size))
    has_words = matches.missed.sum() + matches.false.sum() <= _MANY
    has_names = has_words and len(detections.labels) > 1
    found = list(detections)
    for item, is_true in zip(found, matches.true, strict=True):
        if is_true:
            _mark(draw, picture.size, _scaled(item.xyxy, scale), TRUE, width, "", font, _turned(item.xywhr, scale))
    for item, is_false in zip(found, matches.false, strict=True):
        if is_false:
            text = f"{item.label} {item.score:.2f}" if has_names else f"{item.score:.2f}"
            text = text if has_words else ""
            _mark(draw, picture.size, _scaled(item.xyxy, scale), FALSE, width, text, font, _turned(item.xywhr, scale))
    for box, name, is_missed in zip(boxes, names, matches.missed, strict=True):
        if is_missed:
            x, y, w, h = box.xywh
            box_in_picture = _scaled((x, y, x + w, y + h), scale)
            turned = _turned(None if detections.xywhr is None else box.xywhr, scale)
            _mark(draw, picture.size, box_in_picture, MISSED, width, name if has_names else "", font, turned)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90, subsampling=0)  # chroma subsampling would blur thin colored lines
    return file.getvalue()


def _scaled(xyxy: Box, scale: float) -> Box:
    x1, y1, x2, y2 = (value * scale for value in xyxy)
    return x1, y1, x2, y2


def _turned(xywhr: Rotated | None, scale: float) -> list[list[float]] | None:
    """Returns the corners of a rotated box in the picture."""
    return None if xywhr is None else (rotated_corners(np.array([xywhr], np.float32))[0] * scale).tolist()


def _mark(
    draw: Any,
    size: tuple[int, int],
    box: Box,
    color: str,
    width: int,
    text: str,
    font: LabelFont,
    corners: list[list[float]] | None,
) -> None:
    """Draws a box clipped to the picture, with `text` above it, or inside if there is no room above.

    `corners` are those of a rotated box, which is drawn in place of `box` around it.
    """
    x1, x2 = (min(max(x, 0.0), size[0] - 1.0) for x in (box[0], box[2]))
    y1, y2 = (min(max(y, 0.0), size[1] - 1.0) for y in (box[1], box[3]))
    if corners is None:
        draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=color, width=width)
    else:
        draw_polygon(draw, corners, size, color, width)
    if not text:
        return
    label_width, label_height = font.label_size(text)
    x = min(x1, max(0.0, size[0] - label_width))
    y = y1 - label_height if y1 >= label_height else y1
    font.draw_label(draw, (x, y), text, _rgb(color))


def _rgb(color: str) -> tuple[int, int, int]:
    """The red, green and blue of "#rrggbb"."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
