"""Tests the GPU backend over stand-ins: threads, closing, forks, failures at every step, and CUDA graphs."""

from __future__ import annotations

import gc
import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fakes.tensorrt
import numpy as np
import pytest
from fakes import fake_gpu
from fakes.tensorrt import save_engine
from pictures import LABELS, blocks

from retinasdk import Detector, DeviceError, ModelError, ModelSpec


def open_and_detect(engine: Path) -> None:
    """Opens a detector; runs a frame directly, one recorded, one replayed, and a larger one; closes it."""
    with Detector(engine, device="cuda") as on_gpu:
        for _ in range(3):
            on_gpu(blocks())
        on_gpu([blocks(90, 160)] * 2)


# -- threads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["8.5.2", "10.3.0"])
def test_many_threads_get_what_one_gets(
    detector: Detector, model_path: Path, spec: ModelSpec, tmp_path: Path, version: str
) -> None:
    """Threads mix single images, lists, thresholds and classes. Before TensorRT 10, they share one context."""
    calls: list[tuple[Any, dict[str, Any]]] = []
    for seed, size in enumerate(((90, 120), (61, 47), (30, 200))):
        image = blocks(*size, seed=seed)
        calls += [
            (image, {}),
            (image, {"classes": [LABELS[seed]], "score_threshold": 0.1}),
            ([image, blocks(seed=seed), image], {"score_threshold": 0.3}),
        ]
    wanted = [detector(image, **options) for image, options in calls]
    engine = save_engine(tmp_path / "tiny.engine", model_path, spec, version=f"{version}.1")
    with fake_gpu(tensorrt=version) as gpu, Detector(engine, device="cuda") as on_gpu, ThreadPoolExecutor(8) as pool:
        order = np.random.default_rng(0).permutation(len(calls) * 4) % len(calls)
        futures = [pool.submit(on_gpu, calls[i][0], **calls[i][1]) for i in order]
        for i, future in zip(order, futures, strict=True):
            assert future.result() == wanted[i]
        contexts = gpu.live["ExecutionContext"]
    assert contexts == 1 if version == "8.5.2" else 2 <= contexts <= 4


@pytest.mark.parametrize("profile", [0, -1])
def test_a_second_context_that_tensorrt_does_not_create(
    engine: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch, profile: int
) -> None:
    """Nobody has seen what TensorRT 8.5 does with a second context. Either way, one context serves all calls."""
    create = fakes.tensorrt.Engine.create_execution_context

    def only_once(self: Any) -> Any:
        context = create(self) if not self._children[0] or profile < 0 else None
        if context is not None and self._children[0] > 1:
            context.active_optimization_profile = profile
        return context

    monkeypatch.setattr("fakes.tensorrt.Engine.create_execution_context", only_once)
    image = blocks()
    with fake_gpu() as gpu, Detector(engine, device="cuda") as on_gpu, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(on_gpu, [image] * 24)) == [detector(image)] * 24
        assert gpu.live["ExecutionContext"] == 1


