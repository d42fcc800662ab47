"""Detections as metadata of GStreamer's buffers, and as text of its messages."""

from __future__ import annotations

import json
import math
from typing import Any

from gi.repository import Gst, GstVideo

from retinasdk.detections import Detection, Detections


def add_metadata(buffer: Any, found: Detections, width: int, height: int) -> None:
    """Adds a `GstVideoRegionOfInterestMeta` for each object, best first.

    The region is the box in whole pixels, rounded outwards and clipped to the frame. Boxes outside of it are left out.
    Its parameter, the structure "detection", has the exact values.

    Args:
        buffer: A writable buffer.
        found: The detections in it.
        width: Width of the frame in pixels.
        height: Height of the frame in pixels.
    """
    for item in found:
        x1, y1 = max(0, math.floor(item.xyxy[0])), max(0, math.floor(item.xyxy[1]))
        x2, y2 = min(width, math.ceil(item.xyxy[2])), min(height, math.ceil(item.xyxy[3]))
        if x1 >= x2 or y1 >= y2:
            continue
        meta = GstVideo.buffer_add_video_region_of_interest_meta(buffer, item.label, x1, y1, x2 - x1, y2 - y1)
        meta.add_param(_structure(item))


def _structure(item: Detection) -> Any:
    structure = Gst.Structure.new_empty("detection")
    values = {"label": item.label, "class-id": item.class_id, "score": item.score}
    values |= dict(zip(("x1", "y1", "x2", "y2"), item.xyxy, strict=True))
    if item.xywhr is not None:
        values |= dict(zip(("center-x", "center-y", "width", "height", "angle"), item.xywhr, strict=True))
    if item.track is not None:
        values["track"] = item.track
    for name, value in values.items():
        structure.set_value(name, value)
    return structure


def message_text(found: Detections) -> str:
    """Returns the detections as JSON, `Detections.to_dicts`."""
    return json.dumps(found.to_dicts())
