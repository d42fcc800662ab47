"""Optional timing of pipeline stages. Disabled unless a collector is installed.

A collector covers its own thread and the workers that run in a copy of its context. Their times are summed.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Literal

Stage = Literal["queue", "preprocess", "inference", "postprocess"]

_collected: ContextVar[dict[str, float] | None] = ContextVar("retinasdk_stages", default=None)
_Watch = Callable[[str], AbstractContextManager[object]]
_watching: ContextVar[_Watch] = ContextVar("retinasdk_watch", default=nullcontext)
_adding = threading.Lock()  # Several workers of one call may add at the same time.


@contextmanager
def collect(watch: _Watch | None = None) -> Iterator[dict[str, float]]:
    """Collects the seconds that each stage takes, summed over all calls inside the block. Collectors may be nested.

    Args:
        watch: Returns a context manager for the name of a stage, which is entered while that stage runs. It may be
            entered by several threads at once. None: that of the collector around this one, if any.

    Yields:
        Seconds by name of the stage. The dictionary is updated while the block runs.
    """
    outer = _collected.get()
    seconds: dict[str, float] = defaultdict(float)
    token = _collected.set(seconds)
    watched = _watching.set(watch or _watching.get())
    try:
        yield seconds
    finally:
        _watching.reset(watched)
        _collected.reset(token)
        if outer is not None:
            with _adding:
                for name, elapsed in seconds.items():
                    outer[name] += elapsed


@contextmanager
def stage(name: Stage) -> Iterator[None]:
    """Adds the time spent inside the block to the stage of that name, if a collector is installed."""
    seconds = _collected.get()
    if seconds is None:
        yield
        return
    start = time.perf_counter()
    try:
        with _watching.get()(name):
            yield
    finally:
        elapsed = time.perf_counter() - start
        with _adding:
            seconds[name] += elapsed
