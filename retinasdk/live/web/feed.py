"""`Feed`: holds the newest frame of each source for the viewers. It is used only in the server's event loop."""

from __future__ import annotations

import asyncio
import io
import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from retinasdk._util.lazy import require
from retinasdk.live.frame import Frame

_LONGEST_SIDE = 1280  # Larger images are reduced to this many pixels. Boxes stay in pixels of the frame.
_JPEG_QUALITY = 80
_RATE_FRAMES = 30  # The frame rate is the mean over this many frames.


@dataclass
class Newest:
    """The newest frame of a source.

    Attributes:
        frame: The frame.
        times: When the last frames arrived, in seconds of the monotonic clock.
        picture: The task that encodes the frame as JPEG, once a viewer needs it.
    """

    frame: Frame
    times: deque[float] = field(default_factory=lambda: deque(maxlen=_RATE_FRAMES))
    picture: asyncio.Task[bytes] | None = None

    @property
    def fps(self) -> float | None:
        """Frames per second over the last frames, or None if there is only one."""
        seconds = self.times[-1] - self.times[0]
        return (len(self.times) - 1) / seconds if seconds > 0 else None


class Feed:
    """Holds the newest frame of each source and notifies the viewers of new ones.

    Attributes:
        ended: Whether no frame will follow.
        viewers: One event per viewer, which is set when there is a new frame.
    """

    def __init__(self) -> None:
        self.ended = False
        self.viewers: set[asyncio.Event] = set()
        self._newest: dict[str, Newest] = {}

    def take(self, frame: Frame, now: float) -> None:
        """Makes a frame the newest of its source.

        Args:
            frame: The frame.
            now: The time of the monotonic clock in seconds.
        """
        before = self._newest.get(frame.source)
        newest = Newest(frame) if before is None else Newest(frame, before.times)
        newest.times.append(now)
        self._newest[frame.source] = newest
        self._tell()

    def end(self) -> None:
        """Marks that no frame will follow."""
        self.ended = True
        self._tell()

    def _tell(self) -> None:
        for news in self.viewers:
            news.set()

    def newest(self, source: str | None) -> Newest | None:
        """Returns the newest frame of a source, or of the first source for None. None if there is none."""
        return next(iter(self._newest.values()), None) if source is None else self._newest.get(source)

    async def message(self, newest: Newest) -> bytes:
        """Returns a frame as a message, see `packed`. It is encoded as JPEG once, however many viewers there are."""
        if newest.picture is None:
            newest.picture = asyncio.ensure_future(asyncio.to_thread(_jpeg, newest.frame))
        picture = await asyncio.shield(newest.picture)  # A viewer that leaves must not cancel it for the others.
        found = newest.frame.detections
        about = {
            **newest.frame.to_dict(),
            "fps": newest.fps,
            "labels": [] if found is None else list(found.labels),
            "sources": list(self._newest),
        }
        return packed(about, picture)


def packed(about: dict[str, Any], picture: bytes = b"") -> bytes:
    """Returns a message: length of the JSON text, length of the JPEG (4 bytes each, big-endian), JSON text, JPEG."""
    text = json.dumps(about).encode()
    return len(text).to_bytes(4, "big") + len(picture).to_bytes(4, "big") + text + picture


def _jpeg(frame: Frame) -> bytes:
    picture = require("PIL.Image", "the preview in the browser").fromarray(frame.image)
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.getvalue()
