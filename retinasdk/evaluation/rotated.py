"""Rotated boxes in evaluation: reads them from annotations, and computes their overlaps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk import _native
from retinasdk.detections import rotated_corners

if TYPE_CHECKING:
    import numpy.typing as npt

Rotated = tuple[float, float, float, float, float]


def is_rotated(detector: Any) -> bool:
    """Whether a detector, or another callable in its place, finds rotated boxes."""
    return bool(getattr(getattr(detector, "spec", None), "is_rotated", False))


def rotated_box(bbox: Sequence[float], segmentation: Any) -> Rotated | None:
    """Returns the rotated box of an annotation, or None if it has none.

    Args:
        bbox: (x, y, width, height) of an upright box, or (x, y, width, height, angle): the box before it is turned
            about its center by the angle, in radians, clockwise. ODTK writes the latter.
        segmentation: COCO's segmentation. One polygon of 4 corners counts, and goes before `bbox`. If it is no
            rectangle, as in DOTA, its smallest enclosing rectangle counts.

    Raises:
        ValueError: If the angle is not in radians or a number is not finite.
    """
    if isinstance(segmentation, list) and len(segmentation) == 1 and len(segmentation[0]) == 8:
        corners = np.array(segmentation[0], np.float64).reshape(4, 2)
        if not np.isfinite(corners).all():
            raise ValueError(f"the segmentation {segmentation[0]} has numbers that are not finite")
        return _smallest_rectangle(corners)
    if len(bbox) != 5:
        return None
    x, y, width, height, angle = bbox
    if not all(map(math.isfinite, bbox)) or width < 0 or height < 0 or abs(angle) > 2 * math.pi:
        raise ValueError(
            f"bbox {list(bbox)} is not a valid rotated box (x, y, width, height, angle), with the angle in radians"
        )
    return x + width / 2, y + height / 2, width, height, angle


def enclosing(xywhr: Rotated) -> tuple[float, float, float, float]:
    """Returns left, top, width and height of the upright box around a rotated one."""
    (corners,) = rotated_corners(np.array([xywhr], np.float32)).astype(float)
    (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    return left, top, right - left, bottom - top


def overlaps(
    found: npt.NDArray[np.float32], truth: Sequence[Rotated], is_crowd: Sequence[bool]
) -> npt.NDArray[np.float64]:
    """Returns the IoU of each found box with each true one.

    Args:
        found: (n, 5) found boxes.
        truth: The m true boxes.
        is_crowd: Whether each true box marks a crowd. For these, the overlap is the part of the found box that lies
            inside, as in COCO.

    Returns:
        (n, m) float64. NaN, of boxes without area, becomes 0.
    """
    boxes = np.array(truth, np.float32).reshape(-1, 5)
    ious = _native.rotated_ious(_with_direction(found), _with_direction(boxes)).astype(np.float64)
    areas, true_areas = ((item[:, 2] * item[:, 3]).astype(np.float64) for item in (found, boxes))
    shared = ious * (areas[:, None] + true_areas) / (1 + ious)
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = shared / areas[:, None]
    return np.nan_to_num(np.where(np.array(is_crowd, bool), inside, ious), nan=0.0, posinf=0.0)


def _with_direction(boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Returns boxes (n, 6) as the kernels take them, with the sine and cosine of the angle."""
    angles = boxes[:, 4:].astype(np.float64)
    return np.concatenate([boxes[:, :4], np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def _smallest_rectangle(corners: npt.NDArray[np.float64]) -> Rotated:
    """Returns the smallest rectangle around points. One of its sides is along a line through two of them."""
    best: Rotated | None = None
    for i, start in enumerate(corners):
        for end in corners[i + 1 :]:
            angle = math.atan2(end[1] - start[1], end[0] - start[0])
            right, down = np.array([math.cos(angle), math.sin(angle)]), np.array([-math.sin(angle), math.cos(angle)])
            along, across = corners @ right, corners @ down
            width, height = float(np.ptp(along)), float(np.ptp(across))
            if best is None or width * height < best[2] * best[3]:
                x, y = (along.min() + along.max()) / 2 * right + (across.min() + across.max()) / 2 * down
                best = float(x), float(y), width, height, angle
    assert best is not None
    return best
