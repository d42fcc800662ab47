"""Which stage holds the rate back: measured over runs in simulated time whose bottleneck is known."""

from __future__ import annotations

import itertools
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from live_pictures import nothing_left  # noqa: F401
from live_world import LABELS, Camera, World, number_of

from retinasdk import Detections, Detector
from retinasdk.live import Clock, Load, RawFrame, stream
from retinasdk.pipeline.stage_timing import collect, stage

pytestmark = pytest.mark.usefixtures("nothing_left")


class Staged:
    """A detector with the stages of a `Detector`, each of so many simulated seconds, and a rest without a name."""

    def __init__(self, world: World, *, calls_at_once: int = 1, rest: float = 0.0, **seconds: float) -> None:
        self.calls_at_once = calls_at_once
        self._world, self._rest, self._seconds = world, rest, seconds

    def __call__(self, images: Any) -> Any:
        for name, seconds in self._seconds.items():
            with stage(name):  # type: ignore[arg-type]
                self._world.sleep(seconds)
        self._world.sleep(self._rest)
        return [Detections.empty(LABELS) for _ in images] if isinstance(images, list) else Detections.empty(LABELS)


class SlowToConvert(Camera):
    def read(self) -> RawFrame | None:
        raw = super().read()
        assert raw is not None

        def rgb() -> Any:
            self._world.sleep(0.05)
            return raw.rgb()

        return RawFrame(rgb)


def run_of(
    world: World,
    source: Any,
    detector: Any,
    *,
    count: int = 100,
    output_s: float = 0.0,
    policy: str = "all",
    max_fps: float | None = None,
) -> Load:
    with stream(source, detector, policy=policy, max_fps=max_fps, clock=world) as frames:
        for _ in itertools.islice(frames, count):
            world.sleep(output_s)
    return frames.metrics.load


# -- the bottleneck ----------------------------------------------------------------------------------------------------

QUICK = {"preprocess": 0.002, "inference": 0.005, "postprocess": 0.001}


@pytest.mark.parametrize("policy", ["latest", "all"])
@pytest.mark.parametrize(
    ("slow", "sentence"),
    [
        ("preprocess", r"Preprocessing holds the rate back: 40\.0 ms of 4\d\.\d ms a frame\."),
        ("inference", r"Inference holds the rate back: 40\.0 ms of 4\d\.\d ms a frame\."),
        ("postprocess", r"Post-processing holds the rate back: 40\.0 ms of 4\d\.\d ms a frame\."),
        (
            "output",
            r"The output \(drawing, writing, sending\) holds the rate back: .* ms of 4\d\.\d ms a frame\.",
        ),
        ("rest", r"The detector holds the rate back: 40\.0 ms of 4\d\.\d ms a frame\."),
    ],
)
def test_the_slow_stage_is_found(policy: str, slow: str, sentence: str) -> None:
    world = World()
    seconds = QUICK | ({slow: 0.04} if slow != "output" else {})
    camera = Camera(world, 0.01, live=False)
    load = run_of(world, camera, Staged(world, **seconds), policy=policy, output_s=0.04 if slow == "output" else 0.0)
    found = load.bottleneck()
    assert found is not None
    assert found.stage == {"rest": "detect"}.get(slow, slow)
    assert pytest.approx(found.frame_s, rel=0.05) == 0.04 + sum(QUICK.values()) - QUICK.get(slow, 0.0)
    assert found.frames == 100
    assert re.fullmatch(sentence, str(found))


def test_the_conversion_to_rgb() -> None:
    world = World()
    found = run_of(world, SlowToConvert(world, 0.01), Staged(world, **QUICK)).bottleneck()
    assert found is not None
    assert (found.stage, str(found)[:24]) == ("convert", "The conversion to RGB ho")


@pytest.mark.parametrize("policy", ["latest", "all"])
@pytest.mark.parametrize("calls_at_once", [1, 2])
def test_the_source(policy: str, calls_at_once: int) -> None:
    """Also where the detector is busy for most of the time: a faster one would not raise the rate."""
    for period_s in (0.012, 0.03, 0.2):
        world = World()
        detector = Staged(world, calls_at_once=calls_at_once, preprocess=0.001, inference=0.01)
        found = run_of(world, Camera(world, period_s, live=False), detector, policy=policy).bottleneck()
        assert found is not None
        assert found.stage == "source"
        assert found.frame_s == pytest.approx(period_s, rel=0.05)
        assert found.awaited >= 98
        assert str(found).startswith(
            f"The source holds the rate back: the detector waited for {found.awaited} of 100 frames, and a frame came "
            f"every {1000 * found.frame_s:.1f} ms."
        )


@pytest.mark.parametrize("calls_at_once", [1, 2])
def test_the_limit(calls_at_once: int) -> None:
    world = World()
    detector = Staged(world, calls_at_once=calls_at_once, inference=0.01)
    found = run_of(world, Camera(world, 0.002), detector, max_fps=20).bottleneck()
    assert found is not None
    assert found.stage == "limit"
    assert "and took one every 50.0 ms" in str(found) or "and took one every 49." in str(found)


