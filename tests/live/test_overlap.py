"""Two frames at a time in a detector that asks for it: order, memory, errors, latency and the end. Time is simulated.

The simulation believes that a GPU works on one frame at a time, and that the host's part of a call does not need it. A
real GPU may also work on parts of two frames at once, so it is at least as fast.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import fake_gpu
from fakes.tensorrt import save_engine
from live_pictures import drain, find_nothing, live_threads, nothing_left, pictures  # noqa: F401
from live_world import LABELS, Camera, World, number_of, numbered
from pictures import blocks

from retinasdk import Detections, Detector, ModelSpec
from retinasdk.live import Frame, RawFrame, StreamError, stream

pytestmark = pytest.mark.usefixtures("nothing_left")


class Gpu:
    """A detector with a host part, which any thread can do, and a GPU part, one at a time, in simulated seconds."""

    def __init__(self, world: World, host_s: float, gpu_s: float, *, calls_at_once: int = 2, fail: Any = ()) -> None:
        self.calls_at_once = calls_at_once
        self._world, self._host_s, self._gpu_s, self._fail = world, host_s, gpu_s, fail
        self._free_s = 0.0
        self.calls: list[list[int]] = []
        self.inside = self.most_inside = 0

    def __call__(self, images: Any, *, labels: tuple[str, ...] = LABELS) -> Any:
        batch = images if isinstance(images, list) else [images]
        numbers = [number_of(image) for image in batch]
        self.calls.append(numbers)
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        try:
            self._world.sleep(self._host_s)
            self._free_s = max(self._free_s, self._world.now()) + self._gpu_s
            self._world.sleep(self._free_s - self._world.now())
            if set(numbers) & set(self._fail):
                raise RuntimeError(f"cannot do {numbers}")
        finally:
            self.inside -= 1
        results = [Detections.empty(labels) for _ in batch]
        return results if isinstance(images, list) else results[0]


class Held:
    """A recording that counts how many of its frames are in memory."""

    name, live, on_demand = "recording", False, False

    def __init__(self, world: World, count: int) -> None:
        self._world, self._count, self._next = world, count, 0
        self.held = self.most_held = 0

    def open(self) -> None: ...

    def close(self) -> None: ...

    def read(self) -> RawFrame | None:
        if self._next == self._count:
            return None
        self._world.sleep(0.001)
        self._next += 1
        self.held += 1
        self.most_held = max(self.most_held, self.held)
        return RawFrame(functools.partial(numbered, self._next - 1))


# -- what it brings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("calls_at_once", "period_s"), [(1, 0.030), (2, 0.020), (3, 0.020)])
def test_the_hosts_part_runs_during_the_gpus(calls_at_once: int, period_s: float) -> None:
    world = World()
    detector = Gpu(world, host_s=0.010, gpu_s=0.020, calls_at_once=calls_at_once)
    with stream(Camera(world, 0.001, live=False), detector, policy="all", clock=world) as frames:
        times = [world.now() for _ in itertools.islice(frames, 50)]
    assert np.diff(times)[10:] == pytest.approx(period_s)
    assert detector.most_inside == calls_at_once


def test_the_callers_part_runs_during_both() -> None:
    world = World()
    detector = Gpu(world, host_s=0.010, gpu_s=0.020)
    times = []
    with stream(Camera(world, 0.001, live=False), detector, policy="all", clock=world) as frames:
        for _ in itertools.islice(frames, 50):
            times.append(world.now())
            world.sleep(0.015)
    assert np.diff(times)[10:] == pytest.approx(0.020)


def test_options_of_a_partial_function() -> None:
    world = World()
    detector = Gpu(world, host_s=0.01, gpu_s=0.02)
    call = functools.partial(functools.partial(detector), labels=("other",))
    with stream(Camera(world, 0.001, live=False, count=9), call, policy="all", clock=world) as frames:
        assert [frame.detections.labels for frame in frames if frame.detections is not None] == [("other",)] * 9
    assert detector.most_inside == 2


# -- what stays as it is -----------------------------------------------------------------------------------------------


def test_order_and_counters_with_durations_at_random() -> None:
    for seed in range(20):
        random = np.random.default_rng(seed)
        world = World()

        def detector(image: Any, world: World = world, random: Any = random) -> Detections:
            world.sleep(float(random.exponential(0.02)))
            return Detections.empty((str(number_of(image)),))

        detector.calls_at_once = 3  # type: ignore[attr-defined]
        with stream(Camera(world, 0.005, live=False, count=40), detector, policy="all", clock=world) as frames:
            for index, frame in enumerate(frames):
                assert (frame.index, number_of(frame.image)) == (index, index)
                assert frame.detections is not None
                assert frame.detections.labels == (str(index),)
                assert frame.counters.processed == index + 1
                world.sleep(float(random.exponential(0.02)))
            counters = frames.counters["camera"]
            metrics = frames.metrics
        assert (counters.captured, counters.processed, counters.dropped, counters.failed) == (40, 40, 0, 0)
        assert metrics.age.sum_s == pytest.approx(metrics.wait.sum_s + metrics.detect.sum_s + metrics.hand_over.sum_s)


def test_few_frames_are_in_memory() -> None:
    """Two wait, two are in the detector or done, the caller has one, and one has just been read."""
    world = World()
    source = Held(world, 60)
    with stream(source, Gpu(world, 0.01, 0.02), policy="all", clock=world) as frames:
        for _ in frames:
            world.sleep(0.1)
            source.held -= 1
    assert 4 <= source.most_held <= 6


@pytest.mark.parametrize("policy", ["latest", "bounded:2", "bounded:2:newest"])
def test_a_frame_that_may_be_dropped_is_not_taken_early(policy: str) -> None:
    """It would wait for the GPU in a thread, where no newer frame could replace it."""
    world, alone = World(), World()
    results = []
    for clock, calls_at_once in ((world, 2), (alone, 1)):
        detector = Gpu(clock, 0.01, 0.1, calls_at_once=calls_at_once)
        with stream(Camera(clock, 0.03), detector, policy=policy, clock=clock) as frames:
            results.append([(frame.index, frame.age_s) for frame in itertools.islice(frames, 30)])
        assert detector.most_inside == 1
    assert results[0] == results[1]


def test_a_slow_source_gets_no_latency() -> None:
    world = World()
    with stream(Camera(world, 0.1), Gpu(world, 0.01, 0.02), policy="all", clock=world) as frames:
        ages = [frame.age_s for frame in itertools.islice(frames, 20)]
    assert ages == pytest.approx([0.03] * 20)


def test_the_limit_on_frames_per_second_holds() -> None:
    world = World()
    detector = Gpu(world, 0.01, 0.02)
    with stream(Camera(world, 0.001, live=False), detector, policy="all", max_fps=10, clock=world) as frames:
        times = [world.now() for _ in itertools.islice(frames, 20)]
    assert np.diff(times)[2:] == pytest.approx(0.1)


def test_frames_are_converted_one_at_a_time() -> None:
    """Frames of a source may share a converter, and nothing says that two threads may use it."""
    world = World()
    inside: list[int] = []

    class Converted(Camera):
        def read(self) -> RawFrame | None:
            raw = super().read()
            return None if raw is None else RawFrame(functools.partial(self._rgb, raw))

        def _rgb(self, raw: RawFrame) -> Any:
            inside.append(1)
            assert len(inside) == 1
            world.sleep(0.02)
            inside.pop()
            return raw.rgb()

    source = Converted(world, 0.001, live=False, count=20)
    detector = Gpu(world, 0.001, 0.02)
    with stream(source, detector, policy="all", clock=world) as frames:
        assert [number_of(frame.image) for frame in frames] == list(range(20))
        assert frames.counters["camera"].failed == 0
    assert world.now() - 100.0 < 20 * 0.03


def test_several_sources_share_batches() -> None:
    world = World()
    detector = Gpu(world, 0.01, 0.02)
    cameras = [Camera(world, 0.004, live=False, count=20, name=name) for name in "ab"]
    with stream(cameras, detector, policy="all", clock=world) as frames:
        got = list(frames)
    for name in "ab":
        assert [frame.index for frame in got if frame.source == name] == list(range(20))
    assert any(len(call) == 2 for call in detector.calls)
    assert detector.most_inside == 2


# -- errors and the end ------------------------------------------------------------------------------------------------


def test_an_error_stays_with_its_frame() -> None:
    world = World()
    detector = Gpu(world, 0.01, 0.02, fail=(2, 5, 6))
    with stream(Camera(world, 0.001, live=False, count=12), detector, policy="all", clock=world) as frames:
        got = list(frames)
    assert [frame.index for frame in got] == list(range(12))
    assert [frame.index for frame in got if frame.error is not None] == [2, 5, 6]
    assert str(got[5].error) == "cannot do [5]"


def test_too_many_failures_in_a_row_end_it() -> None:
    world = World()
    detector = Gpu(world, 0.01, 0.02, fail=(1, *range(4, 100)))
    got: list[Frame] = []
    with stream(Camera(world, 0.001, live=False), detector, policy="all", max_failures=3, clock=world) as frames:
        with pytest.raises(StreamError, match=r"failed on 3 frames in a row, the last time with: cannot do \[6\]"):
            drain(frames, got)
        assert frames.closed
        assert list(frames) == []
    assert [frame.index for frame in got] == [0, 1, 2, 3, 4, 5]


def test_a_detector_that_loses_images() -> None:
    world = World()
    gpu = Gpu(world, 0.01, 0.5)

    def detector(images: Any) -> Any:
        return gpu(images)[:1]

    detector.calls_at_once = 2  # type: ignore[attr-defined]
    cameras = [Camera(world, 0.1, live=False, count=100, name=name) for name in "ab"]
    with (
        stream(cameras, detector, policy="all", clock=world) as frames,
        pytest.raises(ValueError, match="a result for each of 2 images, got 1"),
    ):
        drain(frames)


def at_once(detector: Any) -> Any:
    """The detector as one that asks for two calls at once."""

    def wrapped(images: Any) -> Any:
        return detector(images)

    wrapped.calls_at_once = 2  # type: ignore[attr-defined]
    return wrapped


def test_closing_waits_for_the_calls_under_way() -> None:
    """Whoever closes the stream may close the detector next."""
    inside = threading.Semaphore(0)
    go_on, left = threading.Event(), []

    def detector(image: Any) -> Any:
        inside.release()
        assert go_on.wait(30)
        left.append(number_of(image))
        return Detections.empty(LABELS)

    frames = stream(pictures(), at_once(detector), policy="all")
    got: list[Frame] = []
    consumer = threading.Thread(target=lambda: got.extend(frames))
    consumer.start()
    assert inside.acquire(timeout=30)
    assert inside.acquire(timeout=30)
    closing = threading.Thread(target=frames.close)
    closing.start()
    consumer.join(30)  # It ends at once.
    assert closing.is_alive()
    go_on.set()
    closing.join(30)
    assert (closing.is_alive(), consumer.is_alive(), got) == (False, False, [])
    assert sorted(left) == [0, 1]
    assert live_threads() == []


def test_leaving_the_loop_ends_the_threads() -> None:
    with stream(pictures(), at_once(find_nothing), policy="all") as frames:
        for frame in frames:
            assert live_threads().count("retinasdk live detector 0") == 1
            if frame.index > 5:
                break
    assert live_threads() == []


def test_an_unused_stream_is_collected() -> None:
    frames = stream(pictures(), at_once(find_nothing), policy="all")
    next(frames)
    del frames  # `nothing_left` looks for its threads.


# -- the detector ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["8.5.2", "10.3.0"])
def test_two_lanes_of_a_gpu(
    detector: Detector, model_path: Path, spec: ModelSpec, tmp_path: Path, version: str
) -> None:
    """Frames are those of the CPU, in order. Before TensorRT 10 there is one context, and frames take turns."""
    images = [blocks(90, 120, seed=seed) for seed in range(12)]
    engine = save_engine(tmp_path / "tiny.engine", model_path, spec, version=f"{version}.1")
    with fake_gpu(tensorrt=version) as gpu, Detector(engine, device="cuda") as on_gpu:
        assert (on_gpu.calls_at_once, detector.calls_at_once) == (2, 1)
        with stream(iter(images * 3), functools.partial(on_gpu, score_threshold=0.1), policy="all") as frames:
            found = [frame.detections for frame in frames]
            metrics = frames.metrics
        assert found == [detector(image, score_threshold=0.1) for image in images] * 3
        contexts = gpu.live["ExecutionContext"]
        assert contexts == 1 if version == "8.5.2" else 1 <= contexts <= 2
    counts = [getattr(metrics, name).count for name in ("queue", "preprocess", "inference", "postprocess")]
    assert counts == [36] * 4


def test_a_frame_is_uploaded_while_another_is_on_the_gpu(
    model_path: Path, spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No thread gets past its wait for the GPU before another one has launched its frame, too."""
    engine = save_engine(tmp_path / "tiny.engine", model_path, spec)
    for use in (streamed, predicted):
        with fake_gpu() as gpu, Detector(engine, device="cuda") as on_gpu:
            meeting = threading.Barrier(2, timeout=30)  # raises in each thread where the other does not come
            synchronize = gpu.synchronize

            def met(handle: int, meeting: Any = meeting, synchronize: Any = synchronize) -> None:
                if threading.current_thread() is not threading.main_thread():
                    meeting.wait()
                synchronize(handle)

            on_gpu(blocks())
            monkeypatch.setattr(gpu, "synchronize", met)
            assert list(use(on_gpu)) == [None] * 8
            monkeypatch.setattr(gpu, "synchronize", synchronize)


