"""Shows on standard error how far a command has come.

Nothing is shown for work of less than two seconds, and nothing goes to standard output. On a terminal one line is
rewritten in place. Elsewhere (a log, a pipe, a terminal that cannot rewrite a line) a whole line is written after two
seconds, then every 10 seconds or 10 %, and once a minute in work that takes long. No colors and no escape sequences are
used, so `NO_COLOR` and every terminal are respected.

`--quiet` turns it off, and so does the environment variable `RETINASDK_PROGRESS=0`.

A thread writes the lines. So a step that reports nothing for minutes, such as the build of an engine by a TensorRT that
has no progress monitor, still shows how long it has been running.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import IO

from retinasdk._util.progress import Progress

VARIABLE = "RETINASDK_PROGRESS"  # "0" turns progress off, for every command.
_DELAY_S = 2.0  # Shorter work shows nothing.
_TICK_S = 0.5
_JOIN_S = 1.0
_LINE_S, _SLOW_LINE_S = 10.0, 60.0  # Where lines are kept: between two of them, at first and in work that takes long.
_LINE_SHARE = 0.1
_USUAL_COLUMNS, _COLUMNS_FOR_BAR, _BAR = 80, 60, 20

_active: list[Display] = []  # the display of the command that runs; the last one, if there are several


class Display:
    """Shows progress while a command works. Give it as `progress=` to functions of the library.

    Args:
        quiet: Whether nothing is shown.
        stream: Where to write. Defaults to standard error.
        clock: Returns the time in seconds.

    Example:
        >>> with Display(quiet=True) as progress:
        ...     progress(Progress("detect", 1, 20, "image"))
    """

    def __init__(
        self, *, quiet: bool = False, stream: IO[str] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._is_shown = not quiet and self._stream is not None and os.environ.get(VARIABLE) != "0"
        self._is_live = self._is_shown and self._stream.isatty() and os.environ.get("TERM") != "dumb"
        # A signal handler or a progress report inside `above` may come while this thread has the lock.
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._began = self._step_began = self._updated = clock()
        self._step, self._note = "", ""
        self._fraction: float | None = None
        self._drawn = 0  # columns of the line that is rewritten
        self._line_at: float | None = None  # when the last line that stays was written
        self._line_fraction = 0.0

    def __call__(self, report: Progress) -> None:
        """Takes a report of the library."""
        note = ""
        if report.total is not None:
            note = f"{report.done:,} of {report.total:,} {report.unit}{'' if report.total == 1 else 's'}"
        self.update(report.step, report.fraction, note)

    def update(self, step: str, fraction: float | None = None, note: str = "") -> None:
        """Says what is being done now. The thread shows it when it is time.

        Args:
            step: What is being done. The remaining time is estimated for each step.
            fraction: How much of the step is finished, 0 to 1, if that is known.
            note: More about it, such as "3 of 20 images".
        """
        with self._lock:
            now = self._clock()
            if step != self._step or (fraction or 0.0) < (self._fraction or 0.0):
                self._step_began, self._line_fraction = now, 0.0
            self._step, self._fraction, self._note, self._updated = step, fraction, note, now

    def __enter__(self) -> Display:
        self._began = self._step_began = self._updated = self._clock()
        if self._is_shown:
            _active.append(self)
            self._thread = threading.Thread(target=self._run, name="retinasdk-progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self in _active:
            _active.remove(self)
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_JOIN_S)  # It may wait for a terminal that has stopped its output.
        with self._writing():
            self._clear()
            if self._line_at is not None and self._clock() - self._began >= _LINE_S:
                self._write(f"retinasdk: {duration(self._clock() - self._began)} in all\n")

    @contextlib.contextmanager
    def above(self) -> Iterator[None]:
        """Lets other text be written above the line that is rewritten."""
        with self._lock:
            with self._writing():
                self._clear()
            try:
                yield
            finally:
                self.tick()

    def tick(self) -> None:
        """Shows what is due now. Called by the thread."""
        with self._writing():
            now = self._clock()
            if not self._is_shown or self._stop.is_set() or not self._step or now - self._began < _DELAY_S:
                return
            if self._is_live:
                text = self._text(now, _columns(self._stream))
                self._write("\r" + text.ljust(self._drawn))
                self._drawn = len(text)
            elif self._is_line_due(now):
                self._line_at, self._line_fraction = now, self._fraction or 0.0
                self._write(f"retinasdk: {self._text(now)}\n")

    def _is_line_due(self, now: float) -> bool:
        if self._line_at is None:
            return True
        passed = now - self._line_at
        if passed >= min(_SLOW_LINE_S, max(_LINE_S, (now - self._began) / 10)):
            return True
        return passed >= _DELAY_S and (self._fraction or 0.0) >= self._line_fraction + _LINE_SHARE

    def _text(self, now: float, columns: int | None = None) -> str:
        """Returns the line; with a bar and cut off if it must fit into so many columns."""
        parts = [self._note] if self._note else []
        head = self._step
        if self._fraction is None:
            parts.append(f"{duration(now - self._began)} so far")
        else:
            filled = round(_BAR * self._fraction)
            bar = "" if columns is None or columns < _COLUMNS_FOR_BAR else f" [{'#' * filled:{_BAR}s}]"
            head = f"{self._step}:{bar} {self._fraction:.0%}"
            if self._fraction < 1:
                left = self._left(now)
                so_far = f"{duration(now - self._began)} so far"
                parts.append(so_far if left is None else f"about {duration(left)} left")
        text = ", ".join([head, *parts])
        return text if columns is None else text[: columns - 1]

    def _left(self, now: float) -> float | None:
        """Returns the seconds that the step still takes at its mean speed so far, or None if nothing is finished."""
        if not self._fraction or self._updated <= self._step_began:
            return None
        whole = (self._updated - self._step_began) / self._fraction
        return max(0.0, whole - (now - self._step_began))

    def _run(self) -> None:
        while not self._stop.wait(_TICK_S):
            self.tick()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Ends the display if its stream can no longer be written to: the work goes on."""
        try:
            with self._lock:
                yield
        except (OSError, ValueError):  # Nobody reads it, or it is closed.
            self._is_shown, self._drawn = False, 0

    def _clear(self) -> None:
        if self._drawn:
            self._write("\r" + " " * self._drawn + "\r")
            self._drawn = 0

    def _write(self, text: str) -> None:
        if self._is_shown:
            self._stream.write(text)
            self._stream.flush()


@contextlib.contextmanager
def above_progress() -> Iterator[None]:
    """Lets text be written to a terminal without mixing it with a line of progress."""
    with _active[-1].above() if _active else contextlib.nullcontext():
        yield


def duration(seconds: float) -> str:
    """Returns a duration for people: "51 s", "12 min", "3 h 20 min"."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60:,} h {minutes % 60} min"


def _columns(stream: IO[str]) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or _USUAL_COLUMNS
    except (OSError, ValueError):
        return _USUAL_COLUMNS