def test_frames_at_a_time_are_not_counted_twice() -> None:
    """Two calls are in inference at once. The stage is busy all the time, and no longer than that."""
    world = World()
    detector = Staged(world, calls_at_once=2, preprocess=0.002, inference=0.04)
    load = run_of(world, Camera(world, 0.001, live=False), detector)
    found = load.bottleneck()
    assert found is not None
    assert found.stage == "inference"
    assert found.frame_s == pytest.approx(0.021, rel=0.05)
    assert 0.9 * found.frame_s < found.busy_s <= found.frame_s


def test_shares_of_the_time() -> None:
    """Of one call at a time, what the thread does fills the time."""
    world = World()
    detector = Staged(world, preprocess=0.01, inference=0.03, postprocess=0.005, rest=0.005)
    with stream(Camera(world, 0.001, live=False), detector, policy="all", clock=world) as frames:
        for _ in itertools.islice(frames, 100):
            world.sleep(0.05)
        metrics = frames.metrics
        shares = metrics.load.shares()
        assert shares["preprocess"] == pytest.approx(0.1, abs=0.01)
        assert shares["inference"] == pytest.approx(0.3, abs=0.01)
        assert shares["postprocess"] == pytest.approx(0.05, abs=0.01)
        assert shares["detect"] == pytest.approx(0.5, abs=0.01)
        assert shares["output"] == pytest.approx(0.5, abs=0.01)
        assert shares["detect"] + shares["output"] == pytest.approx(1.0)
        assert (shares["convert"], shares["queue"]) == (0.0, 0.0)
        table = {line.split()[0]: line.split()[-1] for line in str(metrics).splitlines()}
    assert (table["stage"], table["inference"], table["output"]) == ("busy", "30%", "50%")
    assert table["age"].endswith(".0")  # no stage that is busy, so only its longest duration


def test_a_slow_caller_of_two_calls_at_a_time() -> None:
    """Both calls are done before the caller wants their frames. Their time does not matter then."""
    world = World()
    detector = Staged(world, calls_at_once=2, preprocess=0.01, inference=0.03)
    found = run_of(world, Camera(world, 0.001, live=False), detector, output_s=0.045).bottleneck()
    assert found is not None
    assert (found.stage, found.frame_s) == ("output", pytest.approx(0.045, rel=0.05))


def test_several_sources_count_frames() -> None:
    world = World()
    cameras = [Camera(world, 0.01, name=name) for name in "abcd"]
    found = run_of(world, cameras, Staged(world, inference=0.1), count=200).bottleneck()
    assert found is not None
    assert (found.stage, found.frames) == ("inference", 200)
    assert found.busy_s == pytest.approx(0.025, rel=0.05)


def test_nothing_is_said_without_a_run() -> None:
    world = World()
    load = Load(world)
    assert load.bottleneck() is None
    load.took(1, "source")
    world.time_s += 1.0
    load.handed_over()
    assert load.bottleneck() is None  # one frame has no rate
    assert run_of(World(), Camera(World(), 0.01, count=0, live=False), number_of).bottleneck() is None


def test_a_break_after_the_last_frame_does_not_count() -> None:
    world = World()
    load = run_of(world, Camera(world, 0.001, live=False), Staged(world, inference=0.01), count=50)
    before = load.bottleneck()
    world.time_s += 1000.0
    assert load.bottleneck() == before


# -- busy time ---------------------------------------------------------------------------------------------------------


def test_busy_time_against_a_timeline() -> None:
    """Intervals of several threads at random: busy is the length of their union."""
    random = np.random.default_rng(0)
    for _ in range(50):
        world = World()
        load = Load(world)
        begins = random.integers(0, 100, 12)
        ends = begins + random.integers(1, 30, 12)
        covered = np.zeros(200, bool)
        for begin, end in zip(begins, ends, strict=True):
            covered[begin:end] = True
        for second in range(200):
            for _ in range(int((ends == second).sum())):
                load.end("inference")
            for _ in range(int((begins == second).sum())):
                load.begin("inference")
            assert load.busy_s("inference") == covered[:second].sum()
            world.time_s += 1.0
    assert load.busy_s("preprocess") == 0.0


def test_busy_ends_with_an_error() -> None:
    world = World()
    load = Load(world)

    def fail() -> None:
        with load.during("detect"):
            world.time_s += 2.0
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    world.time_s += 2.0
    assert load.busy_s("detect") == 2.0


def test_threads_count_together() -> None:
    load, meeting = Load(Clock()), threading.Barrier(8)

    def work(_: int) -> None:
        meeting.wait(30)
        for _ in range(300):
            with load.during("inference"):
                pass
            load.took(1, "source")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert load._threads["inference"] == 0
    assert load.awaited("source") == 8 * 300 - 1
    assert load.busy_s("inference") > 0


def test_stages_of_a_detector_are_watched(detector: Detector) -> None:
    """Collectors may be nested: a call of a `Detector` collects for itself, too."""
    load = Load(Clock())
    with collect(load.during) as seconds:
        detector(np.zeros((90, 120, 3), np.uint8))
    assert set(seconds) == {"preprocess", "inference", "postprocess"}
    assert all(load.busy_s(name) > 0 for name in seconds)
    before = load.busy_s("inference")
    detector(np.zeros((90, 120, 3), np.uint8))
    assert load.busy_s("inference") == before
