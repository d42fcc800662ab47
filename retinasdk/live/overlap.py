"""`Overlap`: calls the detector on a few batches of frames at a time, and returns the results in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from retinasdk.live.clock import Clock
from retinasdk.live.detection import Batch, Done


@dataclass(eq=False)
class _Job:
    """A batch that a thread works on or will work on.

    Attributes:
        batch: The frames.
        results: What became of them.
        error: What was raised, for no single frame.
        is_done: Whether the thread is done with it.
    """

    batch: Batch
    results: list[Done] = field(default_factory=list)
    error: BaseException | None = None
    is_done: bool = False


class Overlap:
    """Runs a few batches at a time, each in a thread of its own.

    On the GPU, the host's work for one frame then runs during the GPU's work for another. All members except the
    threads are used with `changed` held, which is notified when a batch is done.

    Attributes:
        workers: The threads, which the stream starts and waits for.
    """

    def __init__(
        self, detect: Callable[[Batch], list[Done]], limit: int, clock: Clock, changed: threading.Condition
    ) -> None:
        """Creates the threads.

        Args:
            detect: Returns the results for a batch. It is called by `limit` threads at once.
            limit: How many batches may be in work or done and not fetched.
            clock: The clock of the stream.
            changed: The condition of the stream.
        """
        self._detect = detect
        self._limit = limit
        self._changed = changed
        self._jobs: deque[_Job] = deque()  # oldest first
        self._untouched: deque[_Job] = deque()
        self._is_stopped = False
        self.workers = [_Worker(self._run, clock, number) for number in range(limit)]

    @property
    def has_room(self) -> bool:
        """Whether another batch may be started."""
        return len(self._jobs) < self._limit

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing left to fetch."""
        return not self._jobs

    def start(self, batch: Batch) -> None:
        """Lets a thread work on a batch."""
        job = _Job(batch)
        self._jobs.append(job)
        self._untouched.append(job)
        self._changed.notify_all()

    def fetch(self) -> list[Done] | None:
        """Returns the results of the oldest batch, or None if they are not there yet. Raises what `detect` raised."""
        if not self._jobs or not self._jobs[0].is_done:
            return None
        job = self._jobs.popleft()
        if job.error is not None:
            raise job.error
        return job.results

    def stop(self) -> None:
        """Drops all batches and tells the threads to end. They end as soon as `detect` has returned."""
        self._is_stopped = True
        self._jobs.clear()
        self._untouched.clear()
        self._changed.notify_all()

    def _run(self, worker: _Worker) -> None:
        try:
            while (job := self._next_job()) is not None:
                try:
                    job.results = self._detect(job.batch)
                except BaseException as error:  # raised where the results are fetched
                    job.error = error
                with self._changed:
                    job.is_done = True
                    self._changed.notify_all()
                del job  # The frames belong to the caller now.
        finally:
            with self._changed:
                worker.finished = True
                self._changed.notify_all()

    def _next_job(self) -> _Job | None:
        with self._changed:
            while not self._is_stopped and not self._untouched:
                self._changed.wait()
            return None if self._is_stopped else self._untouched.popleft()


class _Worker:
    """A thread of `Overlap`.

    Attributes:
        name: Its name, for logs.
        thread: The thread.
        finished: Whether it has finished.
    """

    def __init__(self, run: Callable[[_Worker], None], clock: Clock, number: int) -> None:
        self.name = f"detector {number}"
        self.finished = False
        self.thread = clock.thread(lambda: run(self), f"retinasdk live {self.name}")
