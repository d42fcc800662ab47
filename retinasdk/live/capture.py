"""`Capture`: one source, read in a thread of its own, and the frames of it that wait for the detector."""

from __future__ import annotations

import logging
import random
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from retinasdk.live.clock import Clock
from retinasdk.live.errors import CorruptFrameError, StreamError
from retinasdk.live.frame import Counters
from retinasdk.live.limited_log import LimitedLog
from retinasdk.live.metrics import Metrics
from retinasdk.live.policies import Playback, Policy, RateCap
from retinasdk.live.reconnect import Reconnect, SourceState, StateChange
from retinasdk.live.sources import RawFrame, Source

_LOGGER = logging.getLogger("retinasdk.live")
_MAX_CORRUPT = 300  # in a row: ten seconds of a camera. Until the next key frame a lost packet may spoil many


@dataclass(frozen=True)
class Waiting:
    """A frame in line."""

    shot: RawFrame
    index: int
    captured_s: float


class Capture:
    """Reads a source until it ends, is lost for good, or `stop`; fills the line by the policy.

    changed: the stream's one condition. It guards everything that is not the thread's own, and is notified of every
        change: a stream has few threads, and one condition cannot be waited for in the wrong order.
    """

    def __init__(
        self,
        source: Source,
        name: str,
        *,
        policy: Policy,
        cap: RateCap,
        deadline_s: float | None,
        playback: Playback,
        reconnect: Reconnect,
        on_state: Callable[[StateChange], object] | None,
        clock: Clock,
        changed: threading.Condition,
        metrics: Metrics,
    ) -> None:
        self.name = name
        self.finished = False
        self.error: StreamError | None = None  # why it is lost for good
        self._source = source
        self._policy = policy
        self._cap = cap
        self._deadline_s = deadline_s
        self._playback = playback
        self._reconnect = reconnect
        self._on_state = on_state
        self._clock = clock
        self._changed = changed
        self._metrics = metrics
        self._log = LimitedLog(_LOGGER, clock)  # of the capture's thread
        self._detector_log = LimitedLog(_LOGGER, clock)  # of the stream's
        self._stopped = False
        self._line: deque[Waiting] = deque()
        self._captured = self._processed = self._dropped = self._failed = 0
        self.thread = clock.thread(self._run, f"retinasdk live {name}")

    # -- the stream's side; all of it with `changed` held ------------------------------------------------------------

    def take(self, now: float) -> Waiting | None:
        """The next frame in line, unless the frame-rate cap says to wait; those past the deadline are dropped."""
        if now < self._cap.next_s:
            return None
        while self._line:
            waiting = self._line.popleft()
            self._changed.notify_all()
            if self._deadline_s is not None and now - waiting.captured_s > self._deadline_s:
                self._dropped += 1
                continue
            self._cap.took(now)
            return waiting
        return None

    def wait_s(self, now: float) -> float | None:
        """How long there is surely nothing to take; None: until `changed`."""
        return self._cap.next_s - now if self._line else None

    @property
    def exhausted(self) -> bool:
        """Nothing is in line, and nothing will be."""
        return self.finished and not self._line

    @property
    def counters(self) -> Counters:
        return Counters(self._captured, self._processed, self._dropped, self._failed)

    def count(self, *, processed: int = 0, failed: int = 0) -> None:
        self._processed += processed
        self._failed += failed

    def warn(self, kind: str, text: str) -> None:
        """Logs what went wrong with a frame on the stream's side; not every time."""
        self._detector_log.log(logging.WARNING, kind, f"{self.name}: {text}")

    def stop(self) -> None:
        """Asks the thread to end; it does so when its source has come back from what it is doing."""
        self._stopped = True
        self._line.clear()
        self._changed.notify_all()

    # -- the thread's side -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._read_until_lost()
        except Exception as error:
            self.error = StreamError(f"{self.name}: {_text(error)}")
            self.error.__cause__ = error
            # The iteration raises it, but of several sources only when the others have ended.
            _LOGGER.log(logging.WARNING if self._source.live else logging.INFO, "%s; given up", self.error)
            self._tell("lost", error=error)
        else:
            self._tell("ended")
        finally:
            self._log.close()
            with self._changed:
                self.finished = True
                self._changed.notify_all()

    def _read_until_lost(self) -> None:
        """Comes back when the source has ended or was stopped; raises what made it lost for good."""
        generator = random.Random()
        attempt = 0
        while not self._stopped:
            self._tell("connecting", attempt=attempt)
            before = self._captured
            try:
                self._source.open()
                self._read()
                if self._stopped or not self._source.live:
                    return
                lost: Exception = StreamError("the source ended")
            except Exception as error:
                if self._stopped:
                    return
                if not self._source.live:
                    raise
                lost = error
            finally:
                self._close_source()
            attempt = 1 if self._captured > before else attempt + 1
            wait_s = self._reconnect.wait_s(attempt, generator)
            if wait_s is None:
                raise lost
            text = f"{self.name}: {_text(lost)}; attempt {attempt} in {wait_s:.1f} s"
            self._log.log(logging.WARNING, "lost", text)
            self._tell("reconnecting", error=lost, attempt=attempt, wait_s=wait_s)
            self._sleep_until(self._clock.now() + wait_s)

    def _read(self) -> None:
        """Until the source ends or `stop`."""
        corrupt = 0
        streaming = False
        while self._wait_for_room():
            start = self._clock.now()
            try:
                shot = self._source.read()
            except CorruptFrameError as error:
                corrupt += 1
                self._log.log(logging.WARNING, "corrupt", f"{self.name}: corrupt frame: {error}")
                with self._changed:
                    self._captured += 1
                    self._failed += 1
                if corrupt >= _MAX_CORRUPT:
                    raise StreamError(f"{corrupt} corrupt frames in a row, the last: {error}") from error
                continue
            if shot is None:
                return
            corrupt = 0
            self._metrics.capture.add(self._clock.now() - start)
            if not streaming:
                streaming = True
                self._tell("streaming")
            # A recording has no clock that presses; only where frames would be dropped does its speed matter.
            if shot.time_s is not None and not self._source.live and self._policy.drops:
                self._sleep_until(self._playback.due_s(shot.time_s, self._clock.now()))
            self._offer(shot)

    def _wait_for_room(self) -> bool:
        """False: stopped. Before reading and not after it, so that the frame is fresh when there is room."""
        with self._changed:
            while not self._stopped and not self._has_room():
                self._changed.wait()
            return not self._stopped

    def _has_room(self) -> bool:
        return not self._line if self._source.on_demand else self._policy.has_room(len(self._line))

    def _offer(self, shot: RawFrame) -> None:
        with self._changed:
            if self._stopped:
                return
            self._dropped += self._policy.admit(self._line, Waiting(shot, self._captured, self._clock.now()))
            self._captured += 1
            self._changed.notify_all()

    def _sleep_until(self, due_s: float) -> None:
        with self._changed:
            while not self._stopped and (left := due_s - self._clock.now()) > 0:
                self._changed.wait(left)

    def _close_source(self) -> None:
        try:
            self._source.close()
        except Exception as error:  # it is given up anyway; the next `open` says whether it is usable
            self._log.log(logging.WARNING, "closing", f"{self.name}: closing it failed: {_text(error)}")

    def _tell(
        self, state: SourceState, *, error: Exception | None = None, attempt: int = 0, wait_s: float = 0.0
    ) -> None:
        self._log.log(logging.INFO, state, f"{self.name}: {state}")
        if self._on_state is None:
            return
        try:
            self._on_state(StateChange(self.name, state, error, attempt, wait_s))
        except Exception:
            _LOGGER.exception("on_state raised for %s: %s", self.name, state)


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
