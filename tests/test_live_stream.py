"""What a stream survives: lost sources, corrupt frames, failing detectors, close from anywhere, Ctrl-C, fork.

Where time matters it is simulated; where threads and processes matter they are real.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from live_world import LABELS, Camera, Slow, World, number_of, numbered

from retinasdk import Detections
from retinasdk.live import (
    CorruptFrameError,
    Frame,
    Histogram,
    Metrics,
    Reconnect,
    Shot,
    StateChange,
    Stream,
    StreamError,
    stream,
)

STEADY = Reconnect(jitter=0.0)


def find_nothing(images: Any) -> Any:
    return [find_nothing(image) for image in images] if isinstance(images, list) else Detections.empty(LABELS)


def pictures(count: int | None = None) -> Iterator[Any]:
    for index in itertools.count() if count is None else range(count):
        yield numbered(index)


def drain(frames: Stream, into: list[Frame] | None = None) -> None:
    for frame in frames:
        (into if into is not None else []).append(frame)


def live_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("retinasdk live")]


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """After each test no thread of a stream is left."""
    yield
    gc.collect()
    assert live_threads() == []


# -- lost sources ------------------------------------------------------------------------------------------------------


def test_a_lost_camera_is_opened_again() -> None:
    world = World()
    camera = Camera(world, 0.1, script={5: OSError("cable out")})
    changes: list[StateChange] = []
    options: dict[str, Any] = {"clock": world, "reconnect": STEADY, "on_state": changes.append, "policy": "all"}
    with stream(camera, Slow(world, 0.01), **options) as frames:
        got = [number_of(frame.image) for frame in itertools.islice(frames, 8)]
        states = [change.state for change in changes]
    assert got == [0, 1, 2, 3, 4, 6, 7, 8]
    assert states == ["connecting", "streaming", "reconnecting", "connecting", "streaming"]
    assert changes[2].source == "camera"
    assert (str(changes[2].error), changes[2].attempt, changes[2].wait_s) == ("cable out", 1, 0.5)
    events, times = zip(*camera.log, strict=True)
    assert events == ("open", "close", "open", "close")  # never opened twice, always closed
    assert times[2] - times[1] == pytest.approx(0.5)
    assert changes[-1].state == "ended"


def test_waits_double_up_to_a_limit_then_it_is_lost() -> None:
    world = World()
    camera = Camera(world, 0.1, opens=(OSError("no route"),) * 20)
    reconnect = Reconnect(first_s=1.0, longest_s=5.0, jitter=0.0, attempts=5)
    changes: list[StateChange] = []
    with (
        stream(camera, Slow(world, 0.1), clock=world, reconnect=reconnect, on_state=changes.append) as frames,
        pytest.raises(StreamError, match=r"^camera: no route$") as raised,
    ):
        next(frames)
    assert isinstance(raised.value.__cause__, OSError)
    opens = [when - 100.0 for event, when in camera.log if event == "open"]
    assert opens == pytest.approx([0.0, 1.0, 3.0, 7.0, 12.0, 17.0])
    assert [change.wait_s for change in changes if change.state == "reconnecting"] == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert changes[-1].state == "lost"
    assert [event for event, _ in camera.log] == ["open", "close"] * 6


def test_attempts_begin_anew_after_a_frame() -> None:
    world = World()
    script: dict[int, Exception | float] = {number: OSError("flaky") for number in range(1, 60, 2)}
    camera = Camera(world, 0.1, script=script)
    reconnect = Reconnect(first_s=1.0, jitter=0.0, attempts=2)
    with stream(camera, Slow(world, 0.01), clock=world, reconnect=reconnect) as frames:
        assert [frame.index for frame in itertools.islice(frames, 20)] == list(range(20))


def test_a_stream_that_ends_is_opened_again_and_a_file_is_not() -> None:
    world = World()
    live = Camera(world, 0.1, count=3)
    reconnect = Reconnect(first_s=1.0, jitter=0.0, attempts=2)
    with (
        stream(live, Slow(world, 0.01), clock=world, reconnect=reconnect) as frames,
        pytest.raises(StreamError, match="camera: the source ended"),
    ):
        drain(frames)
    world = World()
    recorded = Camera(world, 0.1, count=3, live=False)
    with stream(recorded, Slow(world, 0.01), clock=world) as frames:
        assert len(list(frames)) == 3
    assert [event for event, _ in recorded.log] == ["open", "close"]


def test_jitter_spreads_the_waits() -> None:
    import random

    reconnect = Reconnect(first_s=2.0, jitter=0.5)
    waits = [reconnect.wait_s(1, random.Random(seed)) for seed in range(200)]
    assert min(waits) >= 2.0  # type: ignore[type-var]
    assert max(waits) <= 3.0  # type: ignore[type-var]
    assert len(set(waits)) == 200
    assert Reconnect(attempts=None).wait_s(10**6, random.Random(0)) is not None
    assert Reconnect(attempts=0).wait_s(1, random.Random(0)) is None
    for options in ({"first_s": -1.0}, {"first_s": 31.0}, {"jitter": -0.1}, {"attempts": -1}, {"attempts": 1.5}):
        with pytest.raises(ValueError, match=r"Reconnect needs|attempts must be"):
            Reconnect(**options)  # type: ignore[arg-type]


def test_one_of_several_sources_is_lost() -> None:
    """The others go on; the loss is told at once by on_state, and raised when they have ended."""
    world = World()
    lost = Camera(world, 0.1, name="lost", live=False, script={3: OSError("gone")})
    good = Camera(world, 0.1, name="good", live=False, count=20)
    got: list[Frame] = []
    with (
        stream([lost, good], Slow(world, 0.01), clock=world, policy="all") as frames,
        pytest.raises(StreamError, match=r"^lost: gone$"),
    ):
        drain(frames, got)
    assert [frame.index for frame in got if frame.source == "good"] == list(range(20))
    assert [frame.index for frame in got if frame.source == "lost"] == [0, 1, 2]


def test_all_sources_lost() -> None:
    world = World()
    cameras = [Camera(world, 0.1, name=name, live=False, opens=(OSError(f"no {name}"),)) for name in "ab"]
    with (
        stream(cameras, Slow(world, 0.01), clock=world) as frames,
        pytest.raises(StreamError, match=r"^a: no a; b: no b$"),
    ):
        next(frames)


def test_a_callback_that_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def on_state(change: StateChange) -> None:
        raise RuntimeError("my bug")

    with stream(pictures(3), find_nothing, policy="all", on_state=on_state) as frames:
        assert len(list(frames)) == 3
    assert "on_state raised for arrays: connecting" in caplog.text


# -- bad frames, bad detectors -----------------------------------------------------------------------------------------


def test_corrupt_frames_are_counted_and_skipped(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    script: dict[int, Exception | float] = {number: CorruptFrameError("bits") for number in (0, 3, 4)}
    camera = Camera(world, 0.1, count=8, live=False, script=script)
    with stream(camera, Slow(world, 0.01), clock=world, policy="all") as frames:
        got = [(frame.index, number_of(frame.image)) for frame in frames]
        counters = frames.counters["camera"]
    assert got == [(number, number) for number in (1, 2, 5, 6, 7)]
    assert (counters.captured, counters.processed, counters.dropped, counters.failed) == (8, 5, 0, 3)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 3


def test_nothing_but_corrupt_frames_is_a_lost_source() -> None:
    world = World()
    script: dict[int, Exception | float] = {number: CorruptFrameError("bits") for number in range(1000)}
    camera = Camera(world, 0.01, live=False, script=script)
    with (
        stream(camera, Slow(world, 0.01), clock=world) as frames,
        pytest.raises(StreamError, match="300 corrupt frames in a row, the last: bits"),
    ):
        next(frames)


def test_a_frame_that_cannot_be_converted_is_skipped(caplog: pytest.LogCaptureFixture) -> None:
    class Odd:
        name, live, on_demand = "odd", False, False

        def __init__(self) -> None:
            self.shots = [Shot(lambda: np.zeros((2, 2), np.uint8)), Shot(lambda: 1 / 0), Shot(lambda: numbered(7))]  # type: ignore[arg-type,return-value]

        def open(self) -> None: ...

        def read(self) -> Shot | None:
            return self.shots.pop(0) if self.shots else None

        def close(self) -> None: ...

    with stream(Odd(), find_nothing, policy="all") as frames:
        assert [number_of(frame.image) for frame in frames] == [7]
        assert frames.counters["odd"].failed == 2
    assert "frame 0 cannot be converted to RGB: image must be (H, W, 3) uint8" in caplog.text


def test_a_frame_carries_the_detectors_error() -> None:
    world = World()
    detector = Slow(world, 0.01, fail=lambda number: number in (2, 5))
    with stream(Camera(world, 0.1, count=8, live=False), detector, clock=world, policy="all") as frames:
        got = list(frames)
    assert [frame.index for frame in got] == list(range(8))
    assert [frame.index for frame in got if frame.error is not None] == [2, 5]
    for frame in got:
        assert (frame.detections is None) == (frame.error is not None)
    assert isinstance(got[2].error, RuntimeError)
    assert str(got[2].error) == "cannot do 2"
    assert got[-1].counters.failed == 2
    assert got[2].to_dict()["error"] == "RuntimeError: cannot do 2"


def test_too_many_failures_in_a_row_end_it() -> None:
    world = World()
    detector = Slow(world, 0.01, fail=lambda number: number == 3 or number >= 6)
    with stream(Camera(world, 0.1), detector, clock=world, policy="all", max_failures=4) as frames:
        got: list[Frame] = []
        with pytest.raises(StreamError, match="failed on 4 frames in a row, the last time with: cannot do 9") as raised:
            drain(frames, got)
        assert frames.closed
        assert list(frames) == []
    assert [frame.index for frame in got] == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert isinstance(raised.value.__cause__, RuntimeError)


def test_of_a_batch_only_the_bad_frame_fails() -> None:
    world = World()
    bad = Camera(world, 0.1, count=10, live=False, name="bad")
    good = Camera(world, 0.1, count=10, live=False, name="good")
    bad.next = 100  # its pictures are 100 to 109
    bad._count = 110
    detector = Slow(world, 0.01, fail=lambda number: number == 105)
    with stream([bad, good], detector, clock=world, policy="all") as frames:
        failed = [(frame.source, number_of(frame.image)) for frame in frames if frame.error is not None]
    assert failed == [("bad", 105)]
    assert frames.counters["good"].processed == 10


def test_a_detector_that_loses_images() -> None:
    world = World()
    slow = Slow(world, 0.5)  # so that both cameras have a frame when it is free again
    cameras = [Camera(world, 0.1, count=100, name=name) for name in "ab"]
    with (
        stream(cameras, lambda images: slow(images)[:1], clock=world) as frames,
        pytest.raises(ValueError, match="a result for each of 2 images, got 1"),
    ):
        drain(frames)


def test_pictures_may_change_their_size() -> None:
    shapes = [(4, 6, 3), (100, 50, 3), (1, 1, 3)] * 5
    with stream((np.zeros(shape, np.uint8) for shape in shapes), find_nothing, policy="all") as frames:
        assert [frame.image.shape for frame in frames] == shapes


# -- ends --------------------------------------------------------------------------------------------------------------


def is_soon(condition: Callable[[], bool]) -> bool:
    """Whether it comes true within real seconds that only a hanging test needs."""
    until = time.monotonic() + 30
    while not condition() and time.monotonic() < until:
        time.sleep(0.005)
    return condition()


def test_leaving_the_loop_ends_the_thread() -> None:
    for frame in stream(pictures(), find_nothing):
        assert live_threads() == ["retinasdk live arrays"]
        if frame.index > 5:
            break
    assert is_soon(lambda: live_threads() == [])


def test_a_stream_that_is_never_iterated() -> None:
    held = [stream(pictures(), find_nothing)]
    assert is_soon(lambda: held[0].counters["arrays"].captured > 100)  # latest: it does not fill up
    held.clear()
    assert is_soon(lambda: live_threads() == [])


def test_an_error_of_the_caller_ends_the_thread() -> None:
    with contextlib.suppress(ZeroDivisionError), stream(pictures(), find_nothing) as frames:
        for _ in frames:
            raise ZeroDivisionError
    assert live_threads() == []


def test_the_iterator_is_closed_in_its_thread() -> None:
    seen = []

    def source() -> Iterator[Any]:
        try:
            yield from pictures()
        finally:
            seen.append(threading.current_thread().name)

    with stream(source(), find_nothing) as frames:
        next(frames)
    assert seen == ["retinasdk live arrays"]


@pytest.mark.parametrize("policy", ["latest", "all", "bounded:3", "bounded:3:newest"])
def test_close_from_another_thread(policy: str) -> None:
    """While the caller waits for a frame that never comes."""
    stop = threading.Event()

    def one_then_nothing() -> Iterator[Any]:
        yield numbered(0)
        stop.wait(30)

    frames = stream(one_then_nothing(), find_nothing, policy=policy)
    got: list[Frame] = []
    consumer = threading.Thread(target=lambda: got.extend(frames))
    consumer.start()
    assert is_soon(lambda: len(got) == 1)
    closers = [threading.Thread(target=frames.close) for _ in range(4)]
    for closer in closers:
        closer.start()
    consumer.join(30)
    stop.set()
    for closer in closers:
        closer.join(30)
    assert not consumer.is_alive()
    assert frames.closed
    assert len(got) == 1
    assert is_soon(lambda: live_threads() == [])


def test_close_while_the_detector_works() -> None:
    working, go_on = threading.Event(), threading.Event()

    def detector(image: Any) -> Any:
        working.set()
        go_on.wait(30)
        return Detections.empty(LABELS)

    frames = stream(pictures(), detector)
    got: list[Frame] = []
    consumer = threading.Thread(target=lambda: got.extend(frames))
    consumer.start()
    assert working.wait(30)
    frames.close()
    go_on.set()
    consumer.join(30)
    assert (consumer.is_alive(), got) == (False, [])


def test_close_in_on_state(caplog: pytest.LogCaptureFixture) -> None:
    opened: list[Any] = []

    def on_state(change: StateChange) -> None:
        if change.state == "streaming":
            assert is_soon(lambda: bool(opened))
            opened[0].close()

    frames = stream(pictures(), find_nothing, on_state=on_state)
    opened.append(frames)
    assert list(frames) == []
    assert is_soon(lambda: live_threads() == [])
    assert "blocks" not in caplog.text  # a thread that waited for its own end


def test_close_ends_the_wait_for_a_reconnection() -> None:
    class Never:
        name, live, on_demand = "never", True, False

        def open(self) -> None:
            raise OSError("no route")

        def read(self) -> None: ...

        def close(self) -> None: ...

    changes: list[StateChange] = []
    frames = stream(Never(), find_nothing, reconnect=Reconnect(first_s=3600, longest_s=3600), on_state=changes.append)
    assert is_soon(lambda: any(change.state == "reconnecting" for change in changes))
    frames.close()
    assert live_threads() == []
    assert list(frames) == []


def test_a_source_that_blocks_is_left_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("retinasdk.live.streaming._CLOSE_S", 0.05)
    stop, blocked = threading.Event(), threading.Event()

    def blocks() -> Iterator[Any]:
        blocked.set()
        stop.wait(30)
        yield numbered(0)

    frames = stream(blocks(), find_nothing)
    assert blocked.wait(30)
    frames.close()
    assert "arrays: blocks for more than" in caplog.text
    assert list(frames) == []
    stop.set()
    assert is_soon(lambda: live_threads() == [])


def test_many_streams_leave_nothing_behind() -> None:
    folder = "/proc/self/fd"
    before = len(os.listdir(folder)) if os.path.isdir(folder) else 0
    for count in (0, 1, 5, None) * 25:
        with stream(pictures(count), find_nothing, policy="bounded:4") as frames:
            for _ in itertools.islice(frames, 3):
                pass
    assert live_threads() == []
    assert (len(os.listdir(folder)) if os.path.isdir(folder) else 0) == before


# -- processes ---------------------------------------------------------------------------------------------------------


def run_program(text: str) -> subprocess.Popen[str]:
    head = """
        import itertools, os, signal, sys, threading, time
        import numpy as np
        from retinasdk import Detections
        from retinasdk.live import stream
        def find_nothing(image): return Detections.empty(("thing",))
        def pictures():
            while True:
                yield np.zeros((4, 6, 3), np.uint8)
                time.sleep(0.001)
    """
    program = textwrap.dedent(head) + textwrap.dedent(text)
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("policy", ["latest", "all"])
@pytest.mark.parametrize("where", ["waiting", "working"])
def test_ctrl_c(policy: str, where: str) -> None:
    with run_program(
        f"""
        def source():
            yield from itertools.islice(pictures(), 1)
            if {where == "waiting"}:
                print("ready")
                time.sleep(1.5)
            yield from pictures()
        try:
            for frame in stream(source(), find_nothing, policy={policy!r}):
                if {where == "working"}:
                    print("ready")
        except KeyboardInterrupt:
            print("threads", threading.active_count())
        """
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert out.endswith("threads 1\n")  # the signal may come within a print
    assert (process.returncode, err) == (0, "")


def test_a_forgotten_stream_does_not_keep_the_program() -> None:
    with run_program(
        """
        frames = stream(pictures(), find_nothing)
        next(frames)
        print("end")
        """
    ) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "end\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork_is_refused_clearly() -> None:
    with run_program(
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of fork with threads, rightly
        frames = stream(pictures(), find_nothing)
        next(frames)
        if os.fork() == 0:
            try:
                next(frames)
            except Exception as error:
                print(type(error).__name__, error)
            sys.exit()
        os.wait()
        print(next(frames).error)
        frames.close()
        """
    ) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    told, parent = out.splitlines()
    assert told.startswith("StreamError this stream belongs to another process: threads do not survive fork()")
    assert parent == "None"


