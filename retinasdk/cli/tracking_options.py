"""The options of `retinasdk live` that track and count objects."""

from __future__ import annotations

import argparse
import dataclasses
import re
from pathlib import Path
from typing import Any

from retinasdk.cli.file_arguments import Input
from retinasdk.live.tracking import ByteTrack
from retinasdk.live.zones import Line, Point, Zones

NOTE = """\
example of a zones file, in pixels of a picture of 768 x 432 (width x height):
  {"size": [768, 432],
   "zones": [{"name": "table", "classes": ["person"],
              "polygon": [[330, 80], [600, 80], [600, 430], [330, 430]]}],
   "lines": [{"name": "door", "from": [0, 300], "to": [768, 300]}]}
An object that crosses a line to the left, as seen along it from 'from' to
'to', counts as in; to the right, as out. Without "size", numbers are shares
of the width and height, from 0 to 1. "classes" is optional."""
_DEFAULTS = ByteTrack()
_LINE = re.compile(r"(?P<numbers>[^@]+)(@(?P<width>\d+)x(?P<height>\d+))?")


def add_tracking(parser: argparse.ArgumentParser) -> None:
    """Adds a group with the options that `tracker_of` and `zones_of` read."""
    group = parser.add_argument_group("Tracking and counting", "Needs pip install 'retinasdk[supervision]'.")
    group.add_argument(
        "--track",
        action="store_true",
        help="give each object a number that it keeps from frame to frame, by ByteTrack, as do the options below",
    )
    group.add_argument(
        "--track-lost",
        type=float,
        metavar="S",
        help=f"seconds for which an object that is not detected keeps its number; default: {_DEFAULTS.lost_s:g}",
    )
    group.add_argument(
        "--track-score",
        type=float,
        metavar="SCORE",
        help="lowest score with which a new object gets a number; detections from --score up to this only continue "
        "objects that have one; default: the same as --score",
    )
    group.add_argument(
        "--track-fps",
        type=float,
        metavar="N",
        help="frames per second of a folder of images, which has no times; all other sources are tracked by the time "
        f"of each frame; default: {_DEFAULTS.frame_rate:g}",
    )
    group.add_argument(
        "--count-line",
        type=_line,
        action="append",
        default=[],
        metavar="X1,Y1,X2,Y2",
        help="count the objects that cross this line, in shares of the width and height: 0,0.5,1,0.5; or in pixels of "
        "an image of that width x height: 0,300,768,300@768x432 (repeatable)",
    )
    group.add_argument(
        "--zones",
        action=Input,
        type=Path,
        metavar="FILE.json",
        help="count the objects in the zones and across the lines of this file; see the example below",
    )


def tracker_of(arguments: argparse.Namespace) -> ByteTrack | None:
    """Reads the options of the tracker. None: objects are not tracked.

    Raises:
        ValueError: A value is out of range.
    """
    given = {
        "lost_s": ("--track-lost", arguments.track_lost),
        "start_score": ("--track-score", arguments.track_score),
        "frame_rate": ("--track-fps", arguments.track_fps),
    }
    tracker = ByteTrack()
    for field, (option, value) in given.items():
        if value is not None:
            try:
                tracker = dataclasses.replace(tracker, **{field: value})
            except ValueError as error:
                raise ValueError(str(error).replace(field, option)) from None
    is_asked = arguments.track or any(value is not None for _, value in given.values())
    return tracker if is_asked or arguments.count_line or arguments.zones is not None else None


def zones_of(arguments: argparse.Namespace) -> Zones | None:
    """Reads zones and lines. None: nothing is counted.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is wrong, or two lines have the same name.
    """
    zones = Zones() if arguments.zones is None else Zones.load(arguments.zones)
    lines = tuple(Line(f"line {number}", *ends) for number, ends in enumerate(arguments.count_line, 1))
    names = {zone.name for zone in zones.zones} | {line.name for line in zones.lines}
    for line in lines:
        if line.name in names:
            raise ValueError(
                f'{arguments.zones} has the name "{line.name}", by which a --count-line is called; choose another name'
            )
    zones = Zones(zones.zones, (*zones.lines, *lines))
    return zones if zones.zones or zones.lines else None


def _line(text: str) -> tuple[Point, Point]:
    """Reads a line. Called by argparse, which reports errors."""
    found: Any = _LINE.fullmatch(text)
    try:
        x1, y1, x2, y2 = (float(part) for part in found["numbers"].split(","))
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(
            f"expected four numbers such as 0,0.5,1,0.5 or 0,300,768,300@768x432, got {text!r}"
        ) from None
    width, height = (float(found[name] or 1) for name in ("width", "height"))
    if not (min(x1, x2) >= 0 and max(x1, x2) <= width and min(y1, y2) >= 0 and max(y1, y2) <= height):
        advice = "" if found["width"] else "; for pixels add the size of the image, such as @768x432"
        raise argparse.ArgumentTypeError(
            f"expected x from 0 to {width:g} and y from 0 to {height:g}, got {text!r}{advice}"
        )
    if (x1, y1) == (x2, y2):
        raise argparse.ArgumentTypeError(f"expected two different points, got {text!r}")
    return (x1 / width, y1 / height), (x2 / width, y2 / height)
