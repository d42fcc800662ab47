"""Time and threads of a stream, behind one class, so that tests can replace them by a simulation."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Clock:
    """Provides the time and the threads of a stream. Tests pass a simulated clock to `stream`."""

    def now(self) -> float:
        """Returns the time of the monotonic clock in seconds."""
        return time.monotonic()

    def condition(self) -> threading.Condition:
        """Returns a new condition variable.

        Its lock is re-entrant: Python may collect an unused stream, and thereby close it, while the same thread holds
        the lock.
        """
        return threading.Condition(threading.RLock())

    def thread(self, run: Callable[[], None], name: str) -> threading.Thread:
        """Returns a thread that is not started yet.

        It is a daemon thread, so a source that blocks forever cannot keep the process alive.

        Args:
            run: The function to call in the thread.
            name: The name of the thread, for debuggers and logs.
        """
        return threading.Thread(target=run, name=name, daemon=True)
