"""The stand-in for a GPU: its memory, streams and CUDA graphs.

Beliefs about a real GPU and its driver:

- Allocations are aligned to 256 bytes. UNCONFIRMED, but documented by NVIDIA.
- Work on a stream may run at any time between its launch and the next wait. CONFIRMED on the H200.
- If work on a stream fails, the next wait reports it. UNCONFIRMED: nothing failed on the H200.
- During the capture of a stream, the capturing thread can neither allocate, free nor wait; if it tries, the call fails
  and the capture is lost. UNCONFIRMED.
- Capture, launch and deletion of a graph of our kernels work as here. CONFIRMED for decode and NMS, which ran as a
  graph on the H200. UNCONFIRMED for a graph that includes TensorRT.
- A copy in a graph reads its source when the graph runs, not when it is recorded. UNCONFIRMED, but documented by
  NVIDIA. tests/gpu/test_graphs.py can show it without TensorRT.
- A call that fails has no effect. But the end of a capture that fails ends it, and what deletes an object does so
  when it reports the error of earlier work. UNCONFIRMED, but documented by NVIDIA.
- Memory that is read after it was freed, or written outside its bounds, is reported by a GPU late or never, so it is a
  fault here. compute-sanitizer's memcheck found none on the H200 (290 tests).
- Not modeled: blocks that run at the same time. compute-sanitizer's racecheck reported a race inside one kernel on the
  H200 that no run over this stand-in had shown.
"""

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
    """Returns the array at an address. The memory is shared."""
    interface = {"shape": shape, "typestr": np.dtype(dtype).str, "data": (address, False), "version": 3}
    return np.asarray(type("Memory", (), {"__array_interface__": interface})())


class RefusedError(Exception):
    """An error of the driver. Each stand-in module turns it into its own type of error."""


@dataclass
class Block:
    """An allocation between two guard areas, by which writes outside it are found."""

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
    """A stream. `running` is held by the thread that runs its work, or adds to it: several may wait for one stream."""

    handle: int
    running: threading.RLock = field(default_factory=threading.RLock)
    queue: list[Work] = field(default_factory=list)
    recorded: list[Work] | None = None  # None: the stream is not capturing
    recording_thread: int = 0
    is_spoilt: bool = False
    failure: str = ""


