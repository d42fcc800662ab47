"""Which frames the detector sees when it is slower than the source: policies, the frame-rate cap, playback speed."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal, TypeVar

WhenFull = Literal["drop oldest", "drop newest", "wait"]

_BUFFER = 2  # under `every`: one being worked on, one ready. More would only add age
_JUMP_S = 10.0  # a step in a recording's time from here on is a new beginning, not a pause

T = TypeVar("T")


@dataclass(frozen=True)
class Policy:
    """At most `capacity` frames of a source wait for the detector; `when_full` says what a further one does.

    "drop oldest" makes room for it, "drop newest" gives it up, "wait" holds the source back until there is room.
    """

    capacity: int
    when_full: WhenFull

    def __post_init__(self) -> None:
        if not isinstance(self.capacity, int) or self.capacity < 1:
            raise ValueError(f"a policy needs room for at least 1 frame, got {self.capacity!r}")
        if self.when_full not in ("drop oldest", "drop newest", "wait"):
            raise ValueError(f"when_full must be 'drop oldest', 'drop newest' or 'wait', got {self.when_full!r}")

    @property
    def drops(self) -> bool:
        return self.when_full != "wait"

    def has_room(self, waiting: int) -> bool:
        """Whether the source may be read while so many frames wait."""
        return self.drops or waiting < self.capacity

    def admit(self, waiting: deque[T], frame: T) -> int:
        """Puts the frame in line. Returns how many frames were dropped for it: 0 or 1."""
        if len(waiting) < self.capacity:
            waiting.append(frame)
            return 0
        if self.when_full == "drop oldest":
            waiting.popleft()
            waiting.append(frame)
        return 1


def latest() -> Policy:
    """Always the newest frame; older ones are dropped. Bounds the age of frames whatever the source's rate."""
    return Policy(1, "drop oldest")


def every() -> Policy:
    """Every frame: the source is read no faster than the detector works. A camera then fills its own buffers."""
    return Policy(_BUFFER, "wait")


def bounded(n: int, drop: Literal["oldest", "newest"] = "oldest") -> Policy:
    """Up to n frames wait, so that a short delay loses none; beyond that the oldest or the newest are dropped."""
    if drop not in ("oldest", "newest"):
        raise ValueError(f"drop must be 'oldest' or 'newest', got {drop!r}")
    return Policy(n, "drop oldest" if drop == "oldest" else "drop newest")


def as_policy(policy: Policy | str) -> Policy:
    """A policy, or the one that is meant by "latest", "all", "bounded:8" or "bounded:8:newest"."""
    if isinstance(policy, Policy):
        return policy
    if not isinstance(policy, str):
        raise TypeError(f"policy must be a Policy or its name, got {type(policy).__name__}")
    name, *options = policy.split(":")
    if name == "latest" and not options:
        return latest()
    if name == "all" and not options:
        return every()
    if name == "bounded" and options and options[0].isdecimal() and options[1:] in ([], ["oldest"], ["newest"]):
        return bounded(int(options[0]), *options[1:])  # type: ignore[arg-type]
    raise ValueError(f"policy must be 'latest', 'all', 'bounded:N' or 'bounded:N:newest', got {policy!r}")


class RateCap:
    """At most `max_fps` frames a second, on a regular beat; None: no cap."""

    def __init__(self, max_fps: float | None) -> None:
        if max_fps is not None and not max_fps > 0:
            raise ValueError(f"max_fps must be above 0, got {max_fps!r}; leave it out for no cap")
        self._period_s = 0.0 if max_fps is None else 1.0 / max_fps
        self.next_s = float("-inf")  # no frame before then

    def took(self, now: float) -> None:
        """A frame was taken: late by less than a beat, the beat stays; later than that, a new one begins."""
        late = now - self.next_s >= self._period_s
        self.next_s = (now if late else self.next_s) + self._period_s


class Playback:
    """When each frame of a recording is due, so that it runs like a camera, `speed` times as fast as it was taken."""

    def __init__(self, speed: float) -> None:
        if not speed > 0:
            raise ValueError(f"speed must be above 0, got {speed!r}; float('inf') is as fast as it can be read")
        self._speed = speed
        self._start_s = self._first_s = self._last_s = 0.0
        self._started = False

    def due_s(self, time_s: float, now: float) -> float:
        """The clock's time at which the recording's `time_s` is due."""
        if not self._started or not 0.0 <= time_s - self._last_s < _JUMP_S:
            self._started, self._start_s, self._first_s = True, now, time_s
        self._last_s = time_s
        return self._start_s + (time_s - self._first_s) / self._speed
