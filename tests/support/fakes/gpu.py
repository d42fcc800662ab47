"""Memory, streams and graphs of a GPU that is none."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

GUARD_BYTES = 512
GUARD, POISON, FREED = 0x5C, 0xA5, 0xDD

Work = Callable[[], None]


def memory_at(address: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """The array that lies at an address."""
    interface = {"shape": shape, "typestr": np.dtype(dtype).str, "data": (address, False), "version": 3}
    return np.asarray(type("Memory", (), {"__array_interface__": interface})())


class RefusedError(Exception):
    """The driver says no; each face of the GPU raises its own kind of error of it."""


@dataclass
class Block:
    """An allocation between two guards; content is a view."""

    whole: npt.NDArray[np.uint8]
    start: int
    size: int

    @property
    def address(self) -> int:
        return int(self.whole.ctypes.data) + self.start

    @property
    def content(self) -> npt.NDArray[np.uint8]:
        return self.whole[self.start : self.start + self.size]

    def is_guarded(self) -> bool:
        before, behind = self.whole[: self.start], self.whole[self.start + self.size :]
        return bool((before == GUARD).all() and (behind == GUARD).all())


@dataclass
class FakeStream:
    handle: int
    queue: list[Work] = field(default_factory=list)
    recorded: list[Work] | None = None  # not None: capturing
    recording_thread: int = 0
    is_spoilt: bool = False
    failure: str = ""


class FakeGpu:
    """One device and its driver's state.

    devices, reason: what device_count() says. integrated: as on Jetson.
    eager: launched work is done at once; else not before someone waits for its stream. A GPU may do either.
    fail_at: the number of the driver call, counted from 1, that fails; `steps` lists those that were made.
    refuse: where capture fails: "begin", "execute", "end"; or "ask": TensorRT says so when asked.
    """

    def __init__(
        self,
        *,
        devices: int = 1,
        reason: str = "",
        integrated: bool = False,
        eager: bool = False,
        fail_at: int | None = None,
        refuse: str = "",
    ) -> None:
        self.devices, self.reason, self.integrated = devices, reason, integrated
        self.eager, self.fail_at, self.refuse = eager, fail_at, refuse
        self.steps: list[str] = []
        self.faults: list[str] = []
        self.live: Counter[str] = Counter()
        self.launches: Counter[str] = Counter()
        self.primary_context_users = 0
        self._lock = threading.RLock()
        self._blocks: dict[int, Block] = {}
        self._freed: list[Block] = []
        self._streams: dict[int, FakeStream] = {}
        self._graphs: dict[int, list[Work]] = {}
        self._last_handle = 0x1000
        # The default streams of both protocols' numbering.
        for handle in (1, 2):
            self._streams[handle] = FakeStream(handle)

    # -- bookkeeping ---------------------------------------------------------------------------------------------------

    def step(self, what: str) -> None:
        """Counts a driver call, and refuses it if it is the one that is to fail."""
        with self._lock:
            self.steps.append(what)
            if len(self.steps) == self.fail_at:
                raise RefusedError(f"{what} failed: this one was to fail")

    def born(self, kind: str) -> None:
        with self._lock:
            self.live[kind] += 1

    def gone(self, kind: str) -> None:
        with self._lock:
            self.live[kind] -= 1

    def fault(self, what: str) -> None:
        with self._lock:
            self.faults.append(what)

    def check_clean(self) -> None:
        """Everything was released, in the right order, and nothing wrote outside its memory."""
        gc.collect()
        for block in self._freed:
            if not (block.content == FREED).all():
                self.fault(f"{block.size} bytes were written to after they had been freed")
        assert not self.faults, f"a GPU would not forgive: {self.faults}"
        left = {kind: count for kind, count in self.live.items() if count}
        assert left == {}, f"left over: {left}"
        assert self.primary_context_users == 0, "the primary context was not given back"

    # -- memory --------------------------------------------------------------------------------------------------------

    def allocate(self, kind: str, size: int) -> Block:
        """Poisoned memory, aligned to 256, between guards."""
        with self._lock:
            self._forbid_while_capturing(kind)
            self.step(kind)
            if size < 1:
                raise RefusedError(f"{kind} failed: invalid argument")
            whole = np.full(size + 3 * GUARD_BYTES, GUARD, np.uint8)
            start = GUARD_BYTES + (-int(whole.ctypes.data) - GUARD_BYTES) % 256
            block = Block(whole, start, size)
            block.content[:] = POISON
            self._blocks[block.address] = block
            self.born(kind)
            return block

    def free(self, kind: str, block: Block) -> None:
        with self._lock:
            self._forbid_while_capturing(f"freeing {kind}")
            if not block.is_guarded():
                self.fault(f"something wrote outside its {block.size} bytes of {kind}")
            block.content[:] = FREED
            del self._blocks[block.address]
            self._freed.append(block)
            self.gone(kind)

    def check_range(self, address: int, size: int, what: str) -> None:
        """Raises `RefusedError` unless [address, address + size) is allocated."""
        with self._lock:
            blocks = list(self._blocks.values())
        if not any(b.address <= address and address + size <= b.address + b.size for b in blocks):
            raise RefusedError(f"{what} failed: an illegal memory access was encountered")

    # -- streams -------------------------------------------------------------------------------------------------------

    def new_stream(self) -> int:
        with self._lock:
            self.step("cuStreamCreate")
            self._last_handle += 16
            self._streams[self._last_handle] = FakeStream(self._last_handle)
            self.born("stream")
            return self._last_handle

    def destroy_stream(self, handle: int) -> None:
        with self._lock:
            stream = self._streams.pop(handle)
            if stream.queue:
                self.fault("a stream was destroyed with work on it")
            self.gone("stream")

    def enqueue(self, handle: int, what: str, work: Work) -> None:
        stream = self._streams[handle]
        self.launches[what] += 1
        if stream.recorded is not None:
            stream.recorded.append(work)
        elif self.eager:
            self._run(stream, [work])
        else:
            stream.queue.append(work)

    def synchronize(self, handle: int) -> None:
        stream = self._streams[handle]
        if stream.recorded is not None:
            stream.is_spoilt = True
            raise RefusedError("cuStreamSynchronize failed: operation not permitted when stream is capturing")
        self.step("cuStreamSynchronize")
        queue, stream.queue = stream.queue, []
        self._run(stream, queue)
        failure, stream.failure = stream.failure, ""
        if failure:
            raise RefusedError(f"cuStreamSynchronize failed: {failure}")

    def wait_for_stream(self, handle: int, earlier: int) -> None:
        """What comes on one stream waits for what is on the other now."""
        other = self._streams[earlier]
        count = len(other.queue)

        def run_the_others() -> None:
            done, other.queue = other.queue[:count], other.queue[count:]
            self._run(other, done)

        self.enqueue(handle, "wait", run_the_others)

    @staticmethod
    def _run(stream: FakeStream, queue: list[Work]) -> None:
        for work in queue:
            try:
                work()
            except Exception as error:  # a GPU fails when someone next asks it, and does nothing until then
                stream.failure = stream.failure or str(error)

    # -- graphs --------------------------------------------------------------------------------------------------------

    def is_capturing(self, handle: int) -> bool:
        return self._streams[handle].recorded is not None

    def begin_capture(self, handle: int) -> None:
        if self.refuse == "begin":
            raise RefusedError("cudaStreamBeginCapture failed: refused")
        stream = self._streams[handle]
        stream.recorded, stream.recording_thread, stream.is_spoilt = [], threading.get_ident(), False

    def end_capture(self, handle: int) -> int:
        stream = self._streams[handle]
        recorded, stream.recorded = stream.recorded, None
        if recorded is None or stream.is_spoilt or self.refuse == "end":
            raise RefusedError("cudaStreamEndCapture failed: operation failed due to a previous error during capture")
        with self._lock:
            self._last_handle += 16
            self._graphs[self._last_handle] = recorded
            self.born("graph")
            return self._last_handle

    def launch_graph(self, graph: int, handle: int) -> None:
        if self.is_capturing(handle):
            self.fault("a graph was launched into a recording")
        recorded = self._graphs[graph]
        self.enqueue(handle, "graph", lambda: [work() for work in recorded] and None)

    def destroy_graph(self, graph: int) -> None:
        with self._lock:
            del self._graphs[graph]
            self.gone("graph")

    def _forbid_while_capturing(self, what: str) -> None:
        for stream in self._streams.values():
            if stream.recorded is not None and stream.recording_thread == threading.get_ident():
                stream.is_spoilt = True
                raise RefusedError(f"{what} failed: operation not permitted when stream is capturing")