def test_a_stream_is_not_sent_to_another_process() -> None:
    with stream(pictures(), find_nothing) as frames, pytest.raises(TypeError, match="make it there"):
        pickle.dumps(frames)


def _count_in_child(pipe: Any) -> None:
    with stream(pictures(5), find_nothing, policy="all") as frames:
        pipe.send(len(list(frames)))


def test_spawned_processes_have_their_own() -> None:
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=_count_in_child, args=(theirs,))
    child.start()
    assert ours.poll(60)
    assert ours.recv() == 5
    child.join(60)
    assert child.exitcode == 0


# -- metrics -----------------------------------------------------------------------------------------------------------


def test_histogram_against_numpy() -> None:
    random = np.random.default_rng(0)
    for scale in (1e-3, 0.02, 3.0):
        values = random.lognormal(np.log(scale), 1.0, 5000)
        histogram = Histogram()
        for value in values:
            histogram.add(float(value))
        assert histogram.count == 5000
        assert histogram.sum_s == pytest.approx(values.sum())
        assert (histogram.min_s, histogram.max_s) == (values.min(), values.max())
        for share in (0.0, 0.01, 0.5, 0.9, 0.99, 1.0):
            exact = float(np.quantile(values, share, method="inverted_cdf"))
            assert exact * (1 - 1e-9) <= histogram.quantile(share) <= exact * 1.0906
        buckets, total = histogram.cumulative()
        edges, counts = zip(*buckets, strict=True)
        assert list(counts) == [int((values <= edge).sum()) for edge in edges]
        assert (len(edges), counts[-1], total) == (26, 5000, histogram.sum_s)


