"""`Load`: how long each stage of a stream is busy, and which of them limits the rate."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from retinasdk.live.clock import Clock

# Why no frame was there when the detector was free.
Awaited = Literal["source", "limit"]

_NAMES = {
    "convert": "The conversion to RGB",
    "preprocess": "Preprocessing",
    "inference": "Inference",
    "postprocess": "Post-processing",
    "detect": "The detector",
    "output": "The output (drawing, writing, sending)",
}


@dataclass(frozen=True)
class Bottleneck:
    """What limits the rate of a stream. `str` gives one sentence.

    Attributes:
        stage: A stage that is busy for the largest share of the time: "convert", "preprocess", "inference",
            "postprocess", "output", or "detect" for what a detector does apart from these. Or, if most frames had to be
            waited for: "source", or "limit" for `max_fps`.
        busy_s: How long the stage is busy, in seconds per frame. For "source" and "limit", as `frame_s`.
        frame_s: The time from one frame to the next, in seconds.
        awaited: How many frames were not there yet when the detector was free, because of the source or the limit.
        frames: How many frames the caller got.
    """

    stage: str
    busy_s: float
    frame_s: float
    awaited: int
    frames: int

    def __str__(self) -> str:
        if self.stage == "source":
            return (
                f"The source holds the rate back: the detector waited for {self.awaited} of {self.frames} frames, and "
                f"a frame came every {1000 * self.frame_s:.1f} ms."
            )
        if self.stage == "limit":
            return (
                f"The limit on frames per second holds the rate back: the detector was free before {self.awaited} of "
                f"{self.frames} frames, and took one every {1000 * self.frame_s:.1f} ms."
            )
        return (
            f"{_NAMES[self.stage]} holds the rate back: {1000 * self.busy_s:.1f} ms of {1000 * self.frame_s:.1f} ms a "
            "frame."
        )


class Load:
    """Measures for how long each stage of a stream is busy. All methods may be called from any thread.

    A stage is busy while at least one thread works on it. So its share of the time is at most 1, however many threads
    there are, and the stage with the largest share limits the rate, unless the source does.

    Attributes:
        STAGES: The names of the stages. "capture" is reading from the source, including the wait for it; "output" is
            what the caller does between two frames; the others are those of `Metrics`.
    """

    STAGES = ("capture", "convert", "queue", "preprocess", "inference", "postprocess", "detect", "output")

    def __init__(self, clock: Clock) -> None:
        """Starts with nothing measured.

        Args:
            clock: The clock of the stream.
        """
        self._clock = clock
        self._lock = threading.Lock()
        self._threads: Counter[str] = Counter()  # in each stage now
        self._since_s: dict[str, float] = {}  # since when the stage is busy
        self._busy_s = dict.fromkeys(self.STAGES, 0.0)
        self._awaited: Counter[str] = Counter()
        self._taken = self._passed = 0  # frames
        self._first_s = self._last_s = 0.0

    @contextmanager
    def during(self, stage: str) -> Iterator[None]:
        """Counts a stage as busy while the block runs.

        Args:
            stage: One of `STAGES`.
        """
        self.begin(stage)
        try:
            yield
        finally:
            self.end(stage)

    def begin(self, stage: str) -> None:
        """Counts a stage as busy from now on."""
        with self._lock:
            if not self._threads[stage]:
                self._since_s[stage] = self._clock.now()
            self._threads[stage] += 1

    def end(self, stage: str) -> None:
        """Ends what `begin` began."""
        with self._lock:
            self._threads[stage] -= 1
            if not self._threads[stage]:
                self._busy_s[stage] += self._clock.now() - self._since_s[stage]

    def took(self, frames: int, awaited: Awaited | None) -> None:
        """Counts frames that the detector starts on.

        Args:
            frames: How many.
            awaited: What the detector had to wait for before, or None if the frames were there already.
        """
        with self._lock:
            if not self._taken:  # The first frame is always waited for.
                self._first_s = self._last_s = self._clock.now()
            elif awaited is not None:
                self._awaited[awaited] += frames
            self._taken += frames

    def handed_over(self) -> None:
        """Counts a frame that the caller gets, and begins "output"."""
        with self._lock:
            self._passed += 1
            self._last_s = self._clock.now()
        self.begin("output")

    def asked(self) -> None:
        """Ends "output", because the caller wants the next frame."""
        self.end("output")
        with self._lock:
            self._last_s = self._clock.now()

    def busy_s(self, stage: str) -> float:
        """Returns for how many seconds a stage has been busy so far."""
        with self._lock:
            return self._busy_until(stage, self._clock.now())

    def _busy_until(self, stage: str, now: float) -> float:
        return self._busy_s[stage] + (now - self._since_s[stage] if self._threads[stage] else 0.0)

    def awaited(self, reason: Awaited) -> int:
        """Returns how many frames the detector had to wait for.

        Args:
            reason: "source" for frames that had not been captured yet, "limit" for those that `max_fps` delayed.
        """
        with self._lock:
            return self._awaited[reason]

    def shares(self) -> dict[str, float]:
        """Returns the share of the time for which each stage was busy, 0 to 1, by name. Empty before the second frame.

        The time is that from the start of the first detection to when the last frame was handed over.
        """
        with self._lock:
            run_s = self._last_s - self._first_s
            if self._passed < 2 or run_s <= 0.0:
                return {}
            now = self._clock.now()
            busy = {stage: self._busy_until(stage, now) for stage in self.STAGES}
            busy["output"] = self._busy_s["output"]  # What the caller does with the last frame is after that time.
            return {stage: min(1.0, seconds / run_s) for stage, seconds in busy.items()}

    def bottleneck(self) -> Bottleneck | None:
        """Returns what limited the rate so far, or None before the second frame."""
        shares = self.shares()
        if not shares:
            return None
        with self._lock:
            frames, frame_s = self._passed, (self._last_s - self._first_s) / self._passed
            awaited = {reason: min(self._awaited[reason], frames) for reason in ("limit", "source")}
        for reason, count in awaited.items():
            if 2 * count > frames - 1:
                return Bottleneck(reason, frame_s, frame_s, count, frames)
        inside = sum(shares[stage] for stage in ("convert", "queue", "preprocess", "inference", "postprocess"))
        shares["detect"] = max(0.0, shares["detect"] - inside)
        stage = max(_NAMES, key=shares.__getitem__)
        return Bottleneck(stage, shares[stage] * frame_s, frame_s, sum(awaited.values()), frames)
