"""V4L2 cameras and GStreamer pipelines, by OpenCV."""

from __future__ import annotations

import os
from typing import Any

from retinasdk._util.lazy import require
from retinasdk.errors import MissingDependencyError
from retinasdk.live.errors import StreamError
from retinasdk.live.sources.base import RawFrame


class _OpenCv:
    """What `cv2.VideoCapture` opens."""

    on_demand = False

    def __init__(self, name: str, *, live: bool) -> None:
        self.name = name
        self.live = live
        self._cv2 = require("cv2", "reading cameras and GStreamer pipelines")
        self._capture: Any = None

    def _make(self) -> Any:
        raise NotImplementedError

    def open(self) -> None:
        self._capture = self._make()
        if not self._capture.isOpened():
            raise StreamError("cannot be opened; is it there, free, and may this user read it?")

    def read(self) -> RawFrame | None:
        there, bgr = self._capture.read()
        if not there:
            if self.live:
                raise StreamError("gives no more frames")
            return None
        return RawFrame(lambda: self._cv2.cvtColor(bgr, self._cv2.COLOR_BGR2RGB))

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None


class Camera(_OpenCv):
    """A V4L2 camera: 0 or "/dev/video0".

    size (width, height), fps: asked of the driver, which takes what comes nearest.
    codec: four letters, such as "MJPG", which most USB cameras need for large pictures at full rate.
    """

    def __init__(
        self,
        device: int | str,
        *,
        size: tuple[int, int] | None = None,
        fps: float | None = None,
        codec: str | None = None,
    ) -> None:
        if codec is not None and len(codec) != 4:
            raise ValueError(f"codec must be four letters such as 'MJPG', got {codec!r}")
        super().__init__(f"/dev/video{device}" if isinstance(device, int) else device, live=True)
        self._size, self._fps, self._codec = size, fps, codec

    def _make(self) -> Any:
        cv2 = self._cv2
        capture = cv2.VideoCapture(os.path.realpath(self.name), cv2.CAP_V4L2)
        # The codec first: sizes and rates depend on it.
        if self._codec is not None:
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter_fourcc(*self._codec))
        if self._size is not None:
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, self._size[0])
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, self._size[1])
        if self._fps is not None:
            capture.set(cv2.CAP_PROP_FPS, self._fps)
        return capture


class Pipeline(_OpenCv):
    """A GStreamer pipeline that ends in BGR to an appsink; needs an OpenCV built with GStreamer.

    JetPack's and Debian's OpenCV are; those from pip are not. `drop=true max-buffers=1` keeps GStreamer itself from
    holding old frames. For a Jetson, a CSI camera and an RTSP camera through the hardware decoder:

        nvarguscamerasrc sensor-id=0 ! video/x-raw(memory:NVMM),width=1920,height=1080,framerate=30/1 !
            nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR !
            appsink drop=true max-buffers=1

        rtspsrc location=rtsp://camera/stream latency=100 ! rtph264depay ! h264parse ! nvv4l2decoder !
            nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR !
            appsink drop=true max-buffers=1

    live: False for a pipeline that ends, such as one that reads a file.

    That a network camera has fallen silent OpenCV and GStreamer find out after about half a minute; `Video`, for RTSP
    without a hardware decoder, after its `timeout_s`.
    """

    def __init__(self, description: str, *, live: bool = True, name: str = "pipeline") -> None:
        super().__init__(name, live=live)
        self._description = description
        if not any(line.split()[:2] == ["GStreamer:", "YES"] for line in self._cv2.getBuildInformation().splitlines()):
            raise MissingDependencyError(
                "a GStreamer pipeline needs an OpenCV built with GStreamer, and this one is not; use the system's "
                "(apt install python3-opencv, a venv made with --system-site-packages, no opencv package from pip)"
            )

    def _make(self) -> Any:
        return self._cv2.VideoCapture(self._description, self._cv2.CAP_GSTREAMER)
