"""What the element `retinadetect` does with frames, between `start` and `stop`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gi.repository import Gst, GstVideo

from retinasdk import Detections, Detector
from retinasdk.drawing import draw_detections
from retinasdk.live.gstreamer.frames import Layout
from retinasdk.live.gstreamer.options import classes_of, score_of, tiles_of
from retinasdk.live.gstreamer.results import add_metadata, message_text
from retinasdk.live.tracking import ByteTrack, Tracker

_MATRICES = {
    GstVideo.VideoColorMatrix.BT601: "bt601",
    GstVideo.VideoColorMatrix.BT709: "bt709",
    GstVideo.VideoColorMatrix.BT2020: "bt2020",
}
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
        self._tiles = tiles_of(options["tiles"])
        self._tracker = Tracker(ByteTrack(lost_s=options["track-lost"])) if options["track"] else None
        self._detector = Detector(options["model"] or None, device=options["device"] or "auto")
        self._layout: Layout | None = None
        self._shown: Detections | None = None
        self._count = 0
        try:
            self._detector.warmup()
            self._call_options()
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
            The text for a message, or None if nothing was detected in this frame, see the property `every`.
        """
        assert self._layout is not None
        layout = _placed(self._layout, buffer)
        is_turn = self._count % self._options["every"] == 0
        self._count += 1
        if is_turn:
            with buffer.map(Gst.MapFlags.READ) as mapped:
                image = layout.rgb(mapped.data)
                # Without the image: its memory is mapped only here.
                found = replace(self._detector(image, tiles=self._tiles, **self._call_options()), image=None)
                del image
            if self._tracker is not None:
                time_s = None if buffer.pts == Gst.CLOCK_TIME_NONE else buffer.pts / Gst.SECOND
                found = self._tracker.update(found, time_s, (layout.height, layout.width))
            add_metadata(copy, found, layout.width, layout.height)
            self._shown = found
        if self._options["draw"] and self._shown is not None and len(self._shown):
            with copy.map(Gst.MapFlags.READ | Gst.MapFlags.WRITE) as mapped:
                layout.paint(mapped.data, _drawn(layout.rgb(mapped.data), self._shown))
        return message_text(found) if is_turn else None

    def _call_options(self) -> dict[str, Any]:
        score, classes = score_of(self._options["score"]), classes_of(self._options["classes"])
        return {"score_threshold": score, "classes": classes}


def _drawn(image: Any, found: Detections) -> Any:
    import numpy as np

    return np.asarray(draw_detections(image, found))


def _placed(layout: Layout, buffer: Any) -> Layout:
    """Returns the layout of a buffer, whose planes and rows may have other places than usual."""
    meta = GstVideo.buffer_get_video_meta(buffer)
    if meta is None:
        return layout
    return replace(layout, offsets=tuple(meta.offset), strides=tuple(meta.stride))
