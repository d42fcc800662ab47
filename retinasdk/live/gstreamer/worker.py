"""What the element `retinadetect` does with frames, between `start` and `stop`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from gi.repository import Gst, GstVideo  # type: ignore[import-not-found]  # of the distribution

from retinasdk import Detections, Detector
from retinasdk.drawing import draw_detections
from retinasdk.live.gstreamer.frames import Layout
from retinasdk.live.gstreamer.options import classes_of, score_of, tiles_of
from retinasdk.live.gstreamer.results import add_analytics, add_regions
from retinasdk.live.tracking import ByteTrack, Tracker

if TYPE_CHECKING:
    import numpy.typing as npt

_MATRICES = {
    GstVideo.VideoColorMatrix.BT601: "bt601",
    GstVideo.VideoColorMatrix.BT709: "bt709",
    GstVideo.VideoColorMatrix.BT2020: "bt2020",
}
_KNOWN_TRACKS = 1000  # Of more objects, it is forgotten when the first ones were seen.
_FULL_RANGE = 1  # GST_VIDEO_COLOR_RANGE_0_255, which is no name in Python


class Worker:
    """A detector, and what it found last.

    Args:
        options: The properties of the element by name. Those that may change while it plays are read for each frame.

    Raises:
        RetinaSdkError: If the model cannot be loaded, or a package is missing.
        ValueError: If a property has a value that makes no sense.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self._draws = options["draw"]
        self._tiles = tiles_of(options["tiles"])
        self._tracker = Tracker(ByteTrack(lost_s=options["track-lost"])) if options["track"] else None
        self._detector = Detector(options["model"] or None, device=options["device"] or "auto")
        self._layout: Layout | None = None
        self._shown: Detections | None = None
        self._count = 0
        self._first_seen: dict[int, int] = {}  # Of tracked objects: the time in nanoseconds.
        try:
            # As a frame is detected later, so that a wrong property is reported now.
            self._detect(np.zeros((480, 640, 3), np.uint8))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Releases the model."""
        self._detector.close()

    def restart(self) -> None:
        """Forgets what was seen: other frames follow."""
        self._shown = None
        self._count = 0
        if self._tracker is not None:
            self._tracker.reset()

    def set_format(self, info: Any) -> None:
        """Takes the format of the frames that follow, a `GstVideoInfo`.

        Raises:
            ValueError: If its colors are not supported.
        """
        matrix = info.colorimetry.matrix
        is_yuv = bool(info.finfo.flags & GstVideo.VideoFormatFlags.YUV)
        if is_yuv and matrix not in _MATRICES:
            raise ValueError(
                f"{info.finfo.name} frames with the colors {info.colorimetry.to_string()} are not supported; "
                "convert them to RGB before: ... ! videoconvert ! video/x-raw,format=RGB ! retinadetect"
            )
        self._layout = Layout(
            info.finfo.name,
            info.height,
            info.width,
            tuple(info.offset),
            tuple(info.stride),
            _MATRICES[matrix] if is_yuv else "bt601",
            int(info.colorimetry.range) == _FULL_RANGE,
        )
        self._shown = None

    def process(self, buffer: Any, copy: Any) -> str | None:
        """Detects in a frame, and adds what is found to its copy.

        Args:
            buffer: The frame.
            copy: A buffer with the same pixels, which may be changed.

        Returns:
            The detections as JSON, or None if it was not the turn of this frame, see the property `every`.
        """
        assert self._layout is not None
        layout = _placed(self._layout, buffer)
        is_turn = self._count % self._options["every"] == 0
        self._count += 1
        if is_turn:
            with buffer.map(Gst.MapFlags.READ) as mapped:
                image = layout.rgb(mapped.data)
                # Without the image: its memory is mapped only here.
                found = self._detect(image)
                del image
            if self._tracker is not None:
                time_s = None if buffer.pts == Gst.CLOCK_TIME_NONE else buffer.pts / Gst.SECOND
                found = self._tracker.update(found, time_s, (layout.height, layout.width))
                self._note_first_seen(found, buffer.pts)
            size = layout.height, layout.width
            add_regions(copy, found, size)
            add_analytics(copy, found, size, self._first_seen)
            self._shown = found
        if self._draws and self._shown is not None and len(self._shown):
            with copy.map(Gst.MapFlags.READ | Gst.MapFlags.WRITE) as mapped:
                layout.paint(mapped.data, np.asarray(draw_detections(layout.rgb(mapped.data), self._shown)))
        return found.to_json() if is_turn else None

    def _note_first_seen(self, found: Detections, pts: int) -> None:
        for item in found:
            if item.track is not None:
                self._first_seen.setdefault(item.track, pts)
        for track in list(self._first_seen)[:-_KNOWN_TRACKS]:
            del self._first_seen[track]

    def _detect(self, image: npt.NDArray[np.uint8]) -> Detections:
        """Returns what is in an image, without the image, whose memory is mapped for a short time only."""
        score, classes = score_of(self._options["score"]), classes_of(self._options["classes"])
        try:
            found = self._detector(image, score_threshold=score, classes=classes, tiles=self._tiles)
        except ValueError as error:
            raise ValueError(str(error).replace("score_threshold", "score")) from error
        return replace(found, image=None)


def _placed(layout: Layout, buffer: Any) -> Layout:
    """Returns the layout of a buffer, whose planes and rows may have other places than usual."""
    meta = GstVideo.buffer_get_video_meta(buffer)
    if meta is None:
        return layout
    return replace(layout, offsets=tuple(meta.offset), strides=tuple(meta.stride))
