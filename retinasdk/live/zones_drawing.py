"""Zones, lines and their counts on a picture, by Pillow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from retinasdk._util.lazy import require
from retinasdk.live.zones import Point, Zones

if TYPE_CHECKING:
    from PIL import Image

    from retinasdk.live.counting import Counts

_COLOR = (255, 214, 10)
_FILL = (255, 214, 10, 40)


def draw_counts(picture: Image.Image, zones: Zones, counts: Counts) -> None:
    """Draws on an RGB picture: each zone with how many are in it, each line with how many went in and out."""
    modules = (require(f"PIL.{name}", "drawing") for name in ("ImageDraw", "ImageFont"))
    draw_module, fonts = modules
    draw = draw_module.Draw(picture, "RGBA")
    side = max(picture.size)
    font = fonts.load_default(size=max(10, round(side / 45)))
    width = max(2, round(side / 400))

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


def _label(draw: Any, at: tuple[float, float], text: str, font: Any, size: tuple[int, int]) -> None:
    """Black on the zones' colour, from that point to the right and down, moved into the picture."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    margin = 3
    width, height = right - left + 2 * margin, bottom - top + 2 * margin
    x, y = (
        min(max(0.0, place), max(0.0, edge - own)) for place, edge, own in zip(at, size, (width, height), strict=True)
    )
    draw.rectangle((x, y, x + width, y + height), fill=_COLOR)
    draw.text((x + margin - left, y + margin - top), text, font=font, fill=(0, 0, 0))
