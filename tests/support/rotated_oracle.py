"""The overlap of rotated boxes in exact rational arithmetic, from the corners of the intersection.

It shares no code and no method with csrc/math/rotated_math.h: the corners of the shared polygon are the corners of each
box inside the other, and the points where edges cross.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

Point = tuple[Fraction, Fraction]


def corners(box: Sequence[float]) -> list[Point]:
    """The corners of (x, y, width, height, sin, cos), with |width| and |height|."""
    x, y, width, height, sin, cos = (Fraction(float(value)) for value in box)
    width, height = abs(width) / 2, abs(height) / 2
    return [
        (x + right * width * cos - down * height * sin, y + right * width * sin + down * height * cos)
        for right, down in ((-1, -1), (1, -1), (1, 1), (-1, 1))
    ]


def area(polygon: Sequence[Point]) -> Fraction:
    """The shoelace formula."""
    pairs = zip(polygon, [*polygon[1:], *polygon[:1]], strict=True)
    return abs(sum((x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairs), Fraction(0))) / 2


def shared_area(first: Sequence[float], second: Sequence[float]) -> Fraction:
    a, b = corners(first), corners(second)
    if not area(a) or not area(b):
        return Fraction(0)
    points = [p for p in a if _is_inside(p, b)] + [p for p in b if _is_inside(p, a)]
    for edge, other in itertools.product(_edges(a), _edges(b)):
        points += _crossing(edge, other)
    points = sorted(set(points))
    if len(points) < 3:
        return Fraction(0)
    center_x, center_y = (sum(values, Fraction(0)) / len(points) for values in zip(*points, strict=True))
    return area(sorted(points, key=lambda p: math.atan2(float(p[1] - center_y), float(p[0] - center_x))))


def iou(first: Sequence[float], second: Sequence[float]) -> float:
    """NaN if both have no area."""
    shared = shared_area(first, second)
    union = area(corners(first)) + area(corners(second)) - shared
    return float(shared / union) if union else math.nan


def _edges(polygon: Sequence[Point]) -> list[tuple[Point, Point]]:
    return list(zip(polygon, [*polygon[1:], *polygon[:1]], strict=True))


def _turn(a: Point, b: Point, c: Point) -> Fraction:
    """Above 0 if c lies on one side of the line from a to b, below 0 on the other one."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _is_inside(point: Point, polygon: Sequence[Point]) -> bool:
    turns = [_turn(a, b, point) for a, b in _edges(polygon)]
    return min(turns) >= 0 or max(turns) <= 0


def _crossing(edge: tuple[Point, Point], other: tuple[Point, Point]) -> list[Point]:
    (a, b), (c, d) = edge, other
    side = (b[0] - a[0]) * (d[1] - c[1]) - (b[1] - a[1]) * (d[0] - c[0])
    if not side:
        return []
    at = ((c[0] - a[0]) * (d[1] - c[1]) - (c[1] - a[1]) * (d[0] - c[0])) / side
    along = ((c[0] - a[0]) * (b[1] - a[1]) - (c[1] - a[1]) * (b[0] - a[0])) / side
    if not (0 <= at <= 1 and 0 <= along <= 1):
        return []
    return [(a[0] + at * (b[0] - a[0]), a[1] + at * (b[1] - a[1]))]
