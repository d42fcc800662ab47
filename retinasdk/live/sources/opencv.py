"""Sources that OpenCV reads: cameras and GStreamer pipelines."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from retinasdk._util.lazy import require
from retinasdk.errors import MissingDependencyError
from retinasdk.live.errors import StreamError
from retinasdk.live.sources.base import RawFrame
from retinasdk.live.sources.patient_capture import PatientCapture


@dataclass(frozen=True)
class _Platform:
    """How OpenCV reads the cameras of an operating system.

    Attributes:
        backends: The names of OpenCV's constants, in the order in which they are tried.
        advice: What to do if a camera cannot be opened.
    """

    backends: tuple[str, ...]
    advice: str


# DirectShow opens a camera within a second, for which Media Foundation may need half a minute; but some cameras have
# drivers for the latter only.
_PLATFORMS = {
    "linux": _Platform(("CAP_V4L2",), "check that it is a camera and that no other program uses it"),
    "darwin": _Platform(
        ("CAP_AVFOUNDATION",),
        "check that there is a camera of this number, and allow this program to use it: System Settings, Privacy & "
        "Security, Camera",
    ),
    "win32": _Platform(
        ("CAP_DSHOW", "CAP_MSMF"),
        "check that there is a camera of this number, that no other program uses it, and that desktop apps may use it: "
        "Settings, Privacy & security, Camera",
    ),
}


class _OpenCv:
    """A source that `cv2.VideoCapture` reads."""

    on_demand = False

    def __init__(self, name: str, *, live: bool) -> None:
        self.name = name
        self.live = live
        self._cv2 = require("cv2", "reading cameras and GStreamer pipelines")
        self._capture: Any = None

    def _make(self) -> Any:
        raise NotImplementedError

    def _check(self) -> None:
        """Raises `StreamError` if it is clear without OpenCV that the source cannot be opened."""

    def _failure(self) -> str:
        """Returns what to say when OpenCV cannot open the source. OpenCV itself gives no reason."""
        raise NotImplementedError

    def open(self) -> None:
        """Opens the source. See `Source.open`."""
        self._check()
        with self._quiet():
            self._capture = self._make()
            is_open = self._capture.isOpened()
        if not is_open:
            raise StreamError(self._failure())

    @contextlib.contextmanager
    def _quiet(self) -> Iterator[None]:
        """Keeps OpenCV from printing why it cannot open a source: `StreamError` says it."""
        # OpenCV 4.6 has these functions here, OpenCV 5 there.
        log = getattr(self._cv2.utils, "logging", self._cv2)
        before = log.getLogLevel()
        log.setLogLevel(0)
        try:
            yield
        finally:
            log.setLogLevel(before)

    def read(self) -> RawFrame | None:
        """Returns the next frame. See `Source.read`."""
        there, bgr = self._capture.read()
        if not there:
            if self.live:
                raise StreamError("the source delivers no more frames")
            return None
        return RawFrame(lambda: self._cv2.cvtColor(bgr, self._cv2.COLOR_BGR2RGB))

    def close(self) -> None:
        """Releases the device. See `Source.close`."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None


