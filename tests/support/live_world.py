"""A simulated clock for streams. Its time advances only while every thread waits, so runs are repeatable."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from retinasdk import Detections
from retinasdk.live import Clock, RawFrame

LABELS = ("thing",)


class World(Clock):
    """Runs one thread at a time.

    A thread that waits passes the turn to the notified thread that has waited longest. If no thread was notified, the
    time jumps to the earliest time-out.
    """

    def __init__(self) -> None:
        self.time_s = 100.0
        self._waiting: list[_Waiter] = []
        self._order = 0

    def now(self) -> float:
        return self.time_s

    def condition(self) -> Any:
        return _Condition(self)

    def thread(self, run: Callable[[], None], name: str) -> threading.Thread:
        world, waiter = self, self._waiter(None, None)
        waiter.awake = True  # It gets its turn as if it had been notified.

        class Thread(threading.Thread):
            def start(self) -> None:
                world._waiting.append(waiter)
                super().start()

        def in_turn() -> None:
            waiter.turn.acquire()
            try:
                run()
            finally:
                world._hand_on()

        return Thread(target=in_turn, name=name, daemon=True)

    def sleep(self, seconds: float) -> None:
        self._wait(self._waiter(None, self.time_s + seconds))

    def _waiter(self, condition: Any, until_s: float | None) -> _Waiter:
        self._order += 1
        return _Waiter(condition, until_s, self._order)

    def _wait(self, waiter: _Waiter) -> None:
        self._waiting.append(waiter)
        self._hand_on()
        # Real seconds, so that a test that hangs fails.
        assert waiter.turn.acquire(timeout=60), "deadlock: every thread waits for another one"

    def _hand_on(self) -> None:
        awake = [waiter for waiter in self._waiting if waiter.awake]
        timed = [waiter for waiter in self._waiting if waiter.until_s is not None]
        if awake:
            chosen = min(awake, key=lambda waiter: waiter.order)
        elif timed:
            chosen = min(timed, key=lambda waiter: (waiter.until_s, waiter.order))
            self.time_s = max(self.time_s, chosen.until_s)
        else:
            return  # The last thread has ended, or there is a deadlock, which `_wait` reports.
        self._waiting.remove(chosen)
        chosen.turn.release()


class _Waiter:
    def __init__(self, condition: Any, until_s: float | None, order: int) -> None:
        self.condition, self.until_s, self.order = condition, until_s, order
        self.awake = False
        self.turn = threading.Semaphore(0)


class _Condition:
    """A condition without a lock: a thread passes its turn only in `wait`, where it would not hold the lock."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def wait(self, timeout: float | None = None) -> None:
        until = None if timeout is None else self._world.now() + timeout
        self._world._wait(self._world._waiter(self, until))

    def notify_all(self) -> None:
        for waiter in self._world._waiting:
            if waiter.condition is self:
                waiter.awake = True


def numbered(index: int) -> npt.NDArray[np.uint8]:
    """Returns a small image whose first pixel encodes a number."""
    image = np.zeros((4, 6, 3), np.uint8)
    image[0, 0] = index // 65536, index // 256 % 256, index % 256
    return image


def number_of(image: npt.NDArray[np.uint8]) -> int:
    return int(image[0, 0, 0]) * 65536 + int(image[0, 0, 1]) * 256 + int(image[0, 0, 2])


class Camera:
    """A source that delivers images 0, 1, ... every `period_s` seconds of the simulated time.

    Args:
        world: The simulated clock.
        period_s: Seconds between images.
        count: How many images there are. None: no end.
        live: See `Source`.
        name: See `Source`.
        script: {number: exception to raise, or seconds to stall before the image}. Numbers continue after `open`.
        opens: What each `open` raises, None for success. Later ones succeed.
    """

    on_demand = False

    def __init__(
        self,
        world: World,
        period_s: float,
        *,
        count: int | None = None,
        live: bool = True,
        name: str = "camera",
        script: dict[int, Exception | float] | None = None,
        opens: tuple[Exception | None, ...] = (),
    ) -> None:
        self.name, self.live = name, live
        self._world, self._period_s, self._count = world, period_s, count
        self._script = dict(script or {})
        self._opens = list(opens)
        self.next = 0
        self.log: list[tuple[str, float]] = []

    def open(self) -> None:
        self.log.append(("open", self._world.now()))
        error = self._opens.pop(0) if self._opens else None
        if error is not None:
            raise error

    def read(self) -> RawFrame | None:
        if self.next == self._count:
            return None
        self._world.sleep(self._period_s)
        number, self.next = self.next, self.next + 1
        event = self._script.get(number)
        if isinstance(event, Exception):
            raise event
        if event is not None:
            self._world.sleep(event)
        return RawFrame(lambda: numbered(number))

    def close(self) -> None:
        self.log.append(("close", self._world.now()))


class Slow:
    """A detector that takes `seconds` of simulated time per call, finds nothing, and records its calls.

    It raises an exception for the image numbers for which `fail` returns true.
    """

    def __init__(self, world: World, seconds: float, *, fail: Callable[[int], bool] = lambda number: False) -> None:
        self._world, self._seconds, self._fail = world, seconds, fail
        self.calls: list[list[int]] = []

    def __call__(self, images: Any) -> Any:
        batch = images if isinstance(images, list) else [images]
        numbers = [number_of(image) for image in batch]
        self.calls.append(numbers)
        self._world.sleep(self._seconds)
        for number in numbers:
            if self._fail(number):
                raise RuntimeError(f"cannot do {number}")
        results = [Detections.empty(LABELS) for _ in batch]
        return results if isinstance(images, list) else results[0]
