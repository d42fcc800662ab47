"""`Feed`: the newest frame of each source, for viewers. Everything here runs in the server's event loop."""

from __future__ import annotations

import asyncio
import io
import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from retinasdk._util.lazy import require
from retinasdk.live.frame import Frame

_LONGEST_SIDE = 1280  # pixels of a picture; boxes stay in pixels of the frame
_JPEG_QUALITY = 80
_RATE_FRAMES = 30  # that the frame rate is taken over


@dataclass
class Newest:
    """The newest frame of a source. times: when the last ones came, seconds. picture: its JPEG, once one is wanted."""

    frame: Frame
    times: deque[float] = field(default_factory=lambda: deque(maxlen=_RATE_FRAMES))
    picture: asyncio.Task[bytes] | None = None

    @property
    def fps(self) -> float | None:
        seconds = self.times[-1] - self.times[0]
        return (len(self.times) - 1) / seconds if seconds > 0 else None


class Feed:
    """ended: no frame will follow. viewers: an event for each, set when there is news for it."""

    def __init__(self) -> None:
        self.ended = False
        self.viewers: set[asyncio.Event] = set()
        self._newest: dict[str, Newest] = {}

    def take(self, frame: Frame, now: float) -> None:
        before = self._newest.get(frame.source)
        newest = Newest(frame) if before is None else Newest(frame, before.times)
        newest.times.append(now)
        self._newest[frame.source] = newest
        self._tell()

    def end(self) -> None:
        self.ended = True
        self._tell()

    def _tell(self) -> None:
        for news in self.viewers:
            news.set()

    def newest(self, source: str | None) -> Newest | None:
        """Of the source with that name; None: of the first one."""
        return next(iter(self._newest.values()), None) if source is None else self._newest.get(source)

    async def message(self, newest: Newest) -> bytes:
        """Picture and facts of one frame, `packed`. However many viewers there are, the JPEG is made once."""
        if newest.picture is None:
            newest.picture = asyncio.ensure_future(asyncio.to_thread(_jpeg, newest.frame))
        picture = await asyncio.shield(newest.picture)  # one viewer's going does not take it from the others
        found = newest.frame.detections
        about = {
            **newest.frame.to_dict(),
            "fps": newest.fps,
            "labels": [] if found is None else list(found.labels),
            "sources": list(self._newest),
        }
        return packed(about, picture)


def packed(about: dict[str, Any], picture: bytes = b"") -> bytes:
    """Length of the JSON text, length of the picture (4 bytes each, big endian), then both."""
    text = json.dumps(about).encode()
    return len(text).to_bytes(4, "big") + len(picture).to_bytes(4, "big") + text + picture


def _jpeg(frame: Frame) -> bytes:
    picture = require("PIL.Image", "the preview in the browser").fromarray(frame.image)
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.getvalue()
