"""Lanes for several threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from retinasdk.errors import DeviceError
from retinasdk.tensorrt.lane import Lane

CLOSED = "the model is closed; make a new Detector"


class LanePool:
    """Makes lanes on demand up to a limit, and lends each to one call at a time.

    make: a new lane; None: there can be no further one. Whoever borrows must have the device's context current.
    """

    def __init__(self, make: Callable[[], Lane | None], limit: int) -> None:
        self._make = make
        self._limit = limit
        self._count = 0  # lanes lent, idle, or about to be made
        self._idle: list[Lane] = []
        self._is_closed = False
        self._changed = threading.Condition()
        self._making = threading.Lock()

    @contextmanager
    def lane(self, shape: tuple[int, ...]) -> Iterator[Lane]:
        """A lane of one's own, one that is set up for `shape` if there is. Raises `DeviceError` once closed."""
        lane = self._borrow(shape)
        try:
            yield lane
        except BaseException:
            # Who knows what it was in the middle of: the next call starts from a clean one.
            self._discard(lane)
            raise
        with self._changed:
            self._idle.append(lane)
            self._changed.notify()

    def _borrow(self, shape: tuple[int, ...]) -> Lane:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or self._idle or self._count < self._limit)
                if self._is_closed:
                    raise DeviceError(CLOSED)
                if self._idle:
                    # The last one back of that shape, else the last one back; the others may rest.
                    fitting = [lane for lane in self._idle if lane.shape == shape]
                    lane = (fitting or self._idle)[-1]
                    self._idle.remove(lane)
                    return lane
                self._count += 1
            made = self._new_lane()
            if made is not None:
                return made

    def _new_lane(self) -> Lane | None:
        """A lane for the count that was raised for it; None: there is none to be had, from now on."""
        try:
            with self._making:
                made = self._make()
        except BaseException:
            self._forget_one()
            raise
        if made is None:
            with self._changed:
                self._limit = self._count - 1
            self._forget_one()
        return made

    def _forget_one(self) -> None:
        with self._changed:
            self._count -= 1
            self._changed.notify()

    def _discard(self, lane: Lane) -> None:
        try:
            lane.close()
        finally:
            self._forget_one()

    def close(self) -> None:
        """Lets no one in any more, waits for lanes that are lent, and closes all of them."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._idle) == self._count)
            lanes, self._idle, self._count = self._idle, [], 0
        for lane in lanes:
            lane.close()