def test_no_usable_context_at_all_is_told(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile of -1 from the first context on made the first call wait forever."""
    monkeypatch.setattr("retinasdk.tensorrt.lane.Lane.is_usable", False)
    with (
        fake_gpu(),
        Detector(engine, device="cuda") as on_gpu,
        pytest.raises(DeviceError, match="no execution context that can use the engine's profile"),
    ):
        on_gpu(blocks())


def test_one_thread_makes_one_context(engine: Path) -> None:
    with fake_gpu() as gpu, Detector(engine, device="cuda") as on_gpu:
        for size in ((90, 120), (61, 47), (30, 200), (90, 120)):
            on_gpu(blocks(*size))
        assert gpu.live["ExecutionContext"] == gpu.live["stream"] == 1


def test_a_lane_of_the_same_shape_is_preferred(engine: Path) -> None:
    """Two threads use two shapes: once both have their graphs, nothing is launched directly any more."""
    with fake_gpu() as gpu, Detector(engine, device="cuda") as on_gpu:
        in_step = threading.Barrier(2)

        def frames(size: tuple[int, int]) -> None:
            in_step.wait()
            for _ in range(6):
                on_gpu(blocks(*size))

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(frames, [(90, 120), (30, 200)]))
        if gpu.live["ExecutionContext"] == 2:
            for size in ((90, 120), (30, 200)) * 2:
                on_gpu(blocks(*size))
            gpu.launches.clear()
            for size in ((90, 120), (30, 200)) * 3:
                on_gpu(blocks(*size))
            assert gpu.launches["network"] == 0


# -- closing -----------------------------------------------------------------------------------------------------------


def test_close(engine: Path) -> None:
    with fake_gpu() as gpu:
        detector = Detector(engine, device="cuda")
        detector(blocks())
        detector.close()
        assert not any(gpu.live.values())
        detector.close()
        for call in (lambda: detector(blocks()), lambda: detector._backend.infer(np.zeros((1, 3, 64, 64), np.float32))):
            with pytest.raises(DeviceError, match=r"closed\. Create a new one"):
                call()


def test_close_in_another_thread(engine: Path) -> None:
    with fake_gpu() as gpu:
        detector = Detector(engine, device="cuda")
        detector(blocks())
        thread = threading.Thread(target=detector.close)
        thread.start()
        thread.join()
        assert gpu.primary_context_users == 0


def test_close_waits_for_calls_under_way(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_gpu() as gpu:
        detector = Detector(engine, device="cuda")
        detector(blocks())
        entered, go_on = threading.Event(), threading.Event()
        synchronize = gpu.synchronize

        def slow(handle: int) -> None:
            entered.set()
            assert go_on.wait(60)
            synchronize(handle)

        monkeypatch.setattr(gpu, "synchronize", slow)
        with ThreadPoolExecutor(2) as pool:
            call = pool.submit(detector, blocks())
            assert entered.wait(60)
            closing = pool.submit(detector.close)
            assert not closing.done()
            go_on.set()
            closing.result()
            assert len(call.result()) > 0


def test_a_dropped_detector_releases_everything(engine: Path) -> None:
    with fake_gpu() as gpu:
        detector = Detector(engine, device="cuda")
        detector(blocks())
        thread = threading.Thread(target=detector.__dict__.clear)  # the last reference goes in another thread
        thread.start()
        thread.join()
        gc.collect()
        assert not any(gpu.live.values())


def test_detectors_share_nothing(engine: Path, detector: Detector) -> None:
    with fake_gpu():
        first, second = Detector(engine, device="cuda"), Detector(engine, device="cuda")
        assert first(blocks()) == second(blocks())
        first.close()
        assert second(blocks()) == detector(blocks())
        second.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_says_so_and_frees_nothing(engine: Path) -> None:
    with fake_gpu() as gpu, Detector(engine, device="cuda") as detector:
        detector(blocks())
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                detector(blocks())
            except DeviceError as error:
                before = dict(gpu.live)
                detector.close()
                os.write(writing, f"{error}; freed: {gpu.live != before}".encode())
            os._exit(0)
        os.waitpid(child, 0)
        said = os.read(reading, 10_000).decode()
        os.close(reading)
        os.close(writing)
    assert "created before this process was forked, and CUDA does not work across a fork. Create it" in said
    assert said.endswith("freed: False")


# -- failures ----------------------------------------------------------------------------------------------------------


@pytest.mark.heavy
def test_a_failure_at_any_step_leaks_nothing_and_says_which(engine: Path) -> None:
    with fake_gpu() as gpu:
        open_and_detect(engine)
        steps = list(gpu.steps)
    assert {"cuInit", "cuMemAlloc", "cuMemHostAlloc", "cuStreamCreate", "cuMemcpyHtoDAsync", "enqueueV3"} <= set(steps)
    said = set()
    for number, step in enumerate(steps, start=1):
        with fake_gpu(fail_at=number) as gpu:
            if number > 1 and gpu_is_let_down_softly(steps, number):
                open_and_detect(engine)
                continue
            with pytest.raises((DeviceError, ModelError)) as caught:
                open_and_detect(engine)
            assert "the test asked for it" in str(caught.value), step
            said.add(str(caught.value).partition(":")[0])
            del caught
    wanted = {
        "opening the GPU",
        "making a stream",
        "copying images to the GPU",
        "running a frame",
        "launching a frame",
        "copying anchors to the GPU",
    }
    assert wanted <= said
    assert any(text.startswith("allocating") and text.endswith("for results") for text in said)
    assert any(text.startswith("allocating") and text.endswith("candidates and scratch") for text in said)


def gpu_is_let_down_softly(steps: list[str], number: int) -> bool:
    """Steps that may fail: those of a recording, after which the frame is launched directly, and those of closing."""
    launched = [index for index, step in enumerate(steps, start=1) if step == "enqueueV3"]
    recording = range(launched[1] - 2, launched[1] + 2)  # uploads, network, download
    return number in recording or number == len(steps)


def test_the_next_call_works_after_one_that_failed(engine: Path, detector: Detector) -> None:
    with fake_gpu() as gpu, Detector(engine, device="cuda") as on_gpu:
        on_gpu(blocks())
        for _ in range(6):
            gpu.fail_at = len(gpu.steps) + 2
            with pytest.raises(DeviceError):
                on_gpu(blocks(90, 160))
            assert on_gpu(blocks()) == detector(blocks())


def test_a_failed_kernel_is_told(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU reports an error at the next wait."""
    with fake_gpu() as gpu, Detector(engine, device="cuda") as on_gpu:
        enqueue = gpu.enqueue

        def with_a_bad_one(handle: int, what: str, work: Any) -> None:
            def fail() -> None:
                raise RuntimeError("an illegal memory access was encountered")

            enqueue(handle, what, fail if what == "nms" else work)

        monkeypatch.setattr(gpu, "enqueue", with_a_bad_one)
        with pytest.raises(DeviceError, match=r"running a frame: the GPU failed: .*illegal memory access"):
            on_gpu(blocks())


# -- CUDA graphs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refuse", ["begin", "execute", "end", "ask"])
def test_capture_refused(
    detector: Detector,
    model_path: Path,
    spec: ModelSpec,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    refuse: str,
) -> None:
    """The decision is made and logged once for each shape, in whichever thread."""
    rtx = refuse == "ask"
    version = "1.7.1" if rtx else "10.3.0"
    engine = save_engine(tmp_path / "tiny.engine", model_path, spec, version=f"{version}.1", rtx=rtx)
    caplog.set_level(logging.INFO, logger="retinasdk")
    with fake_gpu(refuse=refuse, tensorrt=version, rtx=rtx) as gpu, Detector(engine, device="cuda") as on_gpu:
        for size in ((90, 120), (30, 200), (90, 120)):
            for _ in range(3):
                assert on_gpu(blocks(*size)) == detector(blocks(*size))
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(on_gpu, [blocks()] * 8))
        assert gpu.launches["graph"] == 0
    lines = [record.message for record in caplog.records if "without a CUDA graph" in record.message]
    assert len(lines) == 2
    assert lines[0].startswith("Shape (1, 3, 128, 192) runs without a CUDA graph (")


