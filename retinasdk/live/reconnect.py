"""How often, and after what waits, a lost source is opened again; and what is told of it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Reconnect:
    """Waits that double, from `first_s` up to `longest_s`, each longer by a random share of up to `jitter`.

    attempts: in a row without a frame, after which the source is lost for good; None: never; 0: at once.
    Jitter keeps a room full of cameras from coming back in the same instant.
    """

    first_s: float = 0.5
    longest_s: float = 30.0
    jitter: float = 0.25
    attempts: int | None = 10

    def __post_init__(self) -> None:
        if not 0 <= self.first_s <= self.longest_s or not self.jitter >= 0:
            raise ValueError(f"Reconnect needs 0 <= first_s <= longest_s and jitter of at least 0, got {self}")
        if self.attempts is not None and (not isinstance(self.attempts, int) or self.attempts < 0):
            raise ValueError(f"attempts must be an integer of at least 0, or None for no limit, got {self.attempts!r}")

    def wait_s(self, attempt: int, generator: random.Random) -> float | None:
        """Seconds before the attempt of that number, from 1; None: give up."""
        if self.attempts is not None and attempt > self.attempts:
            return None
        wait = min(self.first_s * 2.0 ** min(attempt - 1, 60), self.longest_s)
        return wait * (1.0 + self.jitter * generator.random())


SourceState = Literal["connecting", "streaming", "reconnecting", "ended", "lost"]


@dataclass(frozen=True)
class StateChange:
    """A source is in another state.

    "connecting": it is being opened. "streaming": the first frame is here. "reconnecting": it was lost by `error` and
    is opened again in `wait_s`, the attempt of number `attempt`. "ended": there is no more, or the
    stream was closed. "lost": `error` ended it.
    """

    source: str
    state: SourceState
    error: Exception | None = None
    attempt: int = 0
    wait_s: float = 0.0