def streamed(detector: Detector) -> Iterator[Exception | None]:
    with stream(iter([blocks()] * 8), detector, policy="all") as frames:
        for frame in frames:
            yield frame.error


def predicted(detector: Detector) -> Iterator[Exception | None]:
    for prediction in detector.predict(iter([blocks()] * 8)):
        yield prediction.error


def test_closing_the_detector_after_the_stream_leaks_nothing(model_path: Path, spec: ModelSpec, tmp_path: Path) -> None:
    engine = save_engine(tmp_path / "tiny.engine", model_path, spec)
    for count in range(6):
        with (
            fake_gpu() as gpu,
            Detector(engine, device="cuda") as on_gpu,
            stream(itertools.repeat(blocks()), on_gpu, policy="all") as frames,
        ):
            assert [frame.error for frame in itertools.islice(frames, count)] == [None] * count
        assert not any(gpu.live.values())


def test_a_failure_of_the_gpu_stays_with_its_frame(
    model_path: Path, spec: ModelSpec, tmp_path: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lane of the failed frame is replaced; the next frames are right."""
    engine = save_engine(tmp_path / "tiny.engine", model_path, spec)
    image, wanted = blocks(), detector(blocks())
    with fake_gpu() as gpu, Detector(engine, device="cuda") as on_gpu:
        step, count = gpu.step, itertools.count()

        def failing(what: str) -> None:
            step(what)
            if what == "enqueueV3" and next(count) == 0:
                raise_refused()

        monkeypatch.setattr(gpu, "step", failing)
        with stream(iter([image] * 10), on_gpu, policy="all") as frames:
            got = list(frames)
        monkeypatch.setattr(gpu, "step", step)
        del frames
    failed = [frame for frame in got if frame.error is not None]
    assert len(failed) == 1
    assert "the test asked for it" in str(failed[0].error)
    assert [frame.index for frame in got] == list(range(10))
    assert all(frame.detections == wanted for frame in got if frame.error is None)


def raise_refused() -> None:
    from fakes.gpu import RefusedError

    raise RefusedError("enqueueV3 failed: the test asked for it")
