"""`VideoWriter`: writes images with their times to a video file, with FFmpeg (package PyAV)."""

from __future__ import annotations

import contextlib
import os
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from retinasdk._util.lazy import require

if TYPE_CHECKING:
    from PIL import Image

# The first one that FFmpeg has. Without "zerolatency" x264 would hold back some forty images.
_CODECS = (("libx264", {"preset": "veryfast", "crf": "23", "tune": "zerolatency"}), ("mpeg4", {"qscale": "4"}))
# MPEG-4 files are written in fragments, each of which is complete, and get one index for all of them at the end.
_FRAGMENTS = {"movflags": "hybrid_fragmented", "frag_duration": "500000"}  # microseconds
_CLUSTERS = {"cluster_time_limit": "500"}  # milliseconds
# FFmpeg's name of the container, its time units per second and its options, by suffix. AVI is not among them: it has a
# fixed frame rate, while the frames of a stream may be any time apart. MPEG-4 allows at most 65,535 units per second.
_CONTAINERS = {
    ".mp4": ("mp4", 60_000, _FRAGMENTS),
    ".m4v": ("mp4", 60_000, _FRAGMENTS),
    ".mov": ("mov", 60_000, _FRAGMENTS),
    ".mkv": ("matroska", 1_000, _CLUSTERS),
}


class VideoWriter:
    """Writes a video file, encoded as H.264, or as MPEG-4 if FFmpeg has no H.264 encoder.

    The video has the size of the first image, reduced to even numbers. Images of other sizes are scaled to fit, with
    black bars. Each image is shown until the time of the next one, so frames may be any time apart.

    The file is written under its name from the first image on, and replaces an older one then. It can be played at any
    time: if the process is killed, the last half second is missing, or the last image if images are further apart. In a
    `with` statement, the file is completed at the end, also after an exception. Use it from one thread at a time. It
    needs the extra `video`: `pip install 'retinasdk[video]'`.

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
        self._format, self._ticks, self._options = _CONTAINERS[self._path.suffix.lower()]
        self._av = require("av", "writing video")
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
        """Completes the file. If no image was added, there is no file. It may be called twice.

        Raises:
            OSError: If the file cannot be completed. What was written before can be played.
        """
        if self._container is None:
            return
        container, self._container = self._container, None
        try:
            container.mux(self._stream.encode(None))
        finally:
            container.close()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The disk may be full, which may be the exception itself.
        with contextlib.nullcontext() if kind is None else contextlib.suppress(OSError):
            self.close()

    def _open(self, size: tuple[int, int], time_s: float) -> None:
        codec, options = next((item for item in _CODECS if item[0] in self._av.codecs_available), _CODECS[-1])
        self._container = self._av.open(
            str(self._path), "w", format=self._format, options={**self._options, "flush_packets": "1"}
        )
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
