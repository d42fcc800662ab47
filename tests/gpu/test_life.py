"""Tests detectors on the GPU over time: thousands of frames, several threads, closing and opening again."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu_device import IMAGE_SIZES, DeviceArray, Gpu
from pictures import LABELS, blocks

from retinasdk import Detector, stream

# Other programs allocate too, and where memory is shared with the CPU, all of them. A leak of 1 KiB a frame is 9 MiB.
SLACK = {"device": 8 << 20, "shared with the CPU": 64 << 20, "host": 32 << 20}


class Memory:
    """Returns the bytes that are in use on the GPU, and resident on the host."""

    def __init__(self, gpu: Gpu) -> None:
        gc.collect()
        self._kind = "shared with the CPU" if gpu.device.integrated else "device"
        self.device = gpu.memory_in_use()
        self.host = gpu.host_memory_in_use()

    def assert_level_since(self, before: Memory) -> None:
        assert self.device - before.device <= SLACK[self._kind]
        assert self.host - before.host <= SLACK["host"]


def test_memory_stays_level_over_ten_thousand_frames(engine_gpu: Gpu, on_gpu: Detector) -> None:
    """Shapes, lists, thresholds and images on the GPU vary. The stand-ins are 30 times as slow and run 300 frames."""
    frames, warm_up = (10_000, 1000) if engine_gpu.is_real else (300, 60)
    images = [blocks(*size, seed=seed) for seed, size in enumerate(IMAGE_SIZES)]
    on_device = DeviceArray(engine_gpu, images[0])
    calls: list[tuple[Any, dict[str, Any]]] = [(image, {}) for image in images for _ in range(3)]
    calls += [([images[0]] * 4, {}), (on_device, {}), (images[0], {"score_threshold": 0.9}), (images, {})]

    def run(count: int) -> None:
        done = 0
        while done < count:
            image, options = calls[done % len(calls)]
            on_gpu(image, **options)
            done += len(image) if isinstance(image, list) else 1

    run(warm_up)
    before = Memory(engine_gpu)
    run(frames - warm_up)
    Memory(engine_gpu).assert_level_since(before)


def test_threads(engine_gpu: Gpu, on_gpu: Detector) -> None:
    """Eight threads mix single images, lists, thresholds and classes: each gets the same results as alone."""
    calls: list[tuple[Any, dict[str, Any]]] = []
    for seed, size in enumerate(IMAGE_SIZES[:3]):
        image = blocks(*size, seed=seed)
        calls += [
            (image, {}),
            (image, {"classes": [LABELS[seed]], "score_threshold": 0.1}),
            ([image, blocks(seed=seed), image], {"score_threshold": 0.3}),
        ]
    wanted = [on_gpu(image, **options) for image, options in calls]
    order = np.random.default_rng(0).permutation(len(calls) * (100 if engine_gpu.is_real else 6)) % len(calls)
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(on_gpu, calls[i][0], **calls[i][1]) for i in order]
        for i, future in zip(order, futures, strict=True):
            assert future.result() == wanted[i]


def test_two_frames_in_work(engine_gpu: Gpu, on_gpu: Detector) -> None:
    """`predict` and a stream without drops overlap two frames: same results, in order."""
    images = [blocks(*IMAGE_SIZES[0], seed=seed) for seed in range(12)] + [blocks(*IMAGE_SIZES[1])] * 4
    wanted = [on_gpu(image) for image in images]
    turns = 50 if engine_gpu.is_real else 3
    predictions = on_gpu.predict(iter(images * turns))
    assert [prediction.detections for prediction in predictions] == wanted * turns
    with stream(iter(images * turns), on_gpu, policy="all") as frames:
        assert [frame.detections for frame in frames] == wanted * turns


def test_detectors_in_threads_of_their_own(engine_gpu: Gpu, engine: Path, on_gpu: Detector) -> None:
    """Each thread opens, uses and closes detectors while the others do the same."""
    images = [blocks(*size, seed=3) for size in IMAGE_SIZES]
    wanted = [on_gpu(image) for image in images]

    def live(_: int) -> list[Any]:
        with Detector(engine, device="cuda") as own:
            return [own(image) for image in images for _ in range(3)][::3]

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(live, range(8)):
            assert found == wanted


def test_opening_and_closing_many_times(engine_gpu: Gpu, engine: Path) -> None:
    image, found = blocks(), []
    for turn in range(50 if engine_gpu.is_real else 15):
        if turn == 5:
            before = Memory(engine_gpu)
        with Detector(engine, device="cuda") as detector:
            found += [detector(image) for _ in range(3)]
    Memory(engine_gpu).assert_level_since(before)
    assert len(found[0]) > 0
    assert all(detections == found[0] for detections in found)


_REOPEN = """
import sys
import numpy as np
from retinasdk import Detector

image, found = np.load(sys.argv[2]), []
for _ in range(50):
    with Detector(sys.argv[1], device="cuda") as detector:
        found += [detector(image) for _ in range(3)]
assert len(found[0]) > 0
assert all(detections == found[0] for detections in found)
print("the same fifty times")
"""


def test_the_context_goes_and_comes(chip: Gpu, engine: Path, tmp_path: Path) -> None:
    """In a process where nothing else holds the CUDA context, it is destroyed and created again each time."""
    np.save(tmp_path / "image.npy", blocks())
    command = [sys.executable, "-c", _REOPEN, str(engine), str(tmp_path / "image.npy")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "the same fifty times\n"
    assert "could not be released" not in done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_says_so(chip: Gpu, on_gpu: Detector) -> None:
    """The parent process is not disturbed."""
    from retinasdk import DeviceError

    wanted = on_gpu(blocks())
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            on_gpu(blocks())
        except DeviceError as error:
            os.write(writing, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as said:
        assert "created before this process was forked" in said.read()
    assert on_gpu(blocks()) == wanted
