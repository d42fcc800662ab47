"""What a stream needs of time and threads, in one place, so that tests can put a simulated world in its place."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Clock:
    """The real one."""

    def now(self) -> float:
        """Seconds, monotonic."""
        return time.monotonic()

    def condition(self) -> threading.Condition:
        """Re-entrant: a stream may be collected, and so closed, in the middle of anything."""
        return threading.Condition(threading.RLock())

    def thread(self, run: Callable[[], None], name: str) -> threading.Thread:
        """Not started. A daemon: a source that blocks for ever must not keep the process from ending."""
        return threading.Thread(target=run, name=name, daemon=True)
