"""Which frames the detector gets when it is slower than the source: policies, frame-rate limit, playback speed."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal, TypeVar

WhenFull = Literal["drop oldest", "drop newest", "wait"]

_BUFFER = 2  # For `every`: one frame in the detector, one ready. More would only add latency.
_JUMP_S = 10.0  # A step of this size in a recording's time is a new start, not a pause.

T = TypeVar("T")


@dataclass(frozen=True)
class Policy:
    """How many frames of a source may wait for the detector, and what happens to one more.

    Use `latest`, `every` or `bounded`, which make the common ones.

    Attributes:
        capacity: How many frames of each source may wait, at least 1.
        when_full: "drop oldest": the oldest waiting frame is discarded. "drop newest": the new frame is discarded.
            "wait": the source is not read until there is room.

    Raises:
        ValueError: If a value is out of range.
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
        """Whether this policy ever discards frames."""
        return self.when_full != "wait"

    def has_room(self, waiting: int) -> bool:
        """Returns whether the source may be read.

        Args:
            waiting: How many frames are waiting.
        """
        return self.drops or waiting < self.capacity

    def admit(self, waiting: deque[T], frame: T) -> int:
        """Adds a frame to the waiting ones, or discards one.

        Args:
            waiting: The waiting frames, oldest first. Changed in place.
            frame: The new frame.

        Returns:
            How many frames were discarded, 0 or 1.
        """
        if len(waiting) < self.capacity:
            waiting.append(frame)
            return 0
        if self.when_full == "drop oldest":
            waiting.popleft()
            waiting.append(frame)
        return 1


def latest() -> Policy:
    """Returns the policy "latest": only the newest frame waits, older ones are discarded.

    The age of frames stays bounded, however fast the source is. This is the choice for control and monitoring.
    """
    return Policy(1, "drop oldest")


def every() -> Policy:
    """Returns the policy "all": no frame is discarded, and the source is read only as fast as the detector works.

    This is the choice for recordings. A camera or network stream that is read too slowly fills buffers of its own: its
    frames grow old, and it may disconnect.
    """
    return Policy(_BUFFER, "wait")


def bounded(n: int, drop: Literal["oldest", "newest"] = "oldest") -> Policy:
    """Returns the policy "bounded:N": up to `n` frames wait, so that a short delay of the detector loses none.

    Args:
        n: How many frames of each source may wait, at least 1.
        drop: Which frame is discarded when `n` are waiting and another one arrives. Default: "oldest".

    Raises:
        ValueError: If a value is out of range.
    """
    if drop not in ("oldest", "newest"):
        raise ValueError(f"drop must be 'oldest' or 'newest', got {drop!r}")
    return Policy(n, "drop oldest" if drop == "oldest" else "drop newest")


def as_policy(policy: Policy | str) -> Policy:
    """Returns the policy that a name stands for.

    Args:
        policy: "latest", "all", "bounded:N" or "bounded:N:newest", or a `Policy`, which is returned unchanged.

    Raises:
        TypeError: If it is neither a string nor a `Policy`.
        ValueError: If the name is unknown.
    """
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


_LEAST_FPS = 0.001  # A frame in 17 minutes. Far longer waits are beyond what the system's clocks can hold.


class RateCap:
    """Limits how many frames per second are taken, at regular intervals.

    Attributes:
        next_s: No frame may be taken before this time of the clock, in seconds.
    """

    def __init__(self, max_fps: float | None) -> None:
        if max_fps is not None and not max_fps >= _LEAST_FPS:
            raise ValueError(f"max_fps must be at least {_LEAST_FPS}, got {max_fps!r}; omit it for no limit")
        self._period_s = 0.0 if max_fps is None else 1.0 / max_fps
        self.next_s = float("-inf")

    def took(self, now: float) -> None:
        """Records that a frame was taken.

        A frame that is late by less than one interval does not shift the intervals. A later one starts them anew.

        Args:
            now: The time of the clock in seconds.
        """
        late = now - self.next_s >= self._period_s
        self.next_s = (now if late else self.next_s) + self._period_s


class Playback:
    """Computes when each frame of a recording is due, so that it plays like a camera, `speed` times as fast."""

    def __init__(self, speed: float) -> None:
        if not speed > 0:
            raise ValueError(f"speed must be above 0, got {speed!r}; float('inf') reads as fast as possible")
        self._speed = speed
        self._start_s = self._first_s = self._last_s = 0.0
        self._started = False

    def due_s(self, time_s: float, now: float) -> float:
        """Returns the time of the clock, in seconds, at which a frame is due.

        Args:
            time_s: The time of the frame in the recording, in seconds.
            now: The time of the clock in seconds.
        """
        if not self._started or not 0.0 <= time_s - self._last_s < _JUMP_S:
            self._started, self._start_s, self._first_s = True, now, time_s
        self._last_s = time_s
        return self._start_s + (time_s - self._first_s) / self._speed
