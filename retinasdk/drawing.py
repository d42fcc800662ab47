"""Draws bounding boxes with class names and confidence scores on a picture, with Pillow."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from retinasdk._util.lazy import require
from retinasdk.images import ImageInput, as_rgb

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import Image

# Colors that stay apart from each other, and from most photos. Further classes get hues a golden angle apart.
_PALETTE = (
    *((0, 200, 83), (41, 121, 255), (255, 109, 0), (213, 0, 249), (255, 214, 0), (0, 184, 212)),
    *((255, 23, 68), (124, 77, 255), (174, 234, 0), (255, 128, 171), (0, 150, 136), (161, 98, 55)),
)
_GOLDEN_ANGLE = 0.61803398875  # of a full turn
_MANY = 40  # with more objects, labels are smaller, and the name is left out if there is a single class
_LEAST_FONT = 10  # pixels; smaller letters cannot be read
# How bad it is if a label covers all of another label, all of another object, or all of its own object.
_OVER_LABEL, _OVER_OTHER, _OVER_OWN = 4.0, 2.0, 3.0
_GOOD, _TOO_BAD = 0.25, 0.8  # a label that hides more is shortened; one that still hides too much is left out

_Box = tuple[float, float, float, float]


class _Detections(Protocol):
    """What is drawn: `retinasdk.Detections`."""

    @property
    def xyxy(self) -> npt.NDArray[np.float32]: ...
    @property
    def scores(self) -> npt.NDArray[np.float32]: ...
    @property
    def class_ids(self) -> npt.NDArray[np.int32]: ...
    @property
    def labels(self) -> tuple[str, ...]: ...


def class_color(class_id: int) -> tuple[int, int, int]:
    """Returns the RGB color of a class, 0 to 255. A class has the same color in every picture and every run."""
    if 0 <= class_id < len(_PALETTE):
        return _PALETTE[class_id]
    lightness = (0.95, 0.7)[class_id % 2]
    red, green, blue = colorsys.hsv_to_rgb(class_id * _GOLDEN_ANGLE % 1.0, 0.8, lightness)
    return round(red * 255), round(green * 255), round(blue * 255)


def text_color(background: tuple[int, int, int]) -> tuple[int, int, int]:
    """Returns black or white, whichever has the higher contrast on a background (WCAG 2.1, relative luminance)."""
    linear = [v / 12.92 if (v := c / 255) <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for c in background]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    # Contrast is (lighter + 0.05) / (darker + 0.05): equal for both at the root of 1.05 * 0.05.
    return (0, 0, 0) if luminance + 0.05 > math.sqrt(1.05 * 0.05) else (255, 255, 255)


def draw_detections(image: ImageInput, detections: _Detections, *, tracks: Sequence[int] | None = None) -> Image.Image:
    """Draws detections on a copy of an image, highest scores on top.

    Line width and font size follow the size of the picture. A label is placed where it covers no other label and as
    little of the objects as possible; it is shortened to the score, or left out, where it would hide too much.

    Args:
        image: The image, as `Detector` accepts it.
        detections: What to draw, in pixels of that image.
        tracks: A track id for each detection, -1 for none. A track has a color of its own, and "#id" before its name.

    Returns:
        A new RGB Pillow image.

    Raises:
        ImageError: If the image cannot be read.
    """
    pillow, draw_module = (require(f"PIL.{name}", "drawing") for name in ("Image", "ImageDraw"))
    picture = pillow.fromarray(as_rgb(image))
    draw = draw_module.Draw(picture)
    count = len(detections.scores)
    scale = math.sqrt(picture.width * picture.height)
    line = max(1, round(scale / 320))
    font = _font(max(_LEAST_FONT, round(scale / (70 if count > _MANY else 42))))
    ids = [-1] * count if tracks is None else list(tracks)
    colors = [class_color(int(c if t < 0 else t)) for c, t in zip(detections.class_ids, ids, strict=True)]
    order = np.argsort(-detections.scores, kind="stable")  # highest first

    visible = {int(index): box for index in order if (box := _clipped(detections.xyxy[index], picture.size, 2 * line))}
    for index in reversed(visible):
        box = visible[index]
        # The line of a small object must not fill it.
        thickness = max(1, min(line, int(min(box[2] - box[0], box[3] - box[1]) / 6)))
        draw.rectangle(box, outline=colors[index], width=thickness)
    placer = _LabelPlacer(detections.xyxy, picture.size)
    labels = []
    for index in visible:
        label: tuple[float, _Box, str, tuple[float, float]] | None = None
        for text in _texts(detections, index, ids[index]):  # the longest first
            left, top, right, bottom = font.getbbox(text)
            margin = max(1, round((bottom - top) / 6))
            cost, place = placer.best(index, right - left + 2 * margin, bottom - top + 2 * margin)
            if label is None or cost < label[0]:
                label = cost, place, text, (place[0] + margin - left, place[1] + margin - top)
            if cost <= _GOOD:
                break
        if label is not None and label[0] <= _TOO_BAD:
            placer.take(label[1])
            labels.append((*label[1:], colors[index]))
    for place, text, at, color in reversed(labels):
        draw.rectangle((place[0], place[1], place[2] - 1, place[3] - 1), fill=color)
        draw.text(at, text, font=font, fill=text_color(color))
    return picture  # type: ignore[no-any-return]


def _font(size: int) -> Any:
    fonts = require("PIL.ImageFont", "drawing")
    try:
        return fonts.load_default(size=size)
    except (ImportError, OSError):  # Pillow without FreeType has one bitmap font
        return fonts.load_default()


def _texts(detections: _Detections, index: int, track: int) -> list[str]:
    """Returns the label of a detection in decreasing length."""
    score = f"{detections.scores[index]:.2f}"
    number = f"#{track} " if track >= 0 else ""
    name = detections.labels[int(detections.class_ids[index])]
    full, short = f"{number}{name} {score}", f"{number}{score}"
    only_class = bool((detections.class_ids == detections.class_ids[0]).all())
    return [short] if len(detections.scores) > _MANY and only_class else [full, short]


def _clipped(xyxy: npt.NDArray[np.float32], size: tuple[int, int], margin: int) -> _Box | None:
    """Clips a box to slightly outside the picture, since Pillow draws edges pixel by pixel, however long they are.

    Returns None if there is nothing to draw.
    """
    box = [float(value) for value in xyxy]
    x1, x2 = (min(max(x, -margin), size[0] + margin) for x in (box[0], box[2]))
    y1, y2 = (min(max(y, -margin), size[1] + margin) for y in (box[1], box[3]))
    return (x1, y1, x2, y2) if box[0] <= box[2] and box[1] <= box[3] else None


class _LabelPlacer:
    """Finds places for labels, one by one, so that they hide as little as possible."""

    def __init__(self, boxes: npt.NDArray[np.float32], size: tuple[int, int]) -> None:
        self._size = size
        limits = np.array([*size, *size], np.float64)
        self._boxes = np.clip(np.asarray(boxes, np.float64).reshape(-1, 4), 0, limits)
        self._areas = np.maximum((self._boxes[:, 2:] - self._boxes[:, :2]).prod(axis=1), 1.0)
        self._labels = np.zeros((0, 4))

    def best(self, index: int, width: float, height: float) -> tuple[float, _Box]:
        """Returns the place (x1, y1, x2, y2) where the label of a box hides least, and how bad it is there."""
        if width > self._size[0] or height > self._size[1]:
            return math.inf, (0.0, 0.0, width, height)
        x1, y1, x2, y2 = self._boxes[index]
        corners = np.array(
            [
                (x1, y1 - height),  # above, from the left edge
                (x2 - width, y1 - height),  # above, to the right edge
                (x1, y2),  # below
                (x2 - width, y2),
                (x2, y1),  # beside
                (x1 - width, y1),
                (x1, y1),  # inside, at the top
                (x1, y2 - height),
            ]
        )
        # A place outside of the picture moves in; what it hides there counts against it.
        corners = np.clip(corners, 0, (self._size[0] - width, self._size[1] - height)).round()
        places = np.concatenate([corners, corners + np.array([width, height])], axis=1)
        hidden = _overlap(places, self._boxes) / self._areas
        own = hidden[:, index].copy()
        hidden[:, index] = 0.0
        # A large object loses nothing by a label: what counts is the share of each object that is hidden.
        cost = _OVER_OTHER * hidden.max(axis=1, initial=0.0) + _OVER_OWN * own
        cost += _OVER_LABEL * _overlap(places, self._labels).sum(axis=1) / (width * height)
        best = int(np.argmin(cost + np.arange(len(places)) * 1e-3))  # of equal ones the first
        x1, y1, x2, y2 = map(float, places[best])
        return float(cost[best]), (x1, y1, x2, y2)

    def take(self, place: _Box) -> None:
        """Keeps later labels away from a place."""
        self._labels = np.concatenate([self._labels, [place]])


def _overlap(places: npt.NDArray[np.float64], boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns (places, boxes) areas that both cover."""
    low = np.maximum(places[:, None, :2], boxes[None, :, :2])
    high = np.minimum(places[:, None, 2:], boxes[None, :, 2:])
    areas: npt.NDArray[np.float64] = np.clip(high - low, 0, None).prod(axis=2)
    return areas
