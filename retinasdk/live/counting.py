"""Tracking of objects, and counting in zones and across lines, with the packages supervision and trackers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk._util.labels import class_ids_of
from retinasdk._util.lazy import require
from retinasdk.detections import Detections
from retinasdk.live.frame import Frame
from retinasdk.live.zones import Line, Zone, Zones

if TYPE_CHECKING:
    import numpy.typing as npt

_PURPOSE = "counting and tracking"
_LOST_FRAMES = 30  # A track ends after this many frames without a box.
_FRAMES_TO_CROSS = 2  # Frames on the other side of a line. A box that jitters on it is not counted repeatedly.


@dataclass(frozen=True, eq=False)
class Counts:
    """Tracks and counts of one frame.

    Attributes:
        tracks: (n,) int64, the track ID of each of the frame's n detections. An object keeps its ID while it is
            tracked. -1: not tracked yet.
        in_zone: (n, number of zones) bool, which detection is in which zone, in the order of `Zones.zones`.
        zones: {name of the zone: number of objects in it now}.
        lines: {name of the line: (in, out)}, the crossings since the first frame. See `Line` for the directions.
    """

    tracks: npt.NDArray[np.int64]
    in_zone: npt.NDArray[np.bool_]
    zones: dict[str, int]
    lines: dict[str, tuple[int, int]]

    def to_dict(self) -> dict[str, Any]:
        """Returns {"zones": {name: n}, "lines": {name: {"in": n, "out": n}}}, ready for JSON."""
        return {"zones": self.zones, "lines": {name: {"in": i, "out": o} for name, (i, o) in self.lines.items()}}


class Counter:
    """Tracks objects through the frames of a stream, and counts them in zones and across lines.

    Each source is tracked and counted separately. Tracking uses ByteTrack with the time of each frame, so dropped
    frames do no harm. Frames on which the detector failed change no track and no crossing. Use it from one thread at a
    time. It needs the packages of the extra `supervision`: `pip install 'retinasdk[supervision]'`.

        counter = Counter(Zones.load("zones.json"), detector.labels)
        for frame in stream("clip.mp4", detector, policy="all"):
            counts = counter.update(frame)
            print(counts.zones, counts.lines)

    Args:
        zones: The zones and lines. `Zones()` only tracks.
        labels: The class labels of the detector, `Detector.labels`.

    Raises:
        MissingDependencyError: If a package is missing.
        ValueError: If a zone or a line names a class that `labels` does not have.
    """

    def __init__(self, zones: Zones, labels: Sequence[str]) -> None:
        require("supervision", _PURPOSE)
        require("trackers", _PURPOSE)
        self._zones = zones
        items: list[Zone | Line] = [*zones.zones, *zones.lines]
        self._class_ids = {item.name: class_ids_of(item.classes, tuple(labels)) for item in items if item.classes}
        self._sources: dict[str, _Source] = {}

    def update(self, frame: Frame) -> Counts:
        """Adds a frame and returns the counts.

        Args:
            frame: A frame of a stream. The frames of each source have to come in order.
        """
        source = self._sources.get(frame.source)
        if source is None:
            height, width = frame.image_size
            source = self._sources[frame.source] = _Source(self._zones, self._class_ids, (width, height))
        return source.update(frame)


class _Source:
    """Tracks and counts of one source.

    Everything is computed in pixels of the first frame, whose width and height are `size`. So a source may change its
    image size.
    """

    def __init__(self, zones: Zones, class_ids: dict[str, list[int]], size: tuple[int, int]) -> None:
        self._class_ids = class_ids
        self._size = size
        # The detector has applied its score threshold already, so the tracker applies none.
        self._tracker = require("trackers", _PURPOSE).ByteTrackTracker(
            lost_track_buffer=_LOST_FRAMES, track_activation_threshold=0.0, high_conf_det_threshold=0.0
        )
        self._areas = [(zone.name, _area(zone, size)) for zone in zones.zones]
        self._gates = [(line.name, _gate(line, size)) for line in zones.lines]

    def update(self, frame: Frame) -> Counts:
        found = frame.detections
        if found is None:
            nothing = np.zeros((0, len(self._areas)), bool)
            return Counts(np.zeros(0, np.int64), nothing, {name: 0 for name, _ in self._areas}, self._crossings())
        time_s = frame.captured_s if frame.time_s is None else frame.time_s
        boxes = self._scaled(found, frame.image_size).to_supervision()
        boxes.data["index"] = np.arange(len(found))
        tracked = self._tracker.update(boxes, timestamp=time_s)
        tracks = np.full(len(found), -1, np.int64)
        if len(tracked):  # The tracker may reorder the boxes.
            tracks[tracked.data["index"]] = tracked.tracker_id
        boxes.tracker_id = tracks
        in_zone = np.zeros((len(found), len(self._areas)), bool)
        for column, (name, area) in enumerate(self._areas):
            selected = self._selected(name, found)
            in_zone[selected, column] = area.trigger(boxes[selected])
        for name, gate in self._gates:
            gate.trigger(boxes[self._selected(name, found)])
        inside = {name: int(in_zone[:, column].sum()) for column, (name, _) in enumerate(self._areas)}
        return Counts(tracks, in_zone, inside, self._crossings())

    def _crossings(self) -> dict[str, tuple[int, int]]:
        return {name: (int(gate.in_count), int(gate.out_count)) for name, gate in self._gates}

    def _selected(self, name: str, found: Detections) -> npt.NDArray[np.bool_]:
        if name not in self._class_ids:
            return np.ones(len(found), bool)
        return np.isin(found.class_ids, self._class_ids[name])

    def _scaled(self, found: Detections, image_size: tuple[int, int]) -> Detections:
        height, width = image_size
        if (width, height) == self._size:
            return found
        x, y = self._size[0] / width, self._size[1] / height
        return Detections(found.xyxy * np.array([x, y, x, y], np.float32), found.scores, found.class_ids, found.labels)


def _anchors(item: Zone | Line) -> list[Any]:
    return [require("supervision", _PURPOSE).Position[item.anchor.upper()]]


def _area(zone: Zone, size: tuple[int, int]) -> Any:
    polygon = np.rint(np.array(zone.polygon) * size).astype(int)
    return require("supervision", _PURPOSE).PolygonZone(polygon, triggering_anchors=_anchors(zone))


def _gate(line: Line, size: tuple[int, int]) -> Any:
    supervision = require("supervision", _PURPOSE)
    start, end = (supervision.Point(x * size[0], y * size[1]) for x, y in (line.start, line.end))
    return supervision.LineZone(
        start, end, triggering_anchors=_anchors(line), minimum_crossing_threshold=_FRAMES_TO_CROSS
    )
