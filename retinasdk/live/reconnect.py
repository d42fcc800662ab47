"""`Reconnect`, the rule by which a lost source is opened again, and `StateChange`, which reports its state."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Reconnect:
    """When and how often a camera or network stream is opened again.

    The waiting time doubles from `first_s` up to `longest_s`. A random share is added to each, so that many cameras do
    not reconnect at the same instant. Files are never opened again.

    Attributes:
        first_s: Seconds before the first attempt. Default: 0.5.
        longest_s: The longest waiting time in seconds, before the random share is added. Default: 30.
        jitter: The largest random share that is added to a waiting time. 0.25, the default, adds up to 25%.
        attempts: How many attempts in a row may fail to deliver a frame before the source is lost for good and the
            stream raises `StreamError`. 0: the stream never reconnects. None: it never gives up. Default: 10.
        first_attempts: The same for a source that has not delivered any frame yet, such as a wrong address. 0, the
            default, reports at once why it cannot be opened. None: it never gives up, for example on a robot that is
            ready before its camera.

    Raises:
        ValueError: If a value is out of range.
    """

    first_s: float = 0.5
    longest_s: float = 30.0
    jitter: float = 0.25
    attempts: int | None = 10
    first_attempts: int | None = 0

    def __post_init__(self) -> None:
        if not 0 <= self.first_s <= self.longest_s or not self.jitter >= 0:
            raise ValueError(f"Reconnect needs 0 <= first_s <= longest_s and a jitter of at least 0, got {self}")
        for name, value in (("attempts", self.attempts), ("first_attempts", self.first_attempts)):
            if value is not None and (not isinstance(value, int) or value < 0):
                raise ValueError(f"{name} must be an integer of at least 0, or None for no limit, got {value!r}")

    def wait_s(self, attempt: int, generator: random.Random, *, worked: bool = True) -> float | None:
        """Returns how long to wait before an attempt.

        Args:
            attempt: The number of the attempt since the last frame, from 1.
            generator: Where the random share comes from.
            worked: Whether the source has ever delivered a frame.

        Returns:
            Seconds, or None if the source is to be given up.
        """
        limit = self.attempts if worked else self.first_attempts
        if limit is not None and attempt > limit:
            return None
        wait = min(self.first_s * 2.0 ** min(attempt - 1, 60), self.longest_s)
        return wait * (1.0 + self.jitter * generator.random())


SourceState = Literal["connecting", "streaming", "reconnecting", "ended", "lost"]


@dataclass(frozen=True)
class StateChange:
    """Reports that a source has changed its state. `stream(..., on_state=...)` is called with it.

    Attributes:
        source: The name of the source.
        state: "connecting": the source is being opened. "streaming": the first frame has arrived. "reconnecting": the
            connection was lost and will be opened again. "ended": the source has no more frames, or the stream was
            closed. "lost": the source was given up.
        error: What went wrong, for "reconnecting" and "lost". Otherwise None.
        attempt: The number of the attempt since the last frame, from 1. 0 for the first connection, "streaming",
            "ended" and "lost".
        wait_s: Seconds until the attempt, for "reconnecting". Otherwise 0.
    """

    source: str
    state: SourceState
    error: Exception | None = None
    attempt: int = 0
    wait_s: float = 0.0
