"""The part of pycuda.driver that retinasdk uses, over libcuda by ctypes: for machines without pycuda.

pycuda has no wheels, and building it takes minutes and a whole CUDA toolkit. So tests/gpu and the benchmarks run over
this where it is missing. It is not part of retinasdk: users have pycuda, and a record says which of the two was used.

It has not run on a GPU yet. Its calls follow the documentation of the CUDA driver API; tests run it over a library that
has the same functions and works on the host's memory.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import sys
from contextlib import suppress
from ctypes import c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

LIBRARY = "libcuda.so.1"
_OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY
# Types of the arguments by function. Without them, ctypes would pass addresses as 32-bit numbers.
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDeviceGet": (c_void_p, c_int),
    "cuDevicePrimaryCtxRetain": (c_void_p, c_int),
    "cuDevicePrimaryCtxRelease_v2": (c_int,),
    "cuCtxPushCurrent_v2": (c_void_p,),
    "cuCtxPopCurrent_v2": (c_void_p,),
    "cuCtxSynchronize": (),
    "cuStreamCreate": (c_void_p, c_uint),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuEventCreate": (c_void_p, c_uint),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuEventElapsedTime": (c_void_p, c_void_p, c_void_p),
    "cuEventDestroy_v2": (c_void_p,),
    "cuMemAlloc_v2": (c_void_p, c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemHostAlloc": (c_void_p, c_size_t, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuMemHostGetDevicePointer_v2": (c_void_p, c_void_p, c_uint),
    "cuMemGetInfo_v2": (c_void_p, c_void_p),
    "cuMemcpyHtoD_v2": (c_uint64, c_void_p, c_size_t),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
    "cuMemcpyDtoDAsync_v2": (c_uint64, c_uint64, c_size_t, c_void_p),
    "cuGetErrorName": (c_int, c_void_p),
}


class Error(Exception):
    pass


class MemoryError(Error):  # The name is pycuda's.
    pass


class LogicError(Error):
    pass


class _Library:
    """libcuda; failures of its functions become exceptions."""

    def __init__(self, path: str) -> None:
        self._loaded = ctypes.CDLL(path)
        for name, types in _FUNCTIONS.items():
            getattr(self._loaded, name).argtypes = types

    def call(self, function: str, *arguments: Any) -> None:
        code = int(getattr(self._loaded, function)(*arguments))
        if code:
            name = c_char_p()
            self._loaded.cuGetErrorName(code, ctypes.byref(name))
            said = name.value.decode() if name.value else f"error {code}"
            raise (MemoryError if code == _OUT_OF_MEMORY else LogicError)(f"{function} failed: {said}")

    def made(self, function: str, kind: Any, *arguments: Any) -> Any:
        """What a function writes to the address that is its first argument."""
        result = kind()
        self.call(function, ctypes.byref(result), *arguments)
        return result.value


class Context:
    """The primary context of a device."""

    _library: _Library  # of the driver, in a subclass for each

    def __init__(self, device: int) -> None:
        self._device = device
        self._handle = self._library.made("cuDevicePrimaryCtxRetain", c_void_p, device)

    def push(self) -> None:
        self._library.call("cuCtxPushCurrent_v2", self._handle)

    @classmethod
    def pop(cls) -> None:
        cls._library.made("cuCtxPopCurrent_v2", c_void_p)

    @classmethod
    def synchronize(cls) -> None:
        cls._library.call("cuCtxSynchronize")

    def detach(self) -> None:
        self.pop()
        self._library.call("cuDevicePrimaryCtxRelease_v2", self._device)


class _Owned:
    """A thing of the driver, freed with its last reference. Its context must be current then, or it is lost."""

    def __init__(self, library: _Library, handle: int, free: str) -> None:
        self._library, self.handle, self._free = library, handle, free

    def free(self) -> None:
        handle, self.handle = self.handle, 0
        if handle:
            self._library.call(self._free, handle)

    def __int__(self) -> int:
        return int(self.handle)

    __index__ = __int__

    def __del__(self) -> None:
        with suppress(Error):
            self.free()


class Stream(_Owned):
    def synchronize(self) -> None:
        self._library.call("cuStreamSynchronize", self.handle)


class Event(_Owned):
    def record(self, stream: Stream) -> Event:
        self._library.call("cuEventRecord", self.handle, stream.handle)
        return self

    def time_since(self, earlier: Event) -> float:
        """Milliseconds."""
        milliseconds = c_float()
        self._library.call("cuEventElapsedTime", ctypes.byref(milliseconds), earlier.handle, self.handle)
        return milliseconds.value


class PinnedMemory(_Owned):
    """Page-locked memory of the host, with the interface of an array."""

    def __init__(self, library: _Library, size: int, flags: int) -> None:
        super().__init__(library, library.made("cuMemHostAlloc", c_void_p, size, flags), "cuMemFreeHost")
        self.__array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (self.handle, False), "version": 3}

    def get_device_pointer(self) -> int:
        return int(self._library.made("cuMemHostGetDevicePointer_v2", c_uint64, self.handle, 0))


class HostAllocFlags:
    PORTABLE, DEVICEMAP, WRITECOMBINED = 1, 2, 4


class Driver:
    """Takes the place of the module pycuda.driver."""

    __spec__: Any
    Error, MemoryError, LogicError = Error, MemoryError, LogicError
    host_alloc_flags = HostAllocFlags

    def __init__(self, path: str = LIBRARY) -> None:
        self._library = _Library(path)
        self.Context = type("Context", (Context,), {"_library": self._library})

    def init(self, flags: int = 0) -> None:
        self._library.call("cuInit", flags)

    def Device(self, ordinal: int) -> Any:  # noqa: N802
        device = self._library.made("cuDeviceGet", c_int, ordinal)
        found: Any = ModuleType("Device")
        found.retain_primary_context = functools.partial(self.Context, device)
        return found

    def Stream(self, flags: int = 0) -> Stream:  # noqa: N802
        return Stream(self._library, self._library.made("cuStreamCreate", c_void_p, flags), "cuStreamDestroy_v2")

    def Event(self, flags: int = 0) -> Event:  # noqa: N802
        return Event(self._library, self._library.made("cuEventCreate", c_void_p, flags), "cuEventDestroy_v2")

    def mem_alloc(self, size: int) -> _Owned:
        return _Owned(self._library, self._library.made("cuMemAlloc_v2", c_uint64, size), "cuMemFree_v2")

    def mem_get_info(self) -> tuple[int, int]:
        """Free and total bytes."""
        free, total = c_size_t(), c_size_t()
        self._library.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def pagelocked_empty(self, shape: int, dtype: Any, order: str = "C", mem_flags: int = 0) -> npt.NDArray[np.uint8]:
        assert np.dtype(dtype) == np.uint8
        return np.asarray(PinnedMemory(self._library, shape, mem_flags))

    def memcpy_htod(self, dest: int, src: npt.NDArray[Any]) -> None:
        self._library.call("cuMemcpyHtoD_v2", int(dest), _address(src), src.nbytes)

    def memcpy_htod_async(self, dest: int, src: npt.NDArray[Any], stream: Stream) -> None:
        self._library.call("cuMemcpyHtoDAsync_v2", int(dest), _address(src), src.nbytes, stream.handle)

    def memcpy_dtoh_async(self, dest: npt.NDArray[Any], src: int, stream: Stream) -> None:
        self._library.call("cuMemcpyDtoHAsync_v2", _address(dest), int(src), dest.nbytes, stream.handle)

    def memcpy_dtod_async(self, dest: int, src: int, size: int, stream: Stream) -> None:
        self._library.call("cuMemcpyDtoDAsync_v2", int(dest), int(src), size, stream.handle)


def _address(array: npt.NDArray[Any]) -> int:
    if not array.flags.c_contiguous:
        raise BufferError("ndarray is not contiguous")
    return int(array.ctypes.data)


def pycuda_or_stand_in() -> str:
    """Puts a `Driver` in the place of pycuda.driver where that cannot be imported; returns which of them it is."""
    try:
        found = importlib.import_module("pycuda.driver")
    except ImportError:
        try:
            driver: Any = Driver()
        except (OSError, AttributeError) as error:
            return f"none: no pycuda, and libcuda cannot be used ({error})"
        package: Any = ModuleType("pycuda")
        package.__spec__ = driver.__spec__ = sys.__spec__  # find_spec() needs one, whichever it is.
        package.driver = driver
        sys.modules["pycuda"], sys.modules["pycuda.driver"] = package, driver
        return "libcuda by ctypes, because pycuda is not installed"
    if isinstance(found, Driver):
        return "libcuda by ctypes, because pycuda is not installed"
    return f"pycuda {getattr(sys.modules.get('pycuda'), 'VERSION_TEXT', '')}".rstrip()
