"""Video files and network streams, decoded by PyAV (FFmpeg)."""

from __future__ import annotations

import functools
import os
from collections import deque
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from retinasdk._util.lazy import require
from retinasdk.live.errors import CorruptFrameError, StreamError
from retinasdk.live.sources.base import RawFrame

if TYPE_CHECKING:
    import numpy.typing as npt


class Video:
    """What FFmpeg opens: a file, or a URL (rtsp, rtsps, http, https, rtmp, srt, udp, tcp, ...).

    timeout_s: a URL that is silent for so long is lost.
    options: FFmpeg's, such as {"rtsp_transport": "udp"} (RTSP comes over TCP otherwise).
    format: FFmpeg's name of the container, where it is not to be guessed.

    A URL that tells no duration is live. Frames are turned as the file says (phones), like the EXIF of photos.
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
            # UDP loses packets on a busy network, and with them seconds of picture.
            self._options = {"rtsp_transport": "tcp", **self._options}
        self._container: Any = None
        self._packets: Any = None
        self._frames: deque[Any] = deque()

    def open(self) -> None:
        try:
            self._container = self._av.open(
                self._location,
                format=self._format,
                options=self._options,
                timeout=self._timeout_s if self._is_url else None,
            )
        except (self._av.error.FFmpegError, OSError) as error:
            # FFmpeg's text repeats the whole URL, password included.
            raise StreamError(f"cannot be opened as video: {error.strerror or 'unknown error'}") from None
        if not self._container.streams.video:
            raise StreamError("wanted video, but there is none in it")
        stream = self._container.streams.video[0]
        self.live = self._is_url and not self._container.duration
        # Decoding several frames at a time holds each back by as many frames as there are cores.
        stream.thread_type = "SLICE" if self.live else "AUTO"
        self._packets = self._container.demux(stream)

    def read(self) -> RawFrame | None:
        while not self._frames:
            try:
                packet = next(self._packets, None)
            except (self._av.error.FFmpegError, OSError) as error:
                raise StreamError(f"lost: {error.strerror or 'unknown error'}") from None
            if packet is None:
                return None
            try:
                self._frames.extend(packet.decode())
            except self._av.error.FFmpegError as error:
                raise CorruptFrameError(f"cannot be decoded: {error.strerror}") from None
        frame = self._frames.popleft()
        if frame.is_corrupt:
            raise CorruptFrameError("decoded with damage")
        return RawFrame(functools.partial(_rgb, frame), frame.time)

    def close(self) -> None:
        self._frames.clear()
        self._packets = None
        if self._container is not None:
            self._container.close()
            self._container = None


def _rgb(frame: Any) -> npt.NDArray[np.uint8]:
    # Degrees anticlockwise, as NumPy turns.
    turns = round(frame.rotation / 90.0) % 4
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))


def without_password(url: str) -> str:
    """The URL without user, password and query, where some cameras want them too: for logs and messages."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
