"""Video files and network streams, decoded by FFmpeg (package PyAV)."""

from __future__ import annotations

import functools
import os
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk._util.addresses import without_password
from retinasdk._util.lazy import require
from retinasdk.images import as_rgb
from retinasdk.live.errors import CorruptFrameError, StreamError
from retinasdk.live.sources.base import RawFrame
from retinasdk.live.sources.failures import why_lost, why_not_opened

if TYPE_CHECKING:
    import numpy.typing as npt

_FFMPEG_TICKS = 1_000_000  # per second, the unit in which FFmpeg tells the duration of a container


class Video:
    """A video file or network stream that FFmpeg opens. It needs the extra `video`.

    A URL whose stream has no duration is live: if the connection drops, the stream reconnects. Frames are rotated as
    the file says, for example for videos of phones.

    Args:
        location: A file, or a URL (rtsp, rtsps, http, https, rtmp, srt, udp, tcp and others).
        timeout_s: A URL that sends nothing for this many seconds is lost. Opening it takes at most twice as long, and
            the time in which the system resolves the name of the host. Default: 5.
        options: Options of FFmpeg, such as {"rtsp_transport": "udp"}. RTSP uses TCP by default.
        format: FFmpeg's name of the container format. Detected automatically by default.

    Raises:
        MissingDependencyError: If PyAV is not installed.
    """

    on_demand = False

    def __init__(
        self,
        location: str | os.PathLike[str],
        *,
        timeout_s: float = 5.0,
        options: dict[str, str] | None = None,
        format: str | None = None,
    ) -> None:
        self._location = os.fspath(location)
        self._is_url = "://" in self._location
        self._timeout_s = timeout_s
        self._format = format
        self._options = dict(options or {})
        self._av = require("av", "reading video")
        self.name = without_password(self._location) if self._is_url else self._location
        self.live = self._is_url
        if self._location.startswith("rtsp"):
            # UDP loses packets on a busy network, and each loss damages the image for seconds.
            self._options = {"rtsp_transport": "tcp", **self._options}
        self._container: Any = None
        self._packets: Any = None
        self._frames: deque[Any] = deque()
        self._start_s = self._duration_s = 0.0

    def open(self) -> None:
        """Connects or opens the file. See `Source.open`."""
        self._container = self._opened()
        if not self._container.streams.video:
            raise StreamError("it contains no video stream")
        stream = self._container.streams.video[0]
        self.live = self._is_url and not self._container.duration
        if not self._is_url:
            self._start_s = (self._container.start_time or 0) / _FFMPEG_TICKS
            self._duration_s = (self._container.duration or 0) / _FFMPEG_TICKS
        # Frame threading would delay each frame by as many frames as there are cores.
        stream.thread_type = "SLICE" if self.live else "AUTO"
        self._packets = self._container.demux(stream)

    def read(self) -> RawFrame | None:
        """Decodes the next frame. See `Source.read`."""
        while not self._frames:
            packet = self._next_packet()
            if packet is None:
                return None
            try:
                self._frames.extend(packet.decode())
            except self._av.error.FFmpegError as error:
                raise CorruptFrameError(f"cannot be decoded: {error.strerror}") from None
        frame = self._frames.popleft()
        if frame.is_corrupt:
            raise CorruptFrameError("the decoded image is damaged")
        # The oldest PyAV that is supported does not know the length of a frame.
        length_s = float((getattr(frame, "duration", None) or 0) * frame.time_base)
        return RawFrame(functools.partial(_rgb, frame), frame.time, self._progress(frame.time, length_s))

    def _opened(self) -> Any:
        begin = time.monotonic()
        try:
            return self._av.open(
                self._location,
                format=self._format,
                options=self._options,
                timeout=self._timeout_s if self._is_url else None,
            )
        except (self._av.error.FFmpegError, OSError) as error:
            why = why_not_opened(error, self._location, time.monotonic() - begin, self._timeout_s)
        # Here, so that the error of FFmpeg, which contains the URL with the password, is not its context.
        raise StreamError(f"cannot be opened as video: {why}")

    def _next_packet(self) -> Any:
        """Returns the next packet, or None at the end."""
        try:
            return next(self._packets, None)
        except (self._av.error.FFmpegError, OSError) as error:
            why = why_lost(error, self._is_url, self._timeout_s)
        raise StreamError(why)

    def _progress(self, time_s: float | None, length_s: float) -> float | None:
        if time_s is None or self._duration_s <= 0:
            return None
        # The length of the frame itself counts, so that the last frame is at 1.
        return float(min(max((time_s + length_s - self._start_s) / self._duration_s, 0.0), 1.0))

    def close(self) -> None:
        """Disconnects or closes the file. See `Source.close`."""
        self._frames.clear()
        self._packets = None
        if self._container is not None:
            self._container.close()
            self._container = None


def _rgb(frame: Any) -> npt.NDArray[np.uint8]:
    # FFmpeg gives degrees counterclockwise, the direction of np.rot90.
    turns = round(frame.rotation / 90.0) % 4
    return as_rgb(np.rot90(frame.to_ndarray(format="rgb24"), turns))
