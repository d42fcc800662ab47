"""Tracking: gives each object a number that it keeps from frame to frame, with the package trackers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from retinasdk._util.lazy import require
from retinasdk.detections import Detections

_PURPOSE = "tracking"
_LIBRARY_FPS = 30.0  # The package counts `lost_track_buffer` in frames of this rate.
_SAME_TIME_S = 1e-6  # The package refuses two frames of one time.


@dataclass(frozen=True)
class ByteTrack:
    """Options of the tracker ByteTrack.

    Attributes:
        lost_s: Seconds for which an object that is not detected keeps its number. Default: 1.
        start_score: Lowest confidence score with which a new object is followed, 0 to 1. Detections below it only
            continue objects that are followed already. It is useful above the score threshold of the detector. The
            default, 0, follows all detections.
        frames_to_start: How many frames in a row an object must be detected in until it gets a number, at least 2, the
            default: a false detection in a single frame gets none.
        min_iou: Lowest intersection over union of a detection and the place where the object is expected, 0 to 1.
            Default: 0.1.
        frame_rate: Frames per second of sources without times: folders of images and iterators. All other sources are
            tracked by the time of each frame, so dropped frames do no harm. Default: 30.

    Raises:
        ValueError: If a value is out of range.
    """

    lost_s: float = 1.0
    start_score: float = 0.0
    frames_to_start: int = 2
    min_iou: float = 0.1
    frame_rate: float = _LIBRARY_FPS

    def __post_init__(self) -> None:
        for name, is_valid, expected in (
            ("lost_s", 0 <= self.lost_s < math.inf, "a number of seconds of at least 0"),
            ("start_score", 0 <= self.start_score <= 1, "from 0 to 1"),
            ("frames_to_start", type(self.frames_to_start) is int and self.frames_to_start >= 2, "an integer from 2"),
            ("min_iou", 0 <= self.min_iou <= 1, "from 0 to 1"),
            ("frame_rate", 0 < self.frame_rate < math.inf, "above 0"),
        ):
            if not is_valid:
                raise ValueError(f"{name} must be {expected}, got {getattr(self, name)!r}")

    def __call__(self) -> Any:
        """Returns a new tracker of the package trackers.

        Raises:
            MissingDependencyError: If the package is missing.
        """
        return require("trackers", _PURPOSE).ByteTrackTracker(
            lost_track_buffer=round(self.lost_s * _LIBRARY_FPS),
            frame_rate=self.frame_rate,
            track_activation_threshold=self.start_score,
            high_conf_det_threshold=self.start_score,
            minimum_consecutive_frames=self.frames_to_start,
            minimum_iou_threshold=self.min_iou,
        )


TrackerOption: TypeAlias = "str | ByteTrack | Callable[[], Any]"


def as_tracker(option: TrackerOption) -> Callable[[], Any]:
    """Returns the function that makes a tracker.

    Args:
        option: "bytetrack", a `ByteTrack`, or a function.

    Raises:
        TypeError: If it is something else.
        ValueError: If the name is unknown.
    """
    if option == "bytetrack":
        return ByteTrack()
    if isinstance(option, str):
        raise ValueError(f"tracker must be 'bytetrack', a ByteTrack or a function that makes a tracker, got {option!r}")
    if not callable(option):
        raise TypeError(
            "tracker must be 'bytetrack', a ByteTrack or a function that makes a tracker, such as "
            f"trackers.OCSORTTracker; got {type(option).__name__}"
        )
    return option


class Tracker:
    """Tracks the objects of one source of images. `stream(..., tracker=...)` uses one for each source.

    Use it from one thread at a time. It needs the packages of the extra `supervision`.

    Example:
        ```python
        tracker = Tracker()
        for time_s, image in camera:
            found = tracker.update(detector(image), time_s)
            print(found.tracks)
        ```

    Args:
        option: "bytetrack" (the default); a `ByteTrack` with options; or a function without arguments that makes a
            tracker of the package trackers, such as `trackers.OCSORTTracker`. The tracker gets boxes, scores and
            times, and no images.

    Raises:
        MissingDependencyError: If a package is missing.
        TypeError: If the option has the wrong type.
        ValueError: If a name is unknown.
    """

    def __init__(self, option: TrackerOption = "bytetrack") -> None:
        make = as_tracker(option)
        require("supervision", _PURPOSE)
        require("trackers", _PURPOSE)
        self._tracker = make()
        self._frame_s = 1.0 / (option.frame_rate if isinstance(option, ByteTrack) else _LIBRARY_FPS)
        self._size: tuple[int, int] | None = None
        self._time_s = -math.inf
        self._connection = 0
        self._first = self._next = 0

    def reset(self) -> None:
        """Forgets all objects. Later objects get new numbers, which were not used before."""
        self._tracker.reset()
        self._first = self._next
        self._size = None
        self._time_s = -math.inf

    def update(
        self, found: Detections, time_s: float | None = None, image_size: tuple[int, int] | None = None
    ) -> Detections:
        """Adds the detections of a frame.

        If the time is earlier than that of the frame before, the recording has started again, and all objects are
        forgotten.

        Args:
            found: The detections in the frame.
            time_s: The time of the frame in seconds. Default: one frame later than the frame before, by the
                `frame_rate` of `ByteTrack`.
            image_size: (height, width) of the frame in pixels, for sources that may change it. Defaults to
                `found.image_size`. If neither is known, the size is assumed to stay.

        Returns:
            The same detections in the same order, with `Detections.tracks`.
        """
        if not isinstance(found, Detections):
            raise TypeError(f"tracking needs a detector that returns retinasdk.Detections, got {type(found).__name__}")
        if time_s is None or not math.isfinite(time_s):
            time_s = 0.0 if self._time_s == -math.inf else self._time_s + self._frame_s
        elif time_s < self._time_s - _SAME_TIME_S:
            self.reset()
        self._time_s = max(time_s, self._time_s + _SAME_TIME_S)
        image_size = image_size or found.image_size
        self._size = self._size or image_size
        boxes = (
            found if image_size is None else rescaled(found, image_size, self._size or image_size)
        ).to_supervision()
        boxes.data["index"] = np.arange(len(found))
        tracked = self._tracker.update(boxes, timestamp=self._time_s)
        tracks = np.full(len(found), -1, np.int64)
        if len(tracked):  # The tracker may reorder the boxes.
            numbers = np.asarray(tracked.tracker_id, np.int64)
            tracks[tracked.data["index"]] = np.where(numbers < 0, -1, numbers + self._first)
            self._next = max(self._next, int(tracks.max()) + 1)
        return replace(found, tracks=tracks)

    def follow(
        self, found: Detections, image_size: tuple[int, int], *, index: int, time_s: float | None, connection: int
    ) -> Detections:
        """Adds the detections of a frame of a stream. All objects are forgotten when the source was opened again.

        Args:
            found: The detections in the frame.
            image_size: (height, width) of the frame in pixels.
            index: The number of the frame in its source. It tells the time of frames that have none.
            time_s: The time of the frame in seconds. Of cameras and network streams, when it was captured: their own
                times start again when they reconnect, and may jump.
            connection: `Frame.connection`.

        Returns:
            The same detections in the same order, with `Detections.tracks`.
        """
        if connection != self._connection:
            self.reset()
            self._connection = connection
        return self.update(found, index * self._frame_s if time_s is None else time_s, image_size)


def rescaled(found: Detections, image_size: tuple[int, int], size: tuple[int, int]) -> Detections:
    """Returns detections in pixels of the same image at another size.

    Args:
        found: The detections.
        image_size: (height, width) of their image in pixels.
        size: (height, width) of the other image.
    """
    if image_size == size:
        return found
    y, x = size[0] / image_size[0], size[1] / image_size[1]
    boxes = found.xyxy * np.array([x, y, x, y], np.float32)
    return Detections(boxes, found.scores, found.class_ids, found.labels, tracks=found.tracks)
