"""`Capture`: reads one source in a thread of its own, and holds its frames that wait for the detector."""

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
# In a row: ten seconds of a camera. One lost packet may damage all frames until the next key frame.
_MAX_CORRUPT = 300


@dataclass(frozen=True)
class Waiting:
    """A frame that waits for the detector.

    Attributes:
        raw: The frame as the source delivered it.
        index: Its number in the source, from 0.
        captured_s: When it was captured, in seconds of the clock.
        connection: How many times the source had been opened again before.
    """

    raw: RawFrame
    index: int
    captured_s: float
    connection: int = 0


class Capture:
    """Reads a source until it ends, is lost for good, or is stopped, and queues its frames by the policy.

    All captures of a stream share one condition, `changed`. It guards all state that several threads use, and is
    notified of every change. A stream has few threads, and with a single condition there is no lock order to violate.

    Attributes:
        name: The unique name of the source in its stream.
        finished: Whether the thread has finished.
        error: Why the source was lost for good, or None.
        thread: The thread that reads the source.
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
        is_alone: bool = True,
    ) -> None:
        self.name = name
        self.finished = False
        self.error: StreamError | None = None
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
        self._log = LimitedLog(_LOGGER, clock)  # for the capture thread
        self._detector_log = LimitedLog(_LOGGER, clock)  # for the thread that iterates over the stream
        self._stopped = False
        self._line: deque[Waiting] = deque()
        self._captured = self._processed = self._dropped = self._failed = 0
        self._is_alone = is_alone
        self._attempt = 0  # how many connections in a row have failed without a frame
        self._connection = 0  # how many times it was opened again
        self._lost_s: float | None = None  # when the connection was lost
        self.thread = clock.thread(self._run, f"retinasdk live {name}")

    # -- called by the stream, with `changed` held -------------------------------------------------------------------

    def take(self, now: float) -> Waiting | None:
        """Returns the next frame, and drops those that exceed the deadline.

        Args:
            now: The time of the clock in seconds.

        Returns:
            The frame, or None if none is waiting or the frame-rate limit does not allow one yet.
        """
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

    @property
    def is_waiting(self) -> bool:
        """Whether a frame is waiting, even if the frame-rate limit does not allow it yet."""
        return bool(self._line)

    def wait_s(self, now: float) -> float | None:
        """Returns the seconds until a frame may be taken, or None if only `changed` can tell."""
        return self._cap.next_s - now if self._line else None

    @property
    def drops(self) -> bool:
        """Whether frames of the source are discarded if the detector is slow."""
        return self._policy.drops and not self._source.on_demand

    @property
    def live(self) -> bool:
        """Whether the source is a camera or network stream, known once it was opened."""
        return self._source.live

    @property
    def exhausted(self) -> bool:
        """Whether no frame is waiting and none will come."""
        return self.finished and not self._line

    @property
    def counters(self) -> Counters:
        """The counters of the source."""
        return Counters(self._captured, self._processed, self._dropped, self._failed)

    def count(self, *, processed: int = 0, failed: int = 0) -> None:
        """Adds to the counters."""
        self._processed += processed
        self._failed += failed

    def warn(self, kind: str, text: str) -> None:
        """Logs what went wrong with a frame after capture, at a limited rate per kind."""
        self._detector_log.log(logging.WARNING, kind, f"{self.name}: {text}")

    def stop(self) -> None:
        """Tells the thread to end. It ends as soon as the current call of the source has returned."""
        self._stopped = True
        self._line.clear()
        self._changed.notify_all()

    # -- in the capture thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._read_until_lost()
        except Exception as error:
            tried = f" (tried {self._attempt} times)" if self._captured == 0 and self._attempt > 1 else ""
            self.error = StreamError(f"{self.name}: {_text(error)}{tried}")
            self.error.__cause__ = error
            # The iteration raises the error too, but if there are other sources, only when they have ended.
            is_news = self._source.live and not self._is_alone
            _LOGGER.log(logging.WARNING if is_news else logging.INFO, "%s; giving up", self.error)
            self._tell("lost", error=error)
        else:
            self._tell("ended")
        finally:
            self._log.close()
            with self._changed:
                self.finished = True
                self._changed.notify_all()

    def _read_until_lost(self) -> None:
        """Returns when the source has ended or was stopped. Raises the error that made it lost for good."""
        generator = random.Random()  # spreads reconnections over time  # nosec B311
        while not self._stopped:
            self._tell("connecting", attempt=self._attempt)
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
            self._attempt = 1 if self._captured > before else self._attempt + 1
            self._lost_s = self._clock.now() if self._lost_s is None else self._lost_s
            wait_s = self._reconnect.wait_s(self._attempt, generator, worked=self._captured > 0)
            if wait_s is None:
                raise lost
            text = f"{self.name}: {_text(lost)}; trying again in {wait_s:.1f} s (attempt {self._attempt})"
            self._log.log(logging.WARNING, "lost", text)
            self._tell("reconnecting", error=lost, attempt=self._attempt, wait_s=wait_s)
            self._connection += 1
            self._sleep_until(self._clock.now() + wait_s)

    def _read(self) -> None:
        """Reads frames until the source ends or is stopped."""
        corrupt = 0
        streaming = False
        while self._wait_for_room():
            start = self._clock.now()
            try:
                with self._metrics.load.during("capture"):
                    raw = self._source.read()
            except CorruptFrameError as error:
                corrupt += 1
                self._log.log(logging.WARNING, "corrupt", f"{self.name}: corrupt frame: {error}")
                with self._changed:
                    self._captured += 1
                    self._failed += 1
                if corrupt >= _MAX_CORRUPT:
                    raise StreamError(f"{corrupt} corrupt frames in a row, the last: {error}") from error
                continue
            if raw is None:
                return
            corrupt = 0
            self._metrics.capture.add(self._clock.now() - start)
            if not streaming:
                streaming = True
                self._tell("streaming")
                self._tell_return()
            # A recording plays at its own speed only if the policy drops frames. Otherwise it is read as fast as
            # possible.
            if raw.time_s is not None and not self._source.live and self._policy.drops:
                self._sleep_until(self._playback.due_s(raw.time_s, self._clock.now()))
            self._offer(raw)

    def _tell_return(self) -> None:
        if self._lost_s is not None:
            away_s, self._lost_s = self._clock.now() - self._lost_s, None
            # As loud as the loss, so that nobody looks for a camera that is back.
            self._log.log(logging.WARNING, "back", f"{self.name}: connected again after {away_s:.1f} s")

    def _wait_for_room(self) -> bool:
        """Waits for room, and returns False if the source was stopped.

        It is called before reading and not after, so that the frame is fresh when there is room for it.
        """
        with self._changed:
            while not self._stopped and not self._has_room():
                self._changed.wait()
            return not self._stopped

    def _has_room(self) -> bool:
        return not self._line if self._source.on_demand else self._policy.has_room(len(self._line))

    def _offer(self, raw: RawFrame) -> None:
        with self._changed:
            if self._stopped:
                return
            waiting = Waiting(raw, self._captured, self._clock.now(), self._connection)
            self._dropped += self._policy.admit(self._line, waiting)
            self._captured += 1
            self._changed.notify_all()

    def _sleep_until(self, due_s: float) -> None:
        with self._changed:
            while not self._stopped and (left := due_s - self._clock.now()) > 0:
                self._changed.wait(left)

    def _close_source(self) -> None:
        try:
            self._source.close()
        except Exception as error:  # The connection is abandoned anyway. The next `open` shows whether it still works.
            self._log.log(logging.WARNING, "closing", f"{self.name}: closing the source failed: {_text(error)}")

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
