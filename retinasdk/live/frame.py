"""`Frame`: what a stream gives, and the counters it carries."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from retinasdk.detections import Detections


@dataclass(frozen=True)
class Counters:
    """Frames of one source so far. captured = processed + dropped + failed + those that wait or are being worked on.

    captured: that the source gave. processed: that the detector did. dropped: by the policy or the deadline.
    failed: that could not be decoded, or on which the detector raised.
    """

    captured: int = 0
    processed: int = 0
    dropped: int = 0
    failed: int = 0


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a stream and what was found in it.

    image: (H, W, 3) uint8, RGB, host; the caller's to keep and to change.
    detections: in pixels of `image`; None where the detector raised.
    error: what it raised, or None. Its traceback holds the stream: leave the stream by `with` if you keep the frame.
    source: the name of the source; see `Stream.counters`.
    index: the frame's number in its source, from 0, dropped frames counted.
    captured_s: when it was captured: read and decoded, seconds, of the monotonic clock.
    age_s: seconds from then until the frame was handed over. What camera, network and decoder took before is not in it.
    time_s: its time in the recording, seconds; None where the source tells none.
    counters: of its source, at the hand-over.
    """

    image: npt.NDArray[np.uint8]
    detections: Detections | None
    source: str
    index: int
    captured_s: float
    age_s: float
    time_s: float | None
    counters: Counters
    error: Exception | None = None

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pixels, of plain Python values, ready for JSON; "error" is null or what was raised."""
        return {
            "source": self.source,
            "index": self.index,
            "time_s": self.time_s,
            "captured_s": self.captured_s,
            "age_s": self.age_s,
            "width": self.image.shape[1],
            "height": self.image.shape[0],
            "detections": None if self.detections is None else self.detections.to_dicts(),
            "error": None if self.error is None else f"{type(self.error).__name__}: {self.error}",
            "counters": asdict(self.counters),
        }
