"""Records launches that repeat from frame to frame as a CUDA graph."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any

from retinasdk.errors import DeviceError

_log = logging.getLogger("retinasdk")


class GraphRunner:
    """Runs launches: directly the first time, recorded the second time, and as a CUDA graph from then on.

    The first run for a key is not recorded, because TensorRT finishes its preparations for a shape in it. Only the
    graph of the last key is kept: a graph is valid as long as TensorRT's context does not change, and another shape
    changes it.
    """

    def __init__(self, native: Any, refused: set[Hashable]) -> None:
        """Creates a runner without a graph.

        Args:
            native: The module `_native_cuda`.
            refused: Keys that cannot be recorded. All runners of an engine share the set.
        """
        self._native = native
        self._refused = refused
        self._key: Hashable = None
        self._graph: int | None = None

    def run(self, key: Hashable, stream: int, launch: Callable[[], None]) -> None:
        """Calls `launch`, or replays what it launched for the same key.

        Args:
            key: Identifies the work, for example the shape of the input.
            stream: Handle of the stream.
            launch: Launches the work. It must launch exactly the same on the stream for the same key.

        Raises:
            DeviceError: If a launch fails.
        """
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
        """Stops recording graphs for a key, and logs the reason once."""
        if key not in self._refused:
            self._refused.add(key)
            _log.info("Shape %s runs without a CUDA graph (%s).", key, reason)

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
        _log.debug("Shape %s is recorded as a CUDA graph.", key)
        return graph

    def _leave_capture(self, stream: int) -> None:
        # After a failed recording there is no graph, but the stream has left the recording mode.
        with suppress(DeviceError):
            self._native.destroy_graph(self._native.end_capture(stream))

    def forget(self) -> None:
        """Deletes the graph. Call it before addresses or shapes change, when no launch of the graph is in progress."""
        graph, self._graph, self._key = self._graph, None, None
        if graph is not None:
            self._native.destroy_graph(graph)
