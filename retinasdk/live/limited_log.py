"""Log lines that may come a thousand times a second, and are told once in a while."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from retinasdk.live.clock import Clock

_AT_ONCE = 5  # so that a camera that drops out now and then is told of in full: lost, and back again
_EVERY_S = 10.0


@dataclass
class _Kind:
    """lines: that may be told at `since_s`; one more every ten seconds, up to `_AT_ONCE`. left_out: how many were not
    told since the last line; level, text: of the last of them."""

    since_s: float
    lines: float = _AT_ONCE
    left_out: int = 0
    level: int = logging.INFO
    text: str = ""


class LimitedLog:
    """Of each kind the first five lines at once, then one in ten seconds, which says how many were left out.

    Belongs to one source; used by one thread at a time.
    """

    def __init__(self, logger: logging.Logger, clock: Clock) -> None:
        self._logger = logger
        self._clock = clock
        self._kinds: dict[str, _Kind] = {}

    def log(self, level: int, kind: str, text: str) -> None:
        """One line. kind: what it is about; few are there."""
        if not self._logger.isEnabledFor(level):
            return
        now = self._clock.now()
        known = self._kinds.setdefault(kind, _Kind(now))
        known.lines = min(_AT_ONCE, known.lines + (now - known.since_s) / _EVERY_S)
        known.since_s = now
        if known.lines < 1:
            known.left_out, known.level, known.text = known.left_out + 1, level, text
            return
        more = f" ({known.left_out} more like it were not logged)" if known.left_out else ""
        known.lines, known.left_out = known.lines - 1, 0
        self._logger.log(level, "%s%s", text, more)

    def close(self) -> None:
        """Tells what was left out until now."""
        for kind in self._kinds.values():
            if kind.left_out:
                self._logger.log(kind.level, "%s (the last of %d not logged)", kind.text, kind.left_out)
                kind.left_out = 0