def test_histogram_edges() -> None:
    histogram = Histogram()
    assert np.isnan(histogram.quantile(0.5))
    assert histogram.to_dict() == {"count": 0}
    assert {count for _, count in histogram.cumulative()[0]} == {0}
    for seconds in (0.0, 1e-9, 1e6):
        histogram.add(seconds)
    assert histogram.quantile(1.0) == 1e6
    buckets, _ = histogram.cumulative()
    assert (buckets[0], buckets[-2][1], buckets[-1]) == ((1e-5, 2), 2, (float("inf"), 3))
    with pytest.raises(ValueError, match="from 0 to 1, got 50"):
        histogram.quantile(50)


def test_metrics_print_and_export() -> None:
    metrics = Metrics()
    metrics.detect.add(0.02)
    assert metrics.to_dict()["detect"] == {
        "count": 1,
        "mean_s": 0.02,
        "p50_s": 0.02,
        "p95_s": 0.02,
        "max_s": 0.02,
    }
    assert list(metrics.to_dict()) == [
        "capture",
        "wait",
        "detect",
        "preprocess",
        "inference",
        "postprocess",
        "hand_over",
        "age",
    ]
    lines = str(metrics).splitlines()
    assert lines[3].split() == ["detect", "1", "20.0", "20.0", "20.0", "20.0"]
    assert lines[1].split() == ["capture", "0"]
