"""A logger that limits how often it repeats the same kind of message."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from retinasdk.live.clock import Clock

_AT_ONCE = 5  # A camera that drops out now and then is logged in full: the loss and the return.
_EVERY_S = 10.0


@dataclass
class _Kind:
    """The state of one kind of message.

    Attributes:
        since_s: When `lines` was updated last.
        lines: How many messages may be logged now. It grows by one every `_EVERY_S` seconds, up to `_AT_ONCE`.
        left_out: How many messages were suppressed since the last one was logged.
        level: The level of the last suppressed message.
        text: The text of the last suppressed message.
    """

    since_s: float
    lines: float = _AT_ONCE
    left_out: int = 0
    level: int = logging.INFO
    text: str = ""


class LimitedLog:
    """Logs the first five messages of each kind at once, then one per ten seconds with the number left out.

    Each source has its own. Only one thread at a time may use it.
    """

    def __init__(self, logger: logging.Logger, clock: Clock) -> None:
        self._logger = logger
        self._clock = clock
        self._kinds: dict[str, _Kind] = {}

    def log(self, level: int, kind: str, text: str) -> None:
        """Logs a message, unless too many of its kind were logged recently.

        Args:
            level: The level, as in `logging`.
            kind: What the message is about. Use few different kinds: each one is remembered.
            text: The message.
        """
        if not self._logger.isEnabledFor(level):
            return
        now = self._clock.now()
        known = self._kinds.setdefault(kind, _Kind(now))
        known.lines = min(_AT_ONCE, known.lines + (now - known.since_s) / _EVERY_S)
        known.since_s = now
        if known.lines < 1:
            known.left_out, known.level, known.text = known.left_out + 1, level, text
            return
        more = f" ({known.left_out} similar messages were not logged)" if known.left_out else ""
        known.lines, known.left_out = known.lines - 1, 0
        self._logger.log(level, "%s%s", text, more)

    def close(self) -> None:
        """Logs how many messages of each kind were left out since the last one."""
        for kind in self._kinds.values():
            if kind.left_out:
                self._logger.log(kind.level, "%s (the last of %d messages not logged)", kind.text, kind.left_out)
                kind.left_out = 0
