"""Draws bounding boxes with class names and confidence scores on a picture, with Pillow.

`line_width`, `font_size` and `LabelFont` also serve the other pictures of the package.
"""

from __future__ import annotations

import colorsys
import functools
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
_PREFERENCE = 0.02  # a later place must be better by this much than the one before: most labels are above their box
_WIDEST = 0.6  # of the picture's width; a wider label is shortened
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
    @property
    def xywhr(self) -> npt.NDArray[np.float32] | None: ...
    @property
    def polygons(self) -> npt.NDArray[np.float32]: ...
    @property
    def tracks(self) -> npt.NDArray[np.int64] | None: ...


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


def line_width(size: tuple[int, int]) -> int:
    """Returns the width in pixels of lines on a picture of size (width, height): 1 at 64 x 64, 4 at 1920 x 1080."""
    return max(1, round(math.sqrt(size[0] * size[1]) / 320))


def font_size(size: tuple[int, int], scale: float = 1.0) -> int:
    """Returns the font size in pixels for a picture of size (width, height): 10 at 64 x 64, 34 at 1920 x 1080."""
    return max(_LEAST_FONT, round(math.sqrt(size[0] * size[1]) / 42 * scale))


class LabelFont:
    """Draws labels, which are text on a filled rectangle, in Pillow's built-in font.

    Args:
        size: Font size in pixels.
    """

    def __init__(self, size: int) -> None:
        self._font = _load_font(size)
        # The same for all labels, so that they are equally high and their letters stand on one line.
        _, self._top, _, bottom = self._font.getbbox("0Ag")
        self._margin = max(1, size // 6)
        self._height = int(bottom - self._top) + 2 * self._margin

    def label_size(self, text: str) -> tuple[int, int]:
        """Returns (width, height) in pixels of a label with one line of text."""
        return math.ceil(self._font.getlength(text)) + 2 * self._margin, self._height

    def draw_label(self, draw: Any, at: tuple[float, float], text: str, color: tuple[int, int, int]) -> None:
        """Draws a label with its upper left corner at (x, y), in black or white on a background color.

        Args:
            draw: A Pillow `ImageDraw`.
            at: (x, y) in pixels.
            text: One line of text.
            color: RGB of the background, 0 to 255.
        """
        x, y = round(at[0]), round(at[1])
        width, height = self.label_size(text)
        draw.rectangle((x, y, x + width - 1, y + height - 1), fill=color)
        position = (x + self._margin, y + self._margin - self._top)
        draw.text(position, text, font=self._font, fill=text_color(color))


@functools.lru_cache(maxsize=16)
def _load_font(size: int) -> Any:
    fonts = require("PIL.ImageFont", "drawing")
    try:
        return fonts.load_default(size=size)
    except (ImportError, OSError):  # Pillow without FreeType has one bitmap font
        return fonts.load_default()


def draw_detections(image: ImageInput, detections: _Detections, *, tracks: Sequence[int] | None = None) -> Image.Image:
    """Draws detections on a copy of an image, highest scores on top.

    Line width and font size follow the size of the picture. A label is placed where it covers no other label and as
    little of the objects as possible; it is shortened to the score, or left out, where it would hide too much.

    Args:
        image: The image, as `Detector` accepts it.
        detections: What to draw, in pixels of that image.
        tracks: A number for each object, -1 for none. An object with a number has a color of its own, and "#number"
            before its name. Defaults to `detections.tracks`.

    Returns:
        A new RGB Pillow image.

    Raises:
        ImageError: If the image cannot be read.
    """
    pillow, draw_module = (require(f"PIL.{name}", "drawing") for name in ("Image", "ImageDraw"))
    picture = pillow.fromarray(as_rgb(image))
    draw = draw_module.Draw(picture)
    count = len(detections.scores)
    line = line_width(picture.size)
    font = LabelFont(font_size(picture.size, 0.6 if count > _MANY else 1.0))
    if tracks is None:
        tracks = [-1] * count if detections.tracks is None else detections.tracks.tolist()
    ids = list(tracks)
    colors = [class_color(int(c if t < 0 else t)) for c, t in zip(detections.class_ids, ids, strict=True)]
    order = np.argsort(-detections.scores, kind="stable")  # highest first

    visible = {int(index): box for index in order if (box := _clipped(detections.xyxy[index], picture.size, 2 * line))}
    for index in reversed(visible):
        box = visible[index]
        # The line of a small object must not fill it.
        sides = (box[2] - box[0], box[3] - box[1]) if detections.xywhr is None else detections.xywhr[index, 2:4]
        thickness = max(1, min(line, int(min(sides) / 6)))
        if detections.xywhr is None:
            draw.rectangle(box, outline=colors[index], width=thickness)
        else:
            draw_polygon(draw, detections.polygons[index].tolist(), picture.size, colors[index], thickness)
    placer = _LabelPlacer(detections.xyxy, picture.size)
    has_names = count <= _MANY or len(np.unique(detections.class_ids)) > 1
    labels = []
    for index in visible:
        label: tuple[float, _Box, str] | None = None
        for text in _texts(detections, index, ids[index], has_name=has_names):  # the longest first
            cost, place = placer.best(index, *font.label_size(text))
            if label is None or cost < label[0]:
                label = cost, place, text
            if cost <= _GOOD:
                break
        if label is not None and label[0] <= _TOO_BAD:
            placer.take(label[1])
            labels.append((label[1], label[2], colors[index]))
    for place, text, color in reversed(labels):
        font.draw_label(draw, place[:2], text, color)
    return picture  # type: ignore[no-any-return]


def _texts(detections: _Detections, index: int, track: int, *, has_name: bool) -> list[str]:
    """Returns the label of a detection in decreasing length."""
    score = f"{detections.scores[index]:.2f}"
    number = f"#{track} " if track >= 0 else ""
    name = detections.labels[int(detections.class_ids[index])]
    full, short = " ".join(f"{number}{name} {score}".split()), f"{number}{score}"  # line breaks in names are blanks
    return [full, short] if has_name else [short]


def _clipped(xyxy: npt.NDArray[np.float32], size: tuple[int, int], margin: int) -> _Box | None:
    """Clips a box to slightly outside the picture, since Pillow draws edges pixel by pixel, however long they are.

    Returns None if there is nothing to draw.
    """
    box = [float(value) for value in xyxy]
    x1, x2 = (min(max(x, -margin), size[0] + margin) for x in (box[0], box[2]))
    y1, y2 = (min(max(y, -margin), size[1] + margin) for y in (box[1], box[3]))
    return (x1, y1, x2, y2) if box[0] <= box[2] and box[1] <= box[3] else None


def draw_polygon(
    draw: Any, corners: Sequence[Sequence[float]], size: tuple[int, int], color: tuple[int, int, int] | str, width: int
) -> None:
    """Draws the outline of a polygon on a picture.

    Args:
        draw: A Pillow `ImageDraw`.
        corners: Corners (x, y) in pixels.
        size: (width, height) of the picture in pixels.
        color: Color of the lines.
        width: Width of the lines in pixels.
    """
    for start, end in zip(corners, [*corners[1:], *corners[:1]], strict=True):
        visible = _visible_part(start, end, size, 2 * width)
        if visible is not None:
            draw.line(visible, fill=color, width=width, joint="curve")


def _visible_part(
    start: Sequence[float], end: Sequence[float], size: tuple[int, int], margin: int
) -> tuple[float, float, float, float] | None:
    """Clips a line to slightly outside the picture (Liang and Barsky, 1984), for the reason that `_clipped` has."""
    first, last = 0.0, 1.0
    for axis in (0, 1):
        step = end[axis] - start[axis]
        for distance, slope in ((start[axis] + margin, step), (size[axis] + margin - start[axis], -step)):
            if slope == 0:
                if distance < 0:
                    return None
            elif slope > 0:
                first = max(first, -distance / slope)
            else:
                last = min(last, distance / -slope)
    if not first <= last:  # Also for coordinates that are not numbers.
        return None
    (x1, y1), (x2, y2) = ([start[a] + t * (end[a] - start[a]) for a in (0, 1)] for t in (first, last))
    return x1, y1, x2, y2


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
        if width > _WIDEST * self._size[0] or height > self._size[1]:
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
        # A large object loses nothing by a label: what counts is the square of the share that is hidden of each object.
        cost = _OVER_OTHER * hidden.max(axis=1, initial=0.0) ** 2 + _OVER_OWN * own
        cost += _OVER_LABEL * _overlap(places, self._labels).sum(axis=1) / (width * height)
        best = int(np.argmin(cost + np.arange(len(places)) * _PREFERENCE))  # above the box, unless that hides something
        x1, y1, x2, y2 = map(float, places[best])
        return float(cost[best]), (x1, y1, x2, y2)

    def take(self, place: _Box) -> None:
        """Keeps later labels away from a place."""
        self._labels = np.concatenate([self._labels, [place]])


def _overlap(places: npt.NDArray[np.float64], boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns (places, boxes) areas that both cover."""
    widths = np.minimum(places[:, None, 2], boxes[:, 2]) - np.maximum(places[:, None, 0], boxes[:, 0])
    heights = np.minimum(places[:, None, 3], boxes[:, 3]) - np.maximum(places[:, None, 1], boxes[:, 1])
    areas: npt.NDArray[np.float64] = np.maximum(widths, 0) * np.maximum(heights, 0)
    return areas
