"""Fault loops over the CUDA runtime below our kernels: each call fails once; the error names it, and nothing leaks.

The emulated runtime counts the calls (tests/support/cuda_on_cpu/runtime.cpp says what it believes of those that fail).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from cases import decode_cases, nms_cases
from cuda_ops import CudaOps
from cuda_parity import as_batch, one_image
from emulated_cuda import emulated_native
from overlap_cases import fusion_cases, soft_cases

from retinasdk import DeviceError

_NONE = 0
_STREAM, _OTHER = 0x1000, 0x2000  # never dereferenced


class Runtime:
    """The emulated CUDA runtime.

    Attributes:
        native: The module with the kernels.
        calls: Returns the number of calls since `fail`.
        live: Returns the number of events and graphs that exist.
    """

    def __init__(self) -> None:
        self.native: Any = emulated_native()
        library = ctypes.CDLL(self.native.__file__)
        self._fail = library.cuda_on_cpu_fail
        self._fail.argtypes = [ctypes.c_long, ctypes.c_long]
        self.calls, self.live = library.cuda_on_cpu_calls, library.cuda_on_cpu_live
        for function in (self.calls, self.live):
            function.restype = ctypes.c_long

    def fail(self, number: int) -> None:
        """Makes a call fail, counted from 1 from now on. 0: none."""
        self._fail(number, number)


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    runtime = Runtime()
    yield runtime
    runtime.fail(_NONE)


def decode(native: Any) -> Any:
    case = next(iter(decode_cases()))
    return CudaOps(native).decode(case.logits, case.deltas, case.base_anchors, **case.options())


def nms(native: Any) -> Any:
    case = max(nms_cases(), key=lambda case: len(case.boxes))
    return CudaOps(native).nms(*one_image(case), **case.options())


def soft_nms(native: Any) -> Any:
    case = next(iter(soft_cases()))
    return CudaOps(native).soft_nms(*as_batch(case.candidates), **case.options())


def fuse(native: Any) -> Any:
    case = next(iter(fusion_cases()))
    return CudaOps(native).fuse(*as_batch(case.candidates), **case.options())


def preprocess(native: Any) -> Any:
    canvas = np.zeros((3, 32, 32), np.float32)
    options = {"antialias": True, "mean": (0, 0, 0), "std": (1, 1, 1), "reverse_channels": False}
    CudaOps(native).preprocess_into(np.full((40, 50, 3), 7, np.uint8), canvas, resized=(24, 30), **options)
    return (canvas,)


def graph(native: Any) -> Any:
    """A recording that waits for another stream."""
    native.begin_capture(_STREAM)
    try:
        native.wait_for_stream(_STREAM, _OTHER)
    except DeviceError:
        native.destroy_graph(native.end_capture(_STREAM))
        raise
    recorded = native.end_capture(_STREAM)
    try:
        native.launch_graph(recorded, _STREAM)
    finally:
        native.destroy_graph(recorded)
    return ()


def properties(native: Any) -> Any:
    native.device_properties(0)
    native.runtime_version()
    native.driver_version()
    return ()


@pytest.mark.parametrize("work", [decode, nms, soft_nms, fuse, preprocess, graph, properties])
def test_each_call_that_fails_is_named_and_leaks_nothing(work: Callable[[Any], Any], runtime: Runtime) -> None:
    runtime.fail(_NONE)
    wanted = work(runtime.native)
    count, live = runtime.calls(), runtime.live()
    assert count > 0
    assert live == 0
    said = set()
    for number in range(1, count + 1):
        runtime.fail(number)
        try:
            found = work(runtime.native)
        except DeviceError as error:
            name, _, reason = str(error).partition(" failed: ")
            said.add((name, reason.split()[0]))
        else:  # What releases something may fail without harm; a lost error of a launch would give wrong boxes.
            assert work is graph
            assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found, wanted, strict=True))
        assert runtime.live() == 0, f"call {number} of {count}"
    assert {reason for _, reason in said} == {"cudaErrorUnknown"}
    runtime.fail(_NONE)
    again = work(runtime.native)
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(again, wanted, strict=True))
    print(f"\n| {work.__name__} | {count} | {', '.join(sorted(name for name, _ in said))} |")


def test_no_device_is_a_reason(runtime: Runtime) -> None:
    runtime.fail(1)
    count, reason = runtime.native.device_count()
    assert count == 0
    assert reason.startswith("cudaErrorUnknown")
