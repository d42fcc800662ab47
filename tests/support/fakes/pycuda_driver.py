"""The stand-in for `pycuda.driver`: the names that retinasdk uses, with pycuda's rules for contexts and threads.

Beliefs about the real pycuda. All come from its source (version 2026.1):

- Contexts, allocations, streams and copies work as retinasdk uses them. CONFIRMED on the H200, in one thread.
- Every thread has its own stack of contexts, and calls need a current context. UNCONFIRMED for several threads.
- An object belongs to the context in which it was made. If it is freed in another thread where that context is not
  current, it is leaked, without an error. UNCONFIRMED.
- A context that another thread than its first one detaches is leaked unless it is current there. UNCONFIRMED.
- An allocation can be freed explicitly, but once only; a stream is freed with its last reference. UNCONFIRMED.
- If freeing fails, pycuda prints a warning, raises nothing, and the memory is lost. So frees never fail here.
  UNCONFIRMED.
- Asynchronous copies need contiguous arrays. UNCONFIRMED.
- A lack of memory raises `MemoryError`, everything else another `Error`. UNCONFIRMED.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fakes.gpu import FakeGpu, RefusedError, memory_at

_thread = threading.local()  # as in pycuda, a stack of contexts for each thread


class Error(Exception):
    pass


class MemoryError(Error):  # The name is pycuda's.
    pass


class LogicError(Error):
    pass


def _driver_call(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a function need a current context and fail with one of pycuda's errors."""

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        if Context.get_current() is None:
            del arguments, options  # as below
            raise LogicError(f"{function.__name__} failed: invalid device context - no currently active context?")
        try:
            return _translated(function, *arguments, **options)
        except Error as error:
            failure = type(error)(*error.args)
        del arguments, options  # pycuda is written in C++, so its frames keep nothing alive in a traceback.
        raise failure

    return call