class FakeGpu:
    """One device and the state of its driver.

    Attributes:
        devices: Number of devices that `device_count()` reports.
        reason: Reason that it reports for there being none.
        compute_capability: Compute capability.
        integrated: Whether the GPU shares the memory of the CPU, as on Jetson.
        eager: Whether launched work runs at once. Otherwise it runs when someone waits for its stream. A real GPU may
            do either.
        fail_at: Number of the step that fails, counted from 1.
        fail_call: Number of the call that fails, counted from 1.
        fails_for_good: Whether all later calls fail too, as after an error that destroys the context.
        refuse: Where the capture of a graph fails: "begin", "execute" or "end"; or "ask": TensorRT reports, when asked,
            that it cannot be captured.
        steps: The calls so far that allocate, copy, wait, or run an engine.
        calls: All calls so far of the driver, of TensorRT and of our kernels, but for those that only ask or release.
        faults: Errors that a real GPU would not report.
        live: Number of living objects by kind.
        launches: Number of launches by kind, recorded ones included.
        recorded: Number of launches by kind that did not run but became a part of a graph.
        primary_context_users: Number of holders of the primary context.
    """

    def __init__(
        self,
        *,
        devices: int = 1,
        reason: str = "",
        compute_capability: tuple[int, int] = (8, 7),
        integrated: bool = False,
        eager: bool = False,
        fail_at: int | None = None,
        fail_call: int | None = None,
        fails_for_good: bool = False,
        refuse: str = "",
    ) -> None:
        self.devices, self.reason, self.integrated = devices, reason, integrated
        self.compute_capability = compute_capability
        self.eager, self.fail_at, self.refuse = eager, fail_at, refuse
        self.fail_call, self.fails_for_good = fail_call, fails_for_good
        self.steps: list[str] = []
        self.calls: list[str] = []
        self.faults: list[str] = []
        self.live: Counter[str] = Counter()
        self.launches: Counter[str] = Counter()
        self.recorded: Counter[str] = Counter()
        self.primary_context_users = 0
        self._lock = threading.RLock()
        self._blocks: dict[int, Block] = {}
        self._freed: list[Block] = []
        self._streams: dict[int, FakeStream] = {}
        self._graphs: dict[int, list[Work]] = {}
        self._last_handle = 0x1000
        # The default streams: 1 is the legacy one, 2 the one for each thread, in DLPack and __cuda_array_interface__.
        for handle in (1, 2):
            self._streams[handle] = FakeStream(handle)

    # -- bookkeeping ---------------------------------------------------------------------------------------------------

    def step(self, what: str) -> None:
        """Counts a step, which is also a call, and raises `RefusedError` if it is to fail."""
        with self._lock:
            self.steps.append(what)
            if len(self.steps) == self.fail_at:
                raise RefusedError(f"{what} failed: the test asked for it")
            self.call(what)

    def call(self, what: str) -> None:
        """Counts a call, and raises `RefusedError` if it is to fail."""
        with self._lock:
            self.calls.append(what)
            number, first = len(self.calls), self.fail_call
            if first is not None and (number == first or (self.fails_for_good and number > first)):
                if self.is_lost:
                    self._drop_work()
                raise RefusedError(f"{what} failed: the test asked for it")

    def _drop_work(self) -> None:
        """Drops what was launched. Believed: work of a GPU that is lost never runs, and holds nothing on the host."""
        for stream in self._streams.values():
            stream.queue.clear()
            if stream.recorded is not None:
                stream.recorded.clear()

    @property
    def is_lost(self) -> bool:
        """Whether all calls fail from now on. Then no work runs any more."""
        return self.fails_for_good and self.fail_call is not None and len(self.calls) >= self.fail_call

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
        """Asserts that everything was released and that no fault was recorded."""
        gc.collect()
        for block in self._freed:
            if not (block.content == FREED).all():
                self.fault(f"{block.size} bytes were written to after they had been freed")
        assert not self.faults, f"a real GPU would not report these errors: {self.faults}"
        left = {kind: count for kind, count in self.live.items() if count}
        assert left == {}, f"left over: {left}"
        assert self.primary_context_users == 0, "the primary context was not given back"

    # -- memory --------------------------------------------------------------------------------------------------------

    def allocate(self, kind: str, size: int) -> Block:
        """Allocates memory that is aligned to 256 bytes, filled with a pattern, and between guard areas."""
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
            if stream.queue and not self.is_lost:
                self.fault("a stream was destroyed with work on it")
            self.gone("stream")

    def enqueue(self, handle: int, what: str, work: Work) -> None:
        stream = self._streams[handle]
        with self._lock:
            self.launches[what] += 1
            if stream.recorded is not None:
                self.recorded[what] += 1
        with stream.running:
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
        with stream.running:
            queue, stream.queue = stream.queue, []
            self._run(stream, queue)
            failure, stream.failure = stream.failure, ""
        if failure:
            raise RefusedError(f"cuStreamSynchronize failed: {failure}")

    def wait_for_stream(self, handle: int, earlier: int) -> None:
        """Makes later work on a stream wait for the work that is on another stream now."""
        self.call("cudaStreamWaitEvent")
        other = self._streams[earlier]
        count = len(other.queue)

        def run_the_others() -> None:
            with other.running:  # Another thread may be running that work now.
                done, other.queue = other.queue[:count], other.queue[count:]
                self._run(other, done)

        self.enqueue(handle, "wait", run_the_others)

    @staticmethod
    def _run(stream: FakeStream, queue: list[Work]) -> None:
        for work in queue:
            try:
                work()
            except Exception as error:  # A GPU reports it at the next call that asks.
                stream.failure = stream.failure or str(error)

    # -- graphs --------------------------------------------------------------------------------------------------------

    def is_capturing(self, handle: int) -> bool:
        return self._streams[handle].recorded is not None

    def begin_capture(self, handle: int) -> None:
        self.call("cudaStreamBeginCapture")
        if self.refuse == "begin":
            raise RefusedError("cudaStreamBeginCapture failed: refused")
        stream = self._streams[handle]
        stream.recorded, stream.recording_thread, stream.is_spoilt = [], threading.get_ident(), False

    def end_capture(self, handle: int) -> int:
        stream = self._streams[handle]
        recorded, stream.recorded = stream.recorded, None
        self.call("cudaStreamEndCapture")
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
        self.call("cudaGraphLaunch")
        recorded = self._graphs[graph]  # After the call, whose error would keep it alive with its traceback.
        self.enqueue(handle, "graph", lambda: [work() for work in recorded] and None)

    def destroy_graph(self, graph: int) -> None:
        with self._lock:
            del self._graphs[graph]
            self.gone("graph")
            self.call("cudaGraphExecDestroy")

    def _forbid_while_capturing(self, what: str) -> None:
        for stream in self._streams.values():
            if stream.recorded is not None and stream.recording_thread == threading.get_ident():
                stream.is_spoilt = True
                raise RefusedError(f"{what} failed: operation not permitted when stream is capturing")
