"""Boxes, names and confidence values on a picture, by Pillow."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from retinasdk._util.lazy import require
from retinasdk.images import ImageInput, as_rgb

if TYPE_CHECKING:
    from PIL import Image

    from retinasdk.detections import Detections

_MANY = 40  # from here on labels would hide the picture: boxes and scores only


def class_color(class_id: int) -> tuple[int, int, int]:
    """RGB of a class: hues a golden angle apart, so that neighbouring indices differ most."""
    red, green, blue = colorsys.hsv_to_rgb((0.38 + class_id * 0.61803398875) % 1.0, 0.85, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_detections(image: ImageInput, detections: Detections, *, tracks: Sequence[int] | None = None) -> Image.Image:
    """A new RGB Pillow image with the boxes of `detections`, the best on top.

    tracks: an id for each object, which then has its own colour and "#id" before its name; -1: none.
    Line width and letters grow with the picture. With more than 40 objects of one class the name is left out.
    """
    pillow, draw_module, fonts = (require(f"PIL.{name}", "drawing") for name in ("Image", "ImageDraw", "ImageFont"))
    picture = pillow.fromarray(as_rgb(image))
    draw = draw_module.Draw(picture)
    side = max(picture.size)
    many = len(detections) > _MANY
    font = fonts.load_default(size=max(9, round(side / (90 if many else 55))))
    width = max(1, round(side / 450))
    name_is_news = not many or len(set(detections.names)) > 1
    ids = [-1] * len(detections) if tracks is None else tracks
    for item, track in reversed(list(zip(detections, ids, strict=True))):
        box = _visible(item.xyxy, picture.size, margin=2 * width)
        if box is None:
            continue
        color = class_color(item.class_id if track < 0 else track)
        draw.rectangle(box, outline=color, width=width)
        text = f"{item.label} {item.score:.2f}" if name_is_news else f"{item.score:.2f}"
        if track >= 0:
            text = f"#{track} {text}"
        _tag(draw, box, text, font, color, picture.size)
    return picture  # type: ignore[no-any-return]


def _visible(
    box: tuple[float, float, float, float], size: tuple[int, int], margin: int
) -> tuple[float, float, float, float] | None:
    """The box cut to a little outside the picture: Pillow walks along edges, however long. None: nothing to draw."""
    x1, x2 = (min(max(x, -margin), size[0] + margin) for x in (box[0], box[2]))
    y1, y2 = (min(max(y, -margin), size[1] + margin) for y in (box[1], box[3]))
    return (x1, y1, x2, y2) if box[0] <= box[2] and box[1] <= box[3] else None


def _tag(
    draw: Any,
    box: tuple[float, float, float, float],
    text: str,
    font: Any,
    color: tuple[int, int, int],
    size: tuple[int, int],
) -> None:
    """The text on a filled ground above the box, or inside it where there is no room above."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    margin = 2
    width, height = right - left + 2 * margin, bottom - top + 2 * margin
    x = min(max(box[0], 0), max(0, size[0] - width))
    y = box[1] - height if box[1] >= height else min(max(box[1], 0), max(0, size[1] - height))
    draw.rectangle((x, y, x + width, y + height), fill=color)
    bright = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 140
    draw.text((x + margin - left, y + margin - top), text, font=font, fill=(0, 0, 0) if bright else (255, 255, 255))
