"""Log lines that may come a thousand times a second, and are told once in a while."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from retinasdk.live.clock import Clock

_EVERY_S = 10.0


@dataclass
class _Kind:
    """told_s: when the last line was told. left_out: how many were not since, and the last of them."""

    told_s: float
    left_out: int = 0
    last: str = ""


class LimitedLog:
    """Of each kind the first line at once, then one in ten seconds, which says how many were left out.

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
        known = self._kinds.get(kind)
        if known is not None and now - known.told_s < _EVERY_S:
            known.left_out += 1
            known.last = text
            return
        more = f" ({known.left_out} more like it were not logged)" if known is not None and known.left_out else ""
        self._kinds[kind] = _Kind(now)
        self._logger.log(level, "%s%s", text, more)

    def close(self) -> None:
        """Tells what was left out until now."""
        for kind in self._kinds.values():
            if kind.left_out:
                self._logger.info("%s (%d like it were not logged)", kind.last, kind.left_out)
                kind.left_out = 0
