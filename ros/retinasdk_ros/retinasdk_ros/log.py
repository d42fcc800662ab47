"""Forwards what retinasdk logs to the logger of the node."""

from __future__ import annotations

import logging
import re
from typing import Any

_MOST = 1000  # kinds of messages
_REPEATS = re.compile(r" \(\d+ similar messages were not logged\)$")  # what retinasdk adds


class OnceLog(logging.Handler):
    """Logs each kind of message once. Messages that differ only in their numbers are of the same kind.

    What lasts is reported by the diagnostics.

    Args:
        logger: The logger of the node.
    """

    def __init__(self, logger: Any) -> None:
        super().__init__(logging.WARNING)
        self._logger = logger
        self._known: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Forwards a record of Python's logging."""
        self.tell(record.getMessage(), is_error=record.levelno >= logging.ERROR)

    def tell(self, text: str, *, is_error: bool = False) -> None:
        """Logs a message if none of its kind was logged.

        Args:
            text: The message.
            is_error: Whether it is an error, not a warning.
        """
        kind = re.sub(r"\d+", "#", _REPEATS.sub("", text))
        if kind in self._known or len(self._known) >= _MOST:
            return
        self._known.add(kind)
        # Two calls: rclpy ties a line of code to one severity.
        if is_error:
            self._logger.error(text)
        else:
            self._logger.warning(text)
