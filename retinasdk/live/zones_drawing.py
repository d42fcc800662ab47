"""Draws zones, counting lines and their counts on a picture, with Pillow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from retinasdk._util.lazy import require
from retinasdk.drawing import LabelFont, font_size, line_width
from retinasdk.live.zones import Point, Zones

if TYPE_CHECKING:
    from PIL import Image

    from retinasdk.live.counting import Counts

_COLOR = (255, 214, 10)
_FILL = (255, 214, 10, 40)


def draw_counts(picture: Image.Image, zones: Zones, counts: Counts) -> None:
    """Draws each zone with the number of objects in it, and each line with the numbers that went in and out.

    Line width and font size follow the size of the picture, as those of `Detections.draw` do.

    Args:
        picture: The RGB picture to draw on. It is changed.
        zones: The zones and lines.
        counts: Their counts.
    """
    draw = require("PIL.ImageDraw", "drawing").Draw(picture, "RGBA")
    font = LabelFont(font_size(picture.size))
    width = max(2, line_width(picture.size))

    def pixels(point: Point) -> tuple[float, float]:
        return point[0] * picture.width, point[1] * picture.height

    for zone in zones.zones:
        corners = [pixels(point) for point in zone.polygon]
        draw.polygon(corners, fill=_FILL, outline=_COLOR, width=width)
        _label(draw, corners[0], f"{zone.name}: {counts.zones[zone.name]}", font, picture.size)
    for line in zones.lines:
        start, end = pixels(line.start), pixels(line.end)
        draw.line([start, end], fill=_COLOR, width=width)
        inside, outside = counts.lines[line.name]
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
        _label(draw, middle, f"{line.name}: {inside} in, {outside} out", font, picture.size)


def _label(draw: Any, at: tuple[float, float], text: str, font: LabelFont, size: tuple[int, int]) -> None:
    """Draws a label to the right of and below a point, moved into the picture."""
    x, y = (
        min(max(0.0, place), max(0.0, edge - own))
        for place, edge, own in zip(at, size, font.label_size(text), strict=True)
    )
    font.draw_label(draw, (x, y), text, _COLOR)
