"""Detections as metadata of GStreamer's buffers."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import gi  # type: ignore[import-not-found]  # of the distribution
from gi.repository import GLib, Gst, GstVideo  # type: ignore[import-not-found]

from retinasdk.detections import Detection, Detections

_Region = tuple[int, int, int, int]


def add_regions(buffer: Any, found: Detections, size: tuple[int, int]) -> None:
    """Adds a `GstVideoRegionOfInterestMeta` for each object, best first.

    The region is the box in whole pixels, see `_regions`. Its parameter, the structure "detection", has the exact
    values. Its id is the number of the object in the frame, from 0: Python reads metadata by this number.

    Args:
        buffer: A writable buffer.
        found: The detections in it.
        size: (height, width) of the frame in pixels.
    """
    for number, (item, region) in enumerate(_regions(found, size)):
        meta = GstVideo.buffer_add_video_region_of_interest_meta(buffer, item.label, *region)
        meta.id = number
        meta.add_param(_structure(item))


def add_analytics(buffer: Any, found: Detections, size: tuple[int, int], first_seen: dict[int, int]) -> None:
    """Adds a `GstAnalyticsRelationMeta` with an object detection for each object, where GStreamer has it (1.24).

    Args:
        buffer: A writable buffer.
        found: The detections in it.
        size: (height, width) of the frame in pixels.
        first_seen: When each tracked object was seen first, in nanoseconds. Their tracks are related to the detections.
    """
    analytics = _analytics()
    if analytics is None:
        return
    relations = analytics.buffer_add_analytics_relation_meta(buffer)
    for item, region in _regions(found, size):
        _, detection = relations.add_od_mtd(GLib.quark_from_string(item.label), *region, item.score)
        if item.track is not None:
            _, track = relations.add_tracking_mtd(item.track, first_seen[item.track])
            relations.set_relation(analytics.RelTypes.RELATE_TO, detection.id, track.id)


@functools.cache
def _analytics() -> Any:
    try:
        gi.require_version("GstAnalytics", "1.0")
        from gi.repository import GstAnalytics
    except (ImportError, ValueError):
        return None
    return GstAnalytics


def _regions(found: Detections, size: tuple[int, int]) -> Iterator[tuple[Detection, _Region]]:
    """Yields the boxes (x, y, width, height) in whole pixels, rounded outwards and clipped to the frame.

    Boxes outside of the frame are left out.
    """
    height, width = size
    for item in found:
        x1, y1 = max(0, math.floor(item.xyxy[0])), max(0, math.floor(item.xyxy[1]))
        x2, y2 = min(width, math.ceil(item.xyxy[2])), min(height, math.ceil(item.xyxy[3]))
        if x1 < x2 and y1 < y2:
            yield item, (x1, y1, x2 - x1, y2 - y1)


def _structure(item: Detection) -> Any:
    structure = Gst.Structure.new_empty("detection")
    values: dict[str, Any] = {"label": item.label, "class-id": item.class_id, "score": item.score}
    values |= dict(zip(("x1", "y1", "x2", "y2"), item.xyxy, strict=True))
    if item.xywhr is not None:
        values |= dict(zip(("center-x", "center-y", "width", "height", "angle"), item.xywhr, strict=True))
    if item.track is not None:
        values["track"] = item.track
    for name, value in values.items():
        structure.set_value(name, value)
    return structure