def test_a_graph_goes_with_its_shape(engine: Path, detector: Detector) -> None:
    with fake_gpu() as gpu, Detector(engine, device="cuda") as on_gpu:
        for size in ((90, 120), (90, 120), (90, 120), (30, 200), (30, 200), (400, 400), (90, 120), (90, 120)):
            assert on_gpu(blocks(*size)) == detector(blocks(*size))
        assert gpu.live["graph"] == 1


def test_an_interrupt_while_recording_leaves_the_stream_usable(
    engine: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_gpu() as gpu, Detector(engine, device="cuda") as on_gpu:
        on_gpu(blocks())
        monkeypatch.setattr(gpu, "enqueue", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            on_gpu(blocks())
        monkeypatch.undo()
        for _ in range(3):
            assert on_gpu(blocks()) == detector(blocks())
        assert not any(gpu.is_capturing(handle) for handle in gpu._streams)


def _interrupt(*arguments: Any) -> None:
    raise KeyboardInterrupt


def test_memory_does_not_grow(engine: Path) -> None:
    with fake_gpu() as gpu, Detector(engine, device="cuda") as on_gpu:
        frames = [blocks(90, 120, seed=seed) for seed in range(3)]
        for frame in frames:
            on_gpu(frame)
        live = dict(gpu.live)
        for _ in range(30):
            for frame in frames:
                on_gpu(frame)
        assert dict(gpu.live) == live