class Camera(_OpenCv):
    """A camera of this computer, such as a USB camera. It needs OpenCV.

    OpenCV reads it by V4L2 on Linux, AVFoundation on macOS, and DirectShow or else Media Foundation on Windows. Only
    Linux has been tested, and without a real camera. For other interfaces, pass an iterator of arrays (`Arrays`) to
    `stream`.

    Args:
        device: The number of the camera, from 0. On Linux also its path: 0 is "/dev/video0".
        size: (width, height) to request, in pixels. The driver takes what comes nearest. Defaults to the driver's own.
        fps: Frames per second to request. The driver takes what comes nearest. Defaults to the driver's own.
        codec: The pixel format to request, four letters such as "MJPG". Most USB cameras deliver large images at the
            full rate only as MJPG. Defaults to the driver's own.

    Raises:
        MissingDependencyError: If OpenCV is not installed.
        ValueError: If `codec` is not four letters, or if `device` is a path on another system than Linux.
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
        self._is_file = sys.platform not in ("darwin", "win32")
        if not self._is_file and not isinstance(device, int):
            raise ValueError(f"device must be the number of a camera on this system, such as 0, got {device!r}")
        self._platform = _PLATFORMS["linux" if self._is_file else sys.platform]
        name = f"/dev/video{device}" if isinstance(device, int) else device
        super().__init__(name if self._is_file else f"camera {device}", live=True)
        self._device = device
        self._size, self._fps, self._codec = size, fps, codec

    def _check(self) -> None:
        if not self._is_file:
            return
        if not os.path.exists(self.name):
            raise StreamError(
                "cannot be opened: there is no such device; list the cameras with: v4l2-ctl --list-devices"
            )
        if not os.access(self.name, os.R_OK | os.W_OK):
            raise StreamError(
                "cannot be opened: this user may not read it; add the user to the group video and log in again: "
                'sudo usermod -aG video "$USER"'
            )

    def _failure(self) -> str:
        return f"cannot be opened; {self._platform.advice}"

    def _make(self) -> Any:
        cv2 = self._cv2
        capture: Any = None
        for backend in self._platform.backends:
            capture = cv2.VideoCapture(
                os.path.realpath(self.name) if self._is_file else self._device, getattr(cv2, backend)
            )
            if capture.isOpened():
                break
            capture.release()
        # The codec comes first, because sizes and rates depend on it.
        if self._codec is not None:
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter_fourcc(*self._codec))
        if self._size is not None:
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, self._size[0])
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, self._size[1])
        if self._fps is not None:
            capture.set(cv2.CAP_PROP_FPS, self._fps)
        return capture


class Pipeline(_OpenCv):
    """A GStreamer pipeline that ends with BGR frames in an appsink. It needs an OpenCV built with GStreamer.

    OpenCV of JetPack and Debian is built with it, packages from pip are not. `drop=true max-buffers=1` keeps GStreamer
    itself from holding old frames. Pipelines for a Jetson, with a CSI camera and with an RTSP camera through the
    hardware decoder:

        nvarguscamerasrc sensor-id=0 ! video/x-raw(memory:NVMM),width=1920,height=1080,framerate=30/1 !
            nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR !
            appsink drop=true max-buffers=1

        rtspsrc location=rtsp://camera/stream latency=100 ! rtph264depay ! h264parse ! nvv4l2decoder !
            nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR !
            appsink drop=true max-buffers=1

    OpenCV may wait forever for a pipeline that failed while it was starting, for example because the camera was away.
    Such a pipeline is given up after `timeout_s`, but its threads and memory are lost until the program ends. Elements
    have timeouts of their own, which end a pipeline without such a loss: 20 seconds for rtspsrc, and 5 with
    `tcp-timeout=5000000`. `timeout_s` should be longer.

    Args:
        description: The pipeline, as for `gst-launch-1.0`.
        live: False for a pipeline that ends, such as one that reads a file. Default: True.
        name: The name for messages and `Frame.source`. Default: "pipeline".
        timeout_s: A pipeline that needs more seconds than this to open, or to deliver the next frame, is lost. Default:
            30, which is also the limit of newer versions of OpenCV itself.

    Raises:
        MissingDependencyError: If OpenCV is not installed or is built without GStreamer.
    """

    def __init__(self, description: str, *, live: bool = True, name: str = "pipeline", timeout_s: float = 30.0) -> None:
        super().__init__(name, live=live)
        self._description = description
        self._timeout_s = timeout_s
        if not any(line.split()[:2] == ["GStreamer:", "YES"] for line in self._cv2.getBuildInformation().splitlines()):
            raise MissingDependencyError(
                "a GStreamer pipeline needs an OpenCV built with GStreamer, and the installed one is not; use the one "
                "of the system: pip uninstall opencv-python opencv-python-headless; apt install python3-opencv; and "
                "make the virtual environment with python3 -m venv --system-site-packages"
            )

    def _failure(self) -> str:
        return "the pipeline cannot be opened; try it with gst-launch-1.0, and check that it ends in an appsink"

    def _make(self) -> Any:
        cv2, description = self._cv2, self._description
        return PatientCapture(lambda: cv2.VideoCapture(description, cv2.CAP_GSTREAMER), self._timeout_s)
