"""`VideoWriter`: pictures with their times to an mp4 file, by PyAV (FFmpeg)."""

from __future__ import annotations

import contextlib
import os
import secrets
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from retinasdk._util.lazy import require
from retinasdk.live.errors import StreamError

if TYPE_CHECKING:
    from PIL import Image

_CODECS = (("libx264", {"preset": "veryfast", "crf": "23"}), ("mpeg4", {"qscale": "4"}))  # the first there is
_TICKS = 90_000  # a second; what mp4 players expect


class VideoWriter:
    """Writes H.264 (MPEG-4 where FFmpeg has no H.264) of the first picture's size, cut to even sides.

    Pictures of other sizes are scaled into it, with black bars. Each is shown until the time of the next, so frames may
    be any times apart. The file has its name only once `close` has made it whole; after an error other than
    `StreamError` there is none.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._av = require("av", "writing video")
        self._path = Path(path)
        self._temporary = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
        self._container: Any = None
        self._stream: Any = None
        self._first_s = 0.0
        self._last_ticks = -1

    def add(self, picture: Image.Image, time_s: float) -> None:
        """Appends a picture (RGB). Times count from the first; one that does not rise is moved up to the next tick.

        Raises `OSError` where it cannot be written.
        """
        if self._container is None:
            self._open(picture.size, time_s)
        if picture.size != (self._stream.width, self._stream.height):
            picture = self._fitted(picture)
        frame = self._av.VideoFrame.from_image(picture)
        self._last_ticks = max(round((time_s - self._first_s) * _TICKS), self._last_ticks + 1)
        frame.pts, frame.time_base = self._last_ticks, Fraction(1, _TICKS)
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Completes the file. Without a picture there is no file."""
        if self._container is None:
            return
        container, self._container = self._container, None
        try:
            container.mux(self._stream.encode(None))
            container.close()
            os.replace(self._temporary, self._path)
        finally:
            self._temporary.unlink(missing_ok=True)

    def discard(self) -> None:
        """Gives the file up."""
        container, self._container = self._container, None
        try:
            if container is not None:
                with contextlib.suppress(OSError):  # the disk may be full, which is why it is given up
                    container.close()
        finally:
            self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Ctrl-C is how one stops a camera, and a lost one is no reason to lose what was recorded until then.
        if kind is None or issubclass(kind, (KeyboardInterrupt, StreamError)):
            self.close()
        else:
            self.discard()

    def _open(self, size: tuple[int, int], time_s: float) -> None:
        codec, options = next((item for item in _CODECS if item[0] in self._av.codecs_available), _CODECS[-1])
        self._container = self._av.open(str(self._temporary), "w", format="mp4")
        self._stream = self._container.add_stream(codec, rate=30, options=options)
        self._stream.width, self._stream.height = (max(2, side // 2 * 2) for side in size)
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, _TICKS)
        self._first_s = time_s

    def _fitted(self, picture: Image.Image) -> Image.Image:
        width, height = self._stream.width, self._stream.height
        if (picture.width // 2 * 2, picture.height // 2 * 2) == (width, height):
            return picture.crop((0, 0, width, height))
        operations = require("PIL.ImageOps", "writing video")
        return operations.pad(picture, (width, height))  # type: ignore[no-any-return]