def _translated(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    try:
        return function(*arguments, **options)
    except RefusedError as refusal:
        kind = MemoryError if "Alloc" in str(refusal) else LogicError
        raise kind(str(refusal)) from None


class Context:
    """The primary context, as one call of `retain_primary_context()` returned it."""

    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu
        self.thread = threading.get_ident()
        self.is_valid = True
        gpu.primary_context_users += 1

    @staticmethod
    def _stack() -> list[Context]:
        if not hasattr(_thread, "contexts"):
            _thread.contexts = []
        contexts: list[Context] = _thread.contexts
        return contexts

    @staticmethod
    def get_current() -> Context | None:
        stack = Context._stack()
        while stack and not stack[-1].is_valid:
            stack.pop()
        return stack[-1] if stack else None

    def push(self) -> None:
        if not self.is_valid:
            raise LogicError("cuCtxPushCurrent failed: invalid device context")
        _translated(self._gpu.call, "cuCtxPushCurrent")
        self._stack().append(self)

    @staticmethod
    def synchronize() -> None:
        context = Context.get_current()
        if context is None:
            raise LogicError("cuCtxSynchronize failed: invalid device context")
        try:
            context._gpu.step("cuCtxSynchronize")
        except RefusedError as refusal:
            raise Error(str(refusal)) from None

    @staticmethod
    def pop() -> None:
        if not Context._stack():
            raise LogicError("context::pop failed: invalid device context - cannot pop non-current context")
        Context._stack().pop()

    def detach(self) -> None:
        if not self.is_valid:
            raise LogicError("context::detach failed: invalid device context - cannot detach from invalid context")
        # In any other case it is leaked without an error.
        if Context.get_current() is self or threading.get_ident() == self.thread:
            self._gpu.primary_context_users -= 1
        self.is_valid = False


class _Owned:
    """An object that belongs to the context that was current when it was made."""

    kind = ""

    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu
        current = Context.get_current()
        if current is None:
            raise LogicError("explicit_context_dependent failed: invalid device context - no currently active context?")
        self._context = current

    def _release(self, release: Callable[[], None]) -> None:
        """Frees the object where its context is current or can be made current, and leaks it elsewhere, as pycuda."""
        if not self._context.is_valid:
            self._gpu.fault(f"{self.kind} outlived its context")
        elif Context.get_current() is not self._context and threading.get_ident() != self._context.thread:
            self._gpu.fault(f"{self.kind} was leaked: freed in a thread where its context is not current")
        else:
            _translated(release)


class DeviceAllocation(_Owned):
    kind = "cuMemAlloc"

    def __init__(self, gpu: FakeGpu, size: int) -> None:
        self._block: Any = None
        super().__init__(gpu)
        self._block = _translated(gpu.allocate, self.kind, size)

    def __int__(self) -> int:
        return int(self._block.address)

    __index__ = __int__

    def free(self) -> None:
        block, self._block = self._block, None
        if block is None:
            raise LogicError(f"freeing {self.kind} failed: invalid resource handle")
        self._release(lambda: self._gpu.free(self.kind, block))

    def __del__(self) -> None:
        if self._block is not None:
            self.free()


class PagelockedHostAllocation(DeviceAllocation):
    kind = "cuMemHostAlloc"

    def __init__(self, gpu: FakeGpu, size: int, flags: int) -> None:
        super().__init__(gpu, size)
        self._flags = flags

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {"shape": (self._block.size,), "typestr": "|u1", "data": (self._block.address, False), "version": 3}

    def get_device_pointer(self) -> int:
        if not self._flags & HostAllocFlags.DEVICEMAP:
            raise LogicError("cuMemHostGetDevicePointer failed: invalid argument")
        return int(self._block.address)


class HostAllocFlags:
    PORTABLE, DEVICEMAP, WRITECOMBINED = 1, 2, 4


class Stream(_Owned):
    kind = "stream"

    def __init__(self, gpu: FakeGpu, flags: int = 0) -> None:
        self.handle = 0
        super().__init__(gpu)
        if flags not in (0, 1):
            raise LogicError("cuStreamCreate failed: invalid argument")
        self.handle = _translated(gpu.new_stream)

    @_driver_call
    def synchronize(self) -> None:
        self._gpu.synchronize(self.handle)

    def __del__(self) -> None:
        if self.handle:
            self._release(lambda: self._gpu.destroy_stream(self.handle))


class Event(_Owned):
    def __init__(self, gpu: FakeGpu, flags: int = 0) -> None:
        super().__init__(gpu)
        self._time = 0.0

    @_driver_call
    def record(self, stream: Stream) -> Event:
        def note() -> None:
            self._time = time.perf_counter()

        self._gpu.enqueue(stream.handle, "event", note)
        return self

    def time_since(self, earlier: Event) -> float:
        return 1000.0 * (self._time - earlier._time)


class Device:
    def __init__(self, gpu: FakeGpu, ordinal: int) -> None:
        if not 0 <= ordinal < gpu.devices:
            raise LogicError("cuDeviceGet failed: invalid device ordinal")
        self._gpu = gpu

    def retain_primary_context(self) -> Context:
        _translated(self._gpu.step, "cuDevicePrimaryCtxRetain")
        return Context(self._gpu)


class PycudaDriver:
    """Takes the place of the module in sys.modules."""

    __spec__: Any
    Error, MemoryError, LogicError = Error, MemoryError, LogicError
    Context, host_alloc_flags = Context, HostAllocFlags

    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu
        self.Device = functools.partial(Device, gpu)
        self.Stream = functools.partial(Stream, gpu)
        self.Event = functools.partial(Event, gpu)

    def init(self, flags: int = 0) -> None:
        _translated(self._gpu.step, "cuInit")

    @_driver_call
    def mem_alloc(self, size: int) -> DeviceAllocation:
        return DeviceAllocation(self._gpu, size)

    @_driver_call
    def pagelocked_empty(self, shape: int, dtype: Any, order: str = "C", mem_flags: int = 0) -> npt.NDArray[np.uint8]:
        assert np.dtype(dtype) == np.uint8
        return np.asarray(PagelockedHostAllocation(self._gpu, shape, mem_flags))

    @_driver_call
    def memcpy_htod(self, dest: int, src: npt.NDArray[Any]) -> None:
        self._copy("cuMemcpyHtoD", dest, src, to_device=True)()

    @_driver_call
    def memcpy_htod_async(self, dest: int, src: npt.NDArray[Any], stream: Stream) -> None:
        self._gpu.enqueue(stream.handle, "upload", self._copy("cuMemcpyHtoDAsync", dest, src, to_device=True))

    @_driver_call
    def memcpy_dtoh_async(self, dest: npt.NDArray[Any], src: int, stream: Stream) -> None:
        self._gpu.enqueue(stream.handle, "download", self._copy("cuMemcpyDtoHAsync", src, dest, to_device=False))

    def _copy(self, what: str, address: int, host: npt.NDArray[Any], *, to_device: bool) -> Callable[[], None]:
        if not host.flags.c_contiguous:
            raise BufferError("ndarray is not contiguous")
        self._gpu.step(what)
        self._gpu.check_range(address, host.nbytes, what)
        on_host = host.reshape(-1).view(np.uint8)

        def copy() -> None:
            self._gpu.check_range(address, host.nbytes, what)
            on_device = memory_at(address, (host.nbytes,), np.uint8)
            target, source = (on_device, on_host) if to_device else (on_host, on_device)
            target[:] = source

        return copy
