"""Zones and lines in the image of a camera, and the JSON file that describes them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from retinasdk._util.json_text import parse_json

ANCHORS = ("bottom_center", "center", "top_center")
_MOST = 100  # of zones, of lines, of corners of a zone
_MAX_BYTES = 1_000_000
_LARGEST = 1e9  # pixels

Point = tuple[float, float]


@dataclass(frozen=True)
class Zone:
    """An area of the image in which objects are counted.

    Attributes:
        name: The name, unique among zones and lines.
        polygon: At least 3 corners (x, y), as shares of the image's width and height, from 0 to 1.
        classes: The class labels that are counted. Empty (the default): all.
        anchor: Which point of a box has to be inside: "bottom_center" (the default), "center" or "top_center".
    """

    name: str
    polygon: tuple[Point, ...]
    classes: tuple[str, ...] = ()
    anchor: str = "bottom_center"


@dataclass(frozen=True)
class Line:
    """A line at which crossing objects are counted, in both directions.

    Looking from `start` to `end` in the image, an object that crosses to the left goes in, and one that crosses to the
    right goes out.

    Attributes:
        name: The name, unique among zones and lines.
        start: (x, y), as shares of the image's width and height, from 0 to 1.
        end: (x, y), like `start`.
        classes: The class labels that are counted. Empty (the default): all.
        anchor: Which point of a box has to cross the line: "bottom_center" (the default), "center" or "top_center".
    """

    name: str
    start: Point
    end: Point
    classes: tuple[str, ...] = ()
    anchor: str = "bottom_center"


@dataclass(frozen=True)
class Zones:
    """Zones and lines. `Zones.load` reads them from a file, as does `retinasdk live --zones`.

    The file is JSON:

        {"size": [768, 432],
         "zones": [{"name": "table", "polygon": [[330, 80], [600, 80], [600, 430], [330, 430]], "classes": ["person"]}],
         "lines": [{"name": "door", "from": [0, 300], "to": [768, 300]}]}

    "size" is the width and height of the image in which the coordinates were measured, in pixels. Without "size",
    coordinates are shares from 0 to 1. Either way, frames may have any size. Zones and lines may have "classes" and
    "anchor".

    Attributes:
        zones: The zones.
        lines: The lines.
    """

    zones: tuple[Zone, ...] = ()
    lines: tuple[Line, ...] = ()

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Zones:
        """Reads a file.

        Args:
            path: The JSON file.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If its content is wrong. The text names the file, the entry and what was expected.
        """
        name = os.fspath(path)
        with Path(path).open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ValueError(f"{name}: the file is too large; zones and lines take at most {_MAX_BYTES:,} bytes")
        try:
            entries = parse_json(content)
        except ValueError as error:
            raise ValueError(f"{name}: cannot be read as JSON: {error}") from error
        return _Reader(name).zones(entries)


class _Reader:
    """Checks and converts the content of a file."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._size: tuple[float, float] = (1.0, 1.0)

    def zones(self, entries: Any) -> Zones:
        self._keys(entries, "the file", required=(), optional=("size", "zones", "lines"))
        if "size" in entries:
            size = self._numbers(entries["size"], "size", "[width, height] in pixels")
            if min(size) < 1:
                self._fail("size", "[width, height] in pixels, both at least 1", entries["size"])
            self._size = size
        zones = tuple(self._zone(entry, f"zones[{i}]") for i, entry in enumerate(self._list(entries, "zones")))
        lines = tuple(self._line(entry, f"lines[{i}]") for i, entry in enumerate(self._list(entries, "lines")))
        names = [zone.name for zone in zones] + [line.name for line in lines]
        if not names:
            self._fail("the file", "at least one zone or line", entries)
        for name in names:
            if names.count(name) > 1:
                self._fail("names", "a unique name for each zone and line", name)
        return Zones(zones, lines)

    def _zone(self, entry: Any, where: str) -> Zone:
        self._keys(entry, where, required=("name", "polygon"), optional=("classes", "anchor"))
        corners = entry["polygon"]
        if not isinstance(corners, list) or not 3 <= len(corners) <= _MOST:
            self._fail(f"{where}.polygon", f"a list of 3 to {_MOST} points [x, y]", corners)
        polygon = tuple(self._point(corner, f"{where}.polygon[{i}]") for i, corner in enumerate(corners))
        return Zone(self._name(entry, where), polygon, self._classes(entry, where), self._anchor(entry, where))

    def _line(self, entry: Any, where: str) -> Line:
        self._keys(entry, where, required=("name", "from", "to"), optional=("classes", "anchor"))
        start, end = (self._point(entry[key], f"{where}.{key}") for key in ("from", "to"))
        if start == end:
            self._fail(where, "two different points", entry["from"])
        return Line(self._name(entry, where), start, end, self._classes(entry, where), self._anchor(entry, where))

    def _point(self, value: Any, where: str) -> Point:
        x, y = self._numbers(value, where, "a point [x, y]")
        width, height = self._size
        if not (0 <= x <= width and 0 <= y <= height):
            self._fail(where, f'x from 0 to {width:g} and y from 0 to {height:g} (the file\'s "size")', value)
        return x / width, y / height

    def _numbers(self, value: Any, where: str, expected: str) -> tuple[float, float]:
        is_pair = isinstance(value, list) and len(value) == 2
        # Compared first: an integer of hundreds of digits has no float.
        if not is_pair or not all(type(item) in (int, float) and abs(item) < _LARGEST for item in value):
            self._fail(where, expected, value)
        return float(value[0]), float(value[1])

    def _name(self, entry: Any, where: str) -> str:
        name = entry["name"]
        if not isinstance(name, str) or not 1 <= len(name) <= _MOST or not name.isprintable():
            self._fail(f"{where}.name", f"1 to {_MOST} printable characters", name)
        return str(name)

    def _classes(self, entry: Any, where: str) -> tuple[str, ...]:
        classes = entry.get("classes", [])
        if not isinstance(classes, list) or not all(isinstance(item, str) for item in classes):
            self._fail(f"{where}.classes", 'a list of class names such as ["person"]', classes)
        return tuple(classes)

    def _anchor(self, entry: Any, where: str) -> str:
        anchor = entry.get("anchor", ANCHORS[0])
        if anchor not in ANCHORS:
            self._fail(f"{where}.anchor", f"one of {', '.join(ANCHORS)}", anchor)
        return str(anchor)

    def _list(self, entries: Any, key: str) -> list[Any]:
        value = entries.get(key, [])
        if not isinstance(value, list) or len(value) > _MOST:
            self._fail(key, f"a list of at most {_MOST}", value)
        return list(value)

    def _keys(self, entry: Any, where: str, *, required: tuple[str, ...], optional: tuple[str, ...]) -> None:
        if not isinstance(entry, dict):
            self._fail(where, "an object in braces", entry)
        for key in required:
            if key not in entry:
                self._fail(where, f'an entry "{key}"', sorted(entry))
        unknown = sorted(set(entry) - {*required, *optional})
        if unknown:
            self._fail(where, f"only {', '.join((*required, *optional))}", unknown)

    def _fail(self, where: str, expected: str, given: Any) -> NoReturn:
        shown = json.dumps(given)
        raise ValueError(
            f"{self._file}: {where}: expected {expected}, got {shown if len(shown) <= 80 else shown[:77] + '...'}"
        )
