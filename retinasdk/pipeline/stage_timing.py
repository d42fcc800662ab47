"""How long the stages of calls take, for whoever collects them. Nobody does: nothing is measured.

Of the thread that collects, and of workers that run in a copy of its context: their times are summed.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

Stage = Literal["preprocess", "inference", "postprocess"]

_collected: ContextVar[dict[str, float] | None] = ContextVar("retinasdk_stages", default=None)
_adding = threading.Lock()  # workers of one call may add at once


@contextmanager
def collect() -> Iterator[dict[str, float]]:
    """Collects seconds by stage in the dictionary it yields, summed over all calls inside. Collectors may be nested."""
    outer = _collected.get()
    seconds: dict[str, float] = defaultdict(float)
    token = _collected.set(seconds)
    try:
        yield seconds
    finally:
        _collected.reset(token)
        if outer is not None:
            with _adding:
                for name, elapsed in seconds.items():
                    outer[name] += elapsed


@contextmanager
def stage(name: Stage) -> Iterator[None]:
    """Adds the time spent inside to the stage of that name."""
    seconds = _collected.get()
    if seconds is None:
        yield
        return
    start = time.perf_counter()
    try:
        yield
    finally:
        elapsed = time.perf_counter() - start
        with _adding:
            seconds[name] += elapsed
