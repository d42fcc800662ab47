"""The GStreamer element `retinadetect`.

GStreamer's loader for Python runs this file by its path, in whatever Python GStreamer was built for. It imports nothing
of retinasdk before the element starts: so the element is always listed, and tells itself what is missing.

Note [Writable buffers]: a buffer that Python sees has one owner more, and GStreamer changes only what has a single
owner. So no buffer is changed in place. The base class gets another one for output: a copy with metadata. It shares the
pixels, unless boxes are drawn. The element has no method `do_transform`, so the base class lets the elements on both
sides agree on memory and strides as if it were not there.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import gi  # type: ignore[import-not-found]  # of the distribution

gi.require_version("Gst", "1.0")
gi.require_version("GstBase", "1.0")
gi.require_version("GstVideo", "1.0")
from gi.repository import GObject, Gst, GstBase, GstVideo  # type: ignore[import-not-found]  # noqa: E402

NAME = "retinadetect"
# Of the environment that installed the element: Python's (major, minor), and its path.
installed_for: tuple[tuple[int, int], str] | None = None

_DRAWN_FORMATS = "RGB, BGR, RGBx, BGRx, xRGB, xBGR, RGBA, BGRA, ARGB, ABGR"
_DRAWN_CAPS = f"video/x-raw, format=(string){{{_DRAWN_FORMATS}}}"
# Chroma of 4:2:0 has half the size.
_CAPS = Gst.Caps.from_string(
    f"video/x-raw, format=(string){{{_DRAWN_FORMATS}, GRAY8}}; video/x-raw, "
    "format=(string){NV12, NV21, I420, YV12, P010_10LE}, width=(int)[2, 65536, 2], height=(int)[2, 65536, 2]"
)
_COPIED = (
    Gst.BufferCopyFlags.FLAGS | Gst.BufferCopyFlags.TIMESTAMPS | Gst.BufferCopyFlags.META | Gst.BufferCopyFlags.MEMORY
)
_WHOLE = 2**64 - 1
_NONE = Gst.CLOCK_TIME_NONE
# From GStreamer 1.26 on, Python cannot change an answer, for the reason of Note [Writable buffers].
_CAN_ANSWER = Gst.version() < (1, 26)
_MARGIN = 1.2  # Of the latency that is reported, over the longest time that a frame has taken.


def _property(kind: Any, default: Any, nick: str, text: str, *limits: Any, while_playing: bool = False) -> Any:
    when = Gst.PARAM_MUTABLE_PLAYING if while_playing else Gst.PARAM_MUTABLE_READY
    return (kind, nick, text, *limits, default, GObject.ParamFlags.READWRITE | when)


_PROPERTIES = {
    "model": _property(str, "people", "Model", "ONNX file, TensorRT engine, or name of a bundled model"),
    "device": _property(str, "auto", "Device", "Where to run: auto, cpu, cuda, or cuda:N"),
    "score": _property(
        str,
        "",
        "Score",
        "Lowest confidence score, such as 0.5, or by class, such as person=0.5,dog=0.3; empty: the model's",
        while_playing=True,
    ),
    "classes": _property(str, "", "Classes", "Classes to detect, separated by commas; empty: all", while_playing=True),
    "tiles": _property(
        str,
        "",
        "Tiles",
        "Detect in overlapping tiles of this many pixels: 640, 480x640 (height x width), or auto; empty: no tiles",
    ),
    "every": _property(
        GObject.TYPE_UINT,
        1,
        "Every",
        "Detect in every n-th frame. The others pass with the boxes of the last one drawn, and without metadata",
        1,
        2**31 - 1,
        while_playing=True,
    ),
    "track": _property(bool, False, "Track", "Give each object a number that it keeps from frame to frame"),
    "track-lost": _property(
        float, 1.0, "Lost objects", "Seconds for which an undetected object keeps its number", 0.0, 3600.0
    ),
    "draw": _property(bool, False, "Draw", f"Draw the boxes on the frame, which must be in {_DRAWN_FORMATS}"),
    "post-messages": _property(
        bool,
        True,
        "Post messages",
        "Post an element message with the detections of each frame on the bus",
        while_playing=True,
    ),
}


class RetinaDetect(GstBase.BaseTransform):  # type: ignore[misc]
    """Detects objects in raw video, and adds them to each frame as metadata. See docs/guides/gstreamer.md."""

    __gtype_name__ = "RetinaDetect"
    __gstmetadata__ = (
        "RetinaNet object detection",
        "Filter/Analyzer/Video",
        "Detects objects in video frames and adds them as GstVideoRegionOfInterestMeta",
        "retinasdk",
    )
    __gsttemplates__ = (
        Gst.PadTemplate.new("src", Gst.PadDirection.SRC, Gst.PadPresence.ALWAYS, _CAPS),
        Gst.PadTemplate.new("sink", Gst.PadDirection.SINK, Gst.PadPresence.ALWAYS, _CAPS),
    )
    __gproperties__ = _PROPERTIES

    def __init__(self) -> None:
        super().__init__()
        self._options = {name: values[-2] for name, values in _PROPERTIES.items()}
        self._worker: Any = None
        self._info: Any = None
        self._latency_ns = -1
        self.set_qos_enabled(True)
        self.sinkpad.add_probe(Gst.PadProbeType.EVENT_DOWNSTREAM | Gst.PadProbeType.EVENT_FLUSH, self._on_event)
        self.srcpad.add_probe(Gst.PadProbeType.QUERY_UPSTREAM | Gst.PadProbeType.PULL, self._on_answer)

    def do_get_property(self, spec: Any) -> Any:
        """Returns a property."""
        return self._options[spec.name]

    def do_set_property(self, spec: Any, value: Any) -> None:
        """Sets a property. Its value is checked when it is used."""
        self._options[spec.name] = value if value is not None else ""

    # -- states and caps -----------------------------------------------------------------------------------------------

    def do_start(self) -> bool:
        """Loads the model."""
        try:
            _check_python()
            from retinasdk.live.gstreamer.worker import Worker
        except ImportError as error:
            return self._fail(Gst.LibraryError.quark(), Gst.LibraryError.INIT, _import_advice(error))
        try:
            self._worker = Worker(self._options)
        except ImportError as error:  # A package that a property needs. The text has the command that installs it.
            text = f"{error} (in the environment {installed_for[1]})" if installed_for is not None else str(error)
            return self._fail(Gst.LibraryError.quark(), Gst.LibraryError.INIT, text)
        except Exception as error:
            return self._fail(Gst.ResourceError.quark(), Gst.ResourceError.SETTINGS, str(error))
        self._latency_ns = -1
        return True

    def do_stop(self) -> bool:
        """Releases the model."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()
        return True

    def do_transform_caps(self, direction: Any, caps: Any, wanted: Any) -> Any:
        """Returns the caps of one side for those of the other: the same, and only what can be drawn on."""
        if self._options["draw"]:
            caps = caps.intersect(Gst.Caps.from_string(_DRAWN_CAPS))
        return caps if wanted is None else wanted.intersect_full(caps, Gst.CapsIntersectMode.FIRST)

    def do_set_caps(self, caps: Any, _: Any) -> bool:
        """Takes the size and format of the frames that follow."""
        self._info = GstVideo.VideoInfo.new_from_caps(caps)
        try:
            self._worker.set_format(self._info)
        except Exception as error:
            return self._fail(Gst.StreamError.quark(), Gst.StreamError.FORMAT, str(error))
        return True

    # -- frames --------------------------------------------------------------------------------------------------------

    def do_prepare_output_buffer(self, buffer: Any) -> tuple[Any, Any]:
        """Detects objects in a frame. See Note [Writable buffers]."""
        start = time.monotonic()
        try:
            copy = buffer.copy_region(_COPIED, 0, _WHOLE)
            message = self._worker.process(buffer, copy)
        except Exception as error:
            text = f"detection failed: {error or type(error).__name__}"
            self._fail(Gst.StreamError.quark(), Gst.StreamError.FAILED, text)
            return Gst.FlowReturn.ERROR, None
        if message is not None and self._options["post-messages"]:
            self.post_message(Gst.Message.new_element(self, self._message(buffer, message)))
        self._took(int((time.monotonic() - start) * Gst.SECOND))
        return Gst.FlowReturn.OK, copy

    def _message(self, buffer: Any, detections: str) -> Any:
        structure, segment = Gst.Structure.new_empty(NAME), self.segment
        times = {"timestamp": buffer.pts, "stream-time": _NONE, "running-time": _NONE}
        if segment.format == Gst.Format.TIME and buffer.pts != _NONE:
            times["stream-time"] = segment.to_stream_time(segment.format, buffer.pts)
            times["running-time"] = segment.to_running_time(segment.format, buffer.pts)
        for name, nanoseconds in times.items():
            structure.set_value(name, GObject.Value(GObject.TYPE_UINT64, nanoseconds))
        structure.set_value("width", self._info.width)
        structure.set_value("height", self._info.height)
        structure.set_value("detections", detections)
        return structure

    # -- latency, events, errors ---------------------------------------------------------------------------------------

    def _took(self, nanoseconds: int) -> None:
        if self._latency_ns < 0:  # The first frame is slower than all others.
            self._latency_ns = 0
        elif nanoseconds > self._latency_ns:
            self._latency_ns = int(nanoseconds * _MARGIN)
            self.post_message(Gst.Message.new_latency(self))

    def _on_answer(self, _: Any, info: Any) -> Any:
        """Adds the time that a frame takes to the latency that elements before this one report."""
        query = info.get_query()
        if query.type == Gst.QueryType.LATENCY and _CAN_ANSWER:
            is_live, least, most = query.parse_latency()
            own = max(self._latency_ns, 0)
            query.set_latency(is_live, least + own, most if most == _NONE else most + own)
        return Gst.PadProbeReturn.OK

    def _on_event(self, _: Any, info: Any) -> Any:
        """Starts anew after a seek, and with each new stream."""
        if info.get_event().type in (Gst.EventType.FLUSH_STOP, Gst.EventType.STREAM_START):
            worker = self._worker
            if worker is not None:
                worker.restart()
        return Gst.PadProbeReturn.OK

    def _fail(self, domain: Any, code: Any, text: str) -> bool:
        """Posts an error on the bus, and returns False."""
        self.message_full(Gst.MessageType.ERROR, domain, int(code), text, None, __file__, NAME, 0)
        return False


def _check_python() -> None:
    """Raises `ImportError` if retinasdk was installed for another version of Python."""
    if installed_for is not None and installed_for[0] != sys.version_info[:2]:
        raise ImportError("another version of Python")


def _import_advice(error: ImportError) -> str:
    ours = "{}.{}".format(*sys.version_info[:2])
    python = f"/usr/bin/python{ours}"
    folder = "~/retinasdk-gst"
    advice = (
        f"install it for that version: {python} -m venv {folder} && {folder}/bin/pip install retinasdk && "
        f"{folder}/bin/retinasdk gstreamer install"
    )
    if installed_for is not None and installed_for[0] != sys.version_info[:2]:
        theirs = "{}.{}".format(*installed_for[0])
        return (
            f"retinasdk is installed for Python {theirs} ({installed_for[1]}), but GStreamer runs Python {ours}, and "
            f"compiled modules work with one version only; {advice}"
        )
    return f"retinasdk cannot be imported by the Python {ours} that GStreamer runs ({error}); {advice}"


GObject.type_register(RetinaDetect)
__gstelementfactory__ = (NAME, Gst.Rank.NONE, RetinaDetect)
