"""Records launches that repeat from frame to frame as CUDA graphs."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from retinasdk.errors import DeviceError

_log = logging.getLogger("retinasdk")

# Of one runner. A decoder hands out a few surfaces in turn, and each has a graph of its own.
MAX_GRAPHS = 16
# The run in which a key is recorded. Recording goes through all launches once more and builds a graph of them, so it
# pays over many frames only. Once as many graphs were recorded as are kept, a key has to come often for another one.
_RECORDED_IN_RUN = 2
_LATER_RECORDED_IN_RUN = 32


@dataclass
class _Work:
    """What is known of a key: how often it ran, and its graph, or None if it has none yet."""

    runs: int = 0
    graph: int | None = None


class GraphRunner:
    """Runs launches: directly the first time, recorded the second time, and as a CUDA graph from then on.

    The first run for a key is not recorded, because TensorRT finishes its preparations for a shape in it. Graphs are
    valid as long as TensorRT's context does not change, so `begin` deletes those of the shape before.

    Of a shape, the `MAX_GRAPHS` keys that ran last are remembered. A key that comes back later is a new one. So the
    number of graphs is bounded, and images whose sizes or addresses keep changing are rarely recorded.
    """

    def __init__(self, native: Any, refused: set[Hashable]) -> None:
        """Creates a runner without graphs.

        Args:
            native: The module `_native_cuda`.
            refused: Shapes that cannot be recorded. All runners of an engine share the set.
        """
        self._native = native
        self._refused = refused
        self._shape: Hashable = None
        self._known: OrderedDict[Hashable, _Work] = OrderedDict()  # The least recently used key first.
        self._recordings = 0  # Of the shape.

    def begin(self, shape: Hashable) -> None:
        """Deletes all graphs and starts with another shape of the input. No launch of a graph may be in progress."""
        self.forget()
        self._shape, self._recordings = shape, 0

    def run(
        self, key: Hashable, stream: int, launch: Callable[[], None], directly: Callable[[], None] | None = None
    ) -> None:
        """Calls `launch`, or replays what it launched for the same key.

        Args:
            key: Identifies the work among that of the shape.
            stream: Handle of the stream.
            launch: Launches the work. It must launch exactly the same on the stream for the same key.
            directly: Launches the same work where it is not recorded, which may run a part of it as a graph of its
                own. None: `launch`.

        Raises:
            DeviceError: If a launch fails.
        """
        work = self._known.get(key) or _Work()
        work.runs += 1
        if work.graph is None and self._is_worth_recording(work):
            work.graph = self._recorded(stream, launch)
        if work.graph is not None:
            self._native.launch_graph(work.graph, stream)
        else:
            (directly or launch)()
        self._known[key] = work  # A first run that raised an error does not count.
        self._known.move_to_end(key)
        if len(self._known) > MAX_GRAPHS:
            self._destroy(self._known.popitem(last=False)[1])

    def _is_worth_recording(self, work: _Work) -> bool:
        enough = _RECORDED_IN_RUN if self._recordings < MAX_GRAPHS else _LATER_RECORDED_IN_RUN
        return work.runs >= enough and self._shape not in self._refused

    def refuse(self, reason: str) -> None:
        """Stops recording graphs for the shape, and logs the reason once."""
        if self._shape not in self._refused:
            self._refused.add(self._shape)
            _log.info("Shape %s runs without a CUDA graph (%s).", self._shape, reason)

    def _recorded(self, stream: int, launch: Callable[[], None]) -> int | None:
        try:
            self._native.begin_capture(stream)
            try:
                launch()
            except BaseException:
                self._leave_capture(stream)
                raise
            graph: int = self._native.end_capture(stream)
        except DeviceError as error:
            self.refuse(str(error))
            return None
        self._recordings += 1
        _log.debug("A frame of shape %s is recorded as a CUDA graph.", self._shape)
        return graph

    def _leave_capture(self, stream: int) -> None:
        # After a failed recording there is no graph, but the stream has left the recording mode.
        with suppress(DeviceError):
            self._native.destroy_graph(self._native.end_capture(stream))

    def forget(self) -> None:
        """Deletes all graphs. No launch of one may be in progress.

        Raises:
            DeviceError: If a graph cannot be deleted. The others are.
        """
        failure: DeviceError | None = None
        while self._known:
            try:
                self._destroy(self._known.popitem()[1])
            except DeviceError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def _destroy(self, work: _Work) -> None:
        if work.graph is not None:
            self._native.destroy_graph(work.graph)
