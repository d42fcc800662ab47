"""The pool that lends lanes to the threads that call a backend."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from retinasdk.errors import ClosedError, DeviceError
from retinasdk.tensorrt.lane import Lane

_log = logging.getLogger("retinasdk")

CLOSED = "The Detector is closed. Create a new one."


class LanePool:
    """Creates lanes on demand up to a limit, and lends each of them to one call at a time.

    The device's context must be current in the calling thread.
    """

    def __init__(self, make: Callable[[], Lane | None], limit: int) -> None:
        """Creates an empty pool.

        Args:
            make: Returns a new lane, or None if there cannot be a further one.
            limit: The most lanes to create.
        """
        self._make = make
        self._limit = limit
        self._count = 0  # Lanes that are lent, idle, or being created.
        self._idle: list[Lane] = []
        self._is_closed = False
        self._changed = threading.Condition()
        self._making = threading.Lock()

    @contextmanager
    def lane(self, shape: tuple[int, ...]) -> Iterator[Lane]:
        """Lends a lane, preferably one that is set up for `shape`, and waits for one if necessary.

        Args:
            shape: Shape of the network's input that the caller will run.

        Yields:
            The lane. If the block raises an error, the lane is closed instead of reused.

        Raises:
            DeviceError: If the pool is closed, or a new lane cannot be created.
        """
        lane = self._borrow(shape)
        try:
            yield lane
        except BaseException:
            # The state of the lane is unknown, so the next call gets another one.
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
                    raise ClosedError(CLOSED)
                if self._idle:
                    # The most recently used lane of that shape, else the most recently used one.
                    fitting = [lane for lane in self._idle if lane.shape == shape]
                    lane = (fitting or self._idle)[-1]
                    self._idle.remove(lane)
                    return lane
                self._count += 1
            made = self._new_lane()
            if made is not None:
                return made

    def _new_lane(self) -> Lane | None:
        """Creates a lane, which `_count` already includes. None: no further lane can be created from now on.

        Whether TensorRT fails to create a further context or creates one that cannot be used depends on its version.
        One lane is enough in both cases.
        """
        try:
            with self._making:
                made = self._make()
        except DeviceError as error:
            if self._is_only_one_forgotten(str(error)):
                raise
            return None
        except BaseException:
            self._forget_one()
            raise
        if made is None and self._is_only_one_forgotten("the engine's profile serves one context at a time"):
            raise DeviceError("TensorRT creates no execution context that can use the engine's profile.")
        return made

    def _is_only_one_forgotten(self, why: str) -> bool:
        """Gives up the lane that could not be created, and further ones. Returns whether there is no other one."""
        with self._changed:
            is_only_one = self._count == 1
            self._limit = max(1, self._count - 1)
        self._forget_one()
        if not is_only_one:
            _log.info("%d calls can run at the same time, not more: %s", self._limit, why)
        return is_only_one

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
        """Rejects further calls, waits until all lanes are returned, and closes them."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._idle) == self._count)
            lanes, self._idle, self._count = self._idle, [], 0
        for lane in lanes:
            lane.close()
