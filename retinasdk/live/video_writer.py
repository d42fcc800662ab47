"""`VideoWriter`: writes images with their times to a video file, with FFmpeg (package PyAV)."""

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

# The first one that FFmpeg has.
_CODECS = (("libx264", {"preset": "veryfast", "crf": "23"}), ("mpeg4", {"qscale": "4"}))
# FFmpeg's name of the container and its time units per second, by suffix. AVI is not among them: it has a fixed frame
# rate, while the frames of a stream may be any time apart. MPEG-4 allows at most 65,535 time units per second.
_CONTAINERS = {".mp4": ("mp4", 60_000), ".m4v": ("mp4", 60_000), ".mov": ("mov", 60_000), ".mkv": ("matroska", 1_000)}


class VideoWriter:
    """Writes a video file, encoded as H.264, or as MPEG-4 if FFmpeg has no H.264 encoder.

    The video has the size of the first image, reduced to even numbers. Images of other sizes are scaled to fit, with
    black bars. Each image is shown until the time of the next one, so frames may be any time apart.

    The file appears under its name only when `close` has completed it. Used in a `with` statement, it is completed at
    the end, also after `StreamError` and Ctrl-C; after any other exception it is discarded. Use it from one thread at a
    time. It needs the extra `video`: `pip install 'retinasdk[video]'`.

        with VideoWriter("marked.mp4") as writer, stream("clip.mp4", detector, policy="all") as frames:
            for frame in frames:
                writer.add(draw_detections(frame.image, frame.detections), frame.time_s)

    Args:
        path: The file to write. The suffix chooses the container: .mp4, .m4v, .mov or .mkv.

    Raises:
        MissingDependencyError: If PyAV is not installed.
        ValueError: If the suffix is not one of these.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        if self._path.suffix.lower() not in _CONTAINERS:
            raise ValueError(
                f"{self._path}: video cannot be written with the suffix {self._path.suffix!r}; use one of "
                f"{', '.join(_CONTAINERS)}"
            )
        self._format, self._ticks = _CONTAINERS[self._path.suffix.lower()]
        self._av = require("av", "writing video")
        self._temporary = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
        self._container: Any = None
        self._stream: Any = None
        self._first_s = 0.0
        self._last_ticks = -1

    def add(self, picture: Image.Image, time_s: float) -> None:
        """Appends an image.

        Args:
            picture: The image, mode RGB.
            time_s: Its time in seconds. Only differences matter: the video starts at the first image. A time that is
                not later than the one before is moved forward by the smallest step of the container.

        Raises:
            OSError: If the file cannot be written.
        """
        if self._container is None:
            self._open(picture.size, time_s)
        if picture.size != (self._stream.width, self._stream.height):
            picture = self._fitted(picture)
        frame = self._av.VideoFrame.from_image(picture)
        self._last_ticks = max(round((time_s - self._first_s) * self._ticks), self._last_ticks + 1)
        frame.pts, frame.time_base = self._last_ticks, Fraction(1, self._ticks)
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Completes the file. If no image was added, there is no file."""
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
        """Discards the file."""
        container, self._container = self._container, None
        try:
            if container is not None:
                with contextlib.suppress(OSError):  # The disk may be full, which may be why the file is discarded.
                    container.close()
        finally:
            self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Ctrl-C is the usual way to stop a camera, and a lost connection must not lose the recording up to then.
        if kind is None or issubclass(kind, (KeyboardInterrupt, StreamError)):
            self.close()
        else:
            self.discard()

    def _open(self, size: tuple[int, int], time_s: float) -> None:
        codec, options = next((item for item in _CODECS if item[0] in self._av.codecs_available), _CODECS[-1])
        self._container = self._av.open(str(self._temporary), "w", format=self._format)
        self._stream = self._container.add_stream(codec, rate=30, options=options)
        self._stream.width, self._stream.height = (max(2, side // 2 * 2) for side in size)
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, self._ticks)
        self._first_s = time_s

    def _fitted(self, picture: Image.Image) -> Image.Image:
        width, height = self._stream.width, self._stream.height
        if (picture.width // 2 * 2, picture.height // 2 * 2) == (width, height):
            return picture.crop((0, 0, width, height))
        operations = require("PIL.ImageOps", "writing video")
        return operations.pad(picture, (width, height))  # type: ignore[no-any-return]
