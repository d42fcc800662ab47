"""Launches that repeat from frame to frame, recorded once as a CUDA graph."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any

from retinasdk.errors import DeviceError

_log = logging.getLogger("retinasdk")


class GraphRunner:
    """Runs launches: the first time of a key plainly, the second time recorded, from then on as a graph.

    The first time is left alone because TensorRT finishes its preparations for a shape in it, which cannot be recorded.
    There is one graph, that of the last key: TensorRT lets nothing of its context change below a graph, and another
    shape changes it.

    refused: keys of which recording failed, shared by all runners of an engine; they stay plain.
    """

    def __init__(self, native: Any, refused: set[Hashable]) -> None:
        self._native = native
        self._refused = refused
        self._key: Hashable = None
        self._graph: int | None = None

    def run(self, key: Hashable, stream: int, launch: Callable[[], None]) -> None:
        """Launches, or replays what `launch` did for the same key: it must always launch the same on the stream."""
        if key != self._key:
            self.forget()
            launch()
            self._key = key
            return
        if self._graph is None and key not in self._refused:
            self._graph = self._recorded(key, stream, launch)
        if self._graph is None:
            launch()
        else:
            self._native.launch_graph(self._graph, stream)

    def refuse(self, key: Hashable, reason: str) -> None:
        """From here on, what belongs to the key is launched plainly; says so once."""
        if key not in self._refused:
            self._refused.add(key)
            _log.info("shape %s: no CUDA graph, work is launched one by one (%s)", key, reason)

    def _recorded(self, key: Hashable, stream: int, launch: Callable[[], None]) -> int | None:
        try:
            self._native.begin_capture(stream)
            try:
                launch()
            except BaseException:
                self._leave_capture(stream)
                raise
            graph: int = self._native.end_capture(stream)
        except DeviceError as error:
            self.refuse(key, str(error))
            return None
        _log.debug("shape %s: recorded as a CUDA graph", key)
        return graph

    def _leave_capture(self, stream: int) -> None:
        # A recording that failed has no graph; the stream has left it all the same.
        with suppress(DeviceError):
            self._native.destroy_graph(self._native.end_capture(stream))

    def forget(self) -> None:
        """Drops the graph: addresses or shapes that it holds are about to change. No launch of it may be under way."""
        graph, self._graph, self._key = self._graph, None, None
        if graph is not None:
            self._native.destroy_graph(graph)
