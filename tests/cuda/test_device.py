"""Tests what `_native_cuda` reports about the device, and CUDA graphs that read new values when they are replayed."""

from __future__ import annotations

import numpy as np
import pytest
from cases import random_heads
from cuda_ops import HostMemory
from emulated_cuda import emulated_native

from retinasdk import DeviceError, _native


def test_the_emulated_device() -> None:
    assert emulated_native().device_count() == (1, "")
    assert emulated_native().device_properties(0) == {
        "name": "emulated on the CPU",
        "compute_capability": (8, 7),
        "multiprocessors": 1,
        "memory_bytes": 1 << 30,
        "integrated": False,
    }
    assert emulated_native().driver_version() == emulated_native().runtime_version() == 0


def test_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_ON_CPU_DEVICES", "0")
    count, reason = emulated_native().device_count()
    assert count == 0
    assert reason.startswith("cudaErrorInsufficientDriver: ")


def test_a_failed_call_is_a_device_error() -> None:
    with pytest.raises(DeviceError, match=r"cudaGetDeviceProperties failed: cudaErrorInvalidDevice"):
        emulated_native().device_properties(3)
    with pytest.raises(DeviceError, match=r"cudaStreamEndCapture failed"):
        emulated_native().end_capture(stream=77)


def test_waiting_for_another_stream_is_no_error() -> None:
    emulated_native().wait_for_stream(stream=5, earlier=2)


def test_a_replayed_graph_reads_the_threshold_anew() -> None:
    native, memory = emulated_native(), HostMemory()
    case = random_heads(80, batch=2, top_k=50)
    threshold = np.array([0.0], np.float32)
    boxes, counts = np.zeros((2, 100, 4), np.float32), np.zeros(2, np.int32)
    shape = {"sizes": [a.shape[2:] for a in case.logits], "batch": 2, "anchors": 3, "classes": 4, "top_k": 50}
    scratch_bytes = native.decode_scratch_bytes(**shape)
    stream = 5  # any handle: the emulated device looks only for captures of it
    native.begin_capture(stream)
    native.decode(
        **shape,
        logits=[memory.put(array) for array in case.logits],
        deltas=[memory.put(array) for array in case.deltas],
        base_anchors=[memory.put(array) for array in case.base_anchors],
        strides=case.strides,
        dtype="float32",
        coder_weights=case.coder_weights,
        coder_clamp_max=case.coder_clamp_max,
        logit_threshold=threshold.ctypes.data,
        class_mask=memory.put(np.ones(4, np.uint8)),
        clip_sizes=memory.put(case.clip_sizes),
        boxes=boxes.ctypes.data,
        out_logits=memory.room((2, 100), np.float32),
        class_ids=memory.room((2, 100), np.int32),
        counts=counts.ctypes.data,
        rescans=0,
        scratch=memory.room((scratch_bytes,), np.uint8),
        scratch_bytes=scratch_bytes,
        stream=stream,
    )
    graph = native.end_capture(stream)
    assert not boxes.any()  # recorded, not run
    for value in (0.0, 1.0, -1.0):
        threshold[0] = value
        native.launch_graph(graph, stream)
        options = {**case.options(), "logit_threshold": value}
        wanted = _native.decode(case.logits, case.deltas, case.base_anchors, **options)
        np.testing.assert_array_equal(counts, wanted[3])
        for image, count in enumerate(counts):
            assert boxes[image, :count].tobytes() == wanted[0][image, :count].tobytes()
    native.destroy_graph(graph)
