"""What a stream survives: lost sources, corrupt frames, failing detectors. Time is simulated where it matters."""

from __future__ import annotations

import itertools
import logging
from typing import Any

import numpy as np
import pytest
from live_pictures import drain, find_nothing, live_threads, nothing_left, pictures  # noqa: F401
from live_world import Camera, Slow, World, number_of, numbered

from retinasdk.live import CorruptFrameError, Frame, RawFrame, Reconnect, StateChange, StreamError, stream

pytestmark = pytest.mark.usefixtures("nothing_left")
STEADY = Reconnect(jitter=0.0)


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
    reconnect = Reconnect(first_s=1.0, longest_s=5.0, jitter=0.0, attempts=5, first_attempts=5)
    changes: list[StateChange] = []
    with (
        stream(camera, Slow(world, 0.1), clock=world, reconnect=reconnect, on_state=changes.append) as frames,
        pytest.raises(StreamError, match=r"^camera: no route \(tried 6 times\)$") as raised,
    ):
        next(frames)
    assert isinstance(raised.value.__cause__, OSError)
    opens = [when - 100.0 for event, when in camera.log if event == "open"]
    assert opens == pytest.approx([0.0, 1.0, 3.0, 7.0, 12.0, 17.0])
    assert [change.wait_s for change in changes if change.state == "reconnecting"] == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert changes[-1].state == "lost"
    assert [event for event, _ in camera.log] == ["open", "close"] * 6


def test_a_camera_that_never_worked_is_reported_at_once() -> None:
    """A wrong address is a mistake to report, not a connection to wait for, however patient the stream is later."""
    world = World()
    camera = Camera(world, 0.1, opens=(OSError("no route"),) * 20)
    with (
        stream(camera, Slow(world, 0.1), clock=world, reconnect=Reconnect(attempts=None)) as frames,
        pytest.raises(StreamError, match=r"^camera: no route$"),
    ):
        next(frames)
    assert [event for event, _ in camera.log] == ["open", "close"]
    assert world.now() == 100.0


def test_a_camera_that_worked_is_given_all_attempts() -> None:
    world = World()
    camera = Camera(world, 0.1, script={3: OSError("cable out")}, opens=(None, *(OSError("no route"),) * 20))
    reconnect = Reconnect(first_s=1.0, jitter=0.0, attempts=7, first_attempts=0)
    with (
        stream(camera, Slow(world, 0.01), clock=world, reconnect=reconnect, policy="all") as frames,
        pytest.raises(StreamError, match=r"^camera: no route$"),
    ):
        drain(frames)
    assert [event for event, _ in camera.log] == ["open", "close"] * 8


def test_without_a_limit_a_camera_may_come_at_any_time() -> None:
    world = World()
    camera = Camera(world, 0.1, opens=(OSError("no route"),) * 50)
    reconnect = Reconnect(jitter=0.0, first_attempts=None)
    with stream(camera, Slow(world, 0.01), clock=world, reconnect=reconnect) as frames:
        assert next(frames).index == 0


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
    assert Reconnect(attempts=5).wait_s(1, random.Random(0), worked=False) is None
    assert Reconnect(attempts=0, first_attempts=1).wait_s(1, random.Random(0), worked=False) is not None
    assert Reconnect(attempts=3, first_attempts=None).wait_s(3, random.Random(0), worked=False) is not None
    for options in (
        {"first_s": -1.0},
        {"first_s": 31.0},
        {"jitter": -0.1},
        {"attempts": -1},
        {"attempts": 1.5},
        {"first_attempts": -1},
    ):
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
            self.frames = [
                RawFrame(lambda: np.zeros((2, 2, 2), np.uint8)),
                RawFrame(lambda: 1 / 0),
                RawFrame(lambda: numbered(7)),
            ]  # type: ignore[arg-type,return-value]

        def open(self) -> None: ...

        def read(self) -> RawFrame | None:
            return self.frames.pop(0) if self.frames else None

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
