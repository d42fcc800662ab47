"""Counting of tracked objects in zones and across lines, with the package supervision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk._util.labels import class_ids_of
from retinasdk._util.lazy import require
from retinasdk.detections import Detections
from retinasdk.live.frame import Frame
from retinasdk.live.tracking import Tracker, TrackerOption, rescaled
from retinasdk.live.zones import Line, Zone, Zones

if TYPE_CHECKING:
    import numpy.typing as npt

_PURPOSE = "counting and tracking"
_FRAMES_TO_CROSS = 2  # Frames on the other side of a line. A box that jitters on it is not counted repeatedly.
_KNOWN_TRACKS = 256  # A line knows this many objects, those that were seen last.


@dataclass(frozen=True, eq=False)
class Counts:
    """Tracks and counts of one frame.

    Attributes:
        tracks: (n,) int64, the number of each of the frame's n detections, see `Detections.tracks`.
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
    """Counts objects in zones and across lines, by the numbers of their tracks.

    Each source is counted separately. An object is counted once for each time it crosses a line, also if it is not
    detected for a while on its way. Frames on which the detector failed change no count. Use it from one thread at a
    time. It needs the packages of the extra `supervision`: `pip install 'retinasdk[supervision]'`.

        counter = Counter(Zones.load("zones.json"), detector.labels)
        for frame in stream("clip.mp4", detector, policy="all", tracker="bytetrack"):
            counts = counter.update(frame)
            print(counts.zones, counts.lines)

    Args:
        zones: The zones and lines. `Zones()` counts nothing.
        labels: The class labels of the detector, `Detector.labels`.
        tracker: How to track the objects of a stream that does not track them itself, as for `stream`.

    Raises:
        MissingDependencyError: If a package is missing.
        ValueError: If a zone or a line names a class that `labels` does not have.
    """

    def __init__(self, zones: Zones, labels: Sequence[str], *, tracker: TrackerOption = "bytetrack") -> None:
        require("supervision", _PURPOSE)
        require("trackers", _PURPOSE)
        self._zones = zones
        self._tracker = tracker
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
            source = _Source(self._zones, self._class_ids, (width, height), Tracker(self._tracker))
            self._sources[frame.source] = source
        return source.update(frame)


class _Source:
    """Counts of one source.

    Everything is computed in pixels of the first frame, whose width and height are `size`. So a source may change its
    image size.
    """

    def __init__(self, zones: Zones, class_ids: dict[str, list[int]], size: tuple[int, int], tracker: Tracker) -> None:
        self._class_ids = class_ids
        self._size = size
        self._tracker = tracker  # of a stream that does not track
        self._areas = [(zone.name, _area(zone, size)) for zone in zones.zones]
        self._gates = [_Gate(line, size) for line in zones.lines]

    def update(self, frame: Frame) -> Counts:
        found = frame.detections
        if found is None:
            nothing = np.zeros((0, len(self._areas)), bool)
            return Counts(np.zeros(0, np.int64), nothing, {name: 0 for name, _ in self._areas}, self._crossings())
        if found.tracks is None:
            time_s = frame.captured_s if frame.live else frame.time_s
            found = self._tracker.follow(
                found, frame.image_size, index=frame.index, time_s=time_s, connection=frame.connection
            )
        assert found.tracks is not None
        width, height = self._size
        boxes = rescaled(found, frame.image_size, (height, width)).to_supervision()
        in_zone = np.zeros((len(found), len(self._areas)), bool)
        for column, (name, area) in enumerate(self._areas):
            selected = self._selected(name, found)
            in_zone[selected, column] = area.trigger(boxes[selected])
        for gate in self._gates:
            gate.update(boxes[self._selected(gate.name, found)])
        inside = {name: int(in_zone[:, column].sum()) for column, (name, _) in enumerate(self._areas)}
        return Counts(found.tracks, in_zone, inside, self._crossings())

    def _crossings(self) -> dict[str, tuple[int, int]]:
        return {gate.name: gate.crossings for gate in self._gates}

    def _selected(self, name: str, found: Detections) -> npt.NDArray[np.bool_]:
        if name not in self._class_ids:
            return np.ones(len(found), bool)
        return np.isin(found.class_ids, self._class_ids[name])


class _Gate:
    """A line, in pixels of an image of `size` (width, height).

    The package forgets on which side an object was when it is missing in three frames. An object that passes behind a
    pillar would not be counted. So missing objects are handed over beyond the start of the line, where the package
    takes no notice of them and keeps what it knows.
    """

    def __init__(self, line: Line, size: tuple[int, int]) -> None:
        self.name = line.name
        supervision = require("supervision", _PURPOSE)
        start, end = np.array(line.start) * size, np.array(line.end) * size
        self._zone = supervision.LineZone(
            supervision.Point(*start.tolist()),
            supervision.Point(*end.tolist()),
            triggering_anchors=_anchors(line),
            minimum_crossing_threshold=_FRAMES_TO_CROSS,
        )
        self._beyond = np.tile(start - (end - start), 2)
        self._known: dict[int, None] = {}  # Track IDs, the one that was seen last at the end.

    @property
    def crossings(self) -> tuple[int, int]:
        """How many objects went in and out."""
        return int(self._zone.in_count), int(self._zone.out_count)

    def update(self, boxes: Any) -> None:
        """Adds the boxes of a frame, a `supervision.Detections`."""
        tracks = boxes.tracker_id.tolist()
        missing = [track for track in self._known if track not in set(tracks)]
        self._zone.trigger(
            require("supervision", _PURPOSE).Detections(
                xyxy=np.concatenate([boxes.xyxy, np.tile(self._beyond, (len(missing), 1))]),
                class_id=np.concatenate([boxes.class_id, np.zeros(len(missing), int)]),
                tracker_id=np.array([*tracks, *missing], int),
            )
        )
        for track in tracks:
            self._known.pop(track, None)
            if track >= 0:
                self._known[track] = None
        for track in list(self._known)[:-_KNOWN_TRACKS]:
            del self._known[track]


def _anchors(item: Zone | Line) -> list[Any]:
    return [require("supervision", _PURPOSE).Position[item.anchor.upper()]]


def _area(zone: Zone, size: tuple[int, int]) -> Any:
    polygon = np.rint(np.array(zone.polygon) * size).astype(int)
    return require("supervision", _PURPOSE).PolygonZone(polygon, triggering_anchors=_anchors(zone))
