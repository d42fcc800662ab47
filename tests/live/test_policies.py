"""What each policy lets through, in a simulated world where every second is exact; and the age of frames it gives."""

from __future__ import annotations

import itertools
from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_world import Camera, Slow, World, number_of

from retinasdk.live import Policy, bounded, every, latest, stream
from retinasdk.live.policies import Playback, RateCap, as_policy


def run(camera: Camera, detector: Slow, world: World, frames: int | None = None, **options: Any) -> list[Any]:
    with stream(camera, detector, clock=world, **options) as opened:
        return list(itertools.islice(opened, frames))


# -- the rules alone ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "line", "dropped"),
    [
        (latest(), [9], 9),
        (bounded(3), [7, 8, 9], 7),
        (bounded(3, drop="newest"), [0, 1, 2], 7),
        (bounded(20), list(range(10)), 0),
    ],
)
def test_ten_frames_and_no_detector(policy: Policy, line: list[int], dropped: int) -> None:
    waiting: deque[int] = deque()
    assert sum(policy.admit(waiting, number) for number in range(10)) == dropped
    assert list(waiting) == line
    assert policy.has_room(len(waiting))


def test_every_holds_the_source_back() -> None:
    assert [every().has_room(waiting) for waiting in range(4)] == [True, True, False, False]


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("latest", latest()),
        ("all", every()),
        ("bounded:8", bounded(8)),
        ("bounded:8:oldest", bounded(8)),
        ("bounded:1:newest", bounded(1, drop="newest")),
    ],
)
def test_names_of_policies(text: str, policy: Policy) -> None:
    assert as_policy(text) == policy
    assert as_policy(policy) is policy


@pytest.mark.parametrize("text", ["", "newest", "latest:3", "bounded", "bounded:", "bounded:-1", "bounded:3:both"])
def test_unknown_policies(text: str) -> None:
    with pytest.raises(ValueError, match="policy must be 'latest', 'all', 'bounded:N'"):
        as_policy(text)


def test_unusable_options() -> None:
    with pytest.raises(ValueError, match="room for at least 1 frame, got 0"):
        bounded(0)
    with pytest.raises(ValueError, match="drop must be 'oldest' or 'newest', got 'all'"):
        bounded(3, drop="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="when_full must be"):
        Policy(1, "explode")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="policy must be a Policy or its name, got int"):
        as_policy(3)  # type: ignore[arg-type]
    for options in ({"max_fps": 0}, {"deadline_s": 0}, {"speed": -1}, {"max_failures": 0}, {"max_fps": float("nan")}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
            stream(iter([]), lambda image: None, **options)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="detector must be a Detector or a function, got str"):
        stream(iter([]), "people")  # type: ignore[arg-type]


# -- whole streams, simulated ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("period_s", [0.4, 0.1, 0.01, 0.0007])
def test_latest_bounds_the_age_whatever_the_rate(period_s: float) -> None:
    """A detector of one second: a frame is at most one period old when it is taken, and one second more at the end."""
    world = World()
    frames = run(Camera(world, period_s), Slow(world, 1.0), world, 50)
    assert len(frames) == 50
    assert max(frame.age_s for frame in frames) <= 1.0 + period_s + 1e-9
    assert min(frame.age_s for frame in frames) >= 1.0 - 1e-9
    # No second is idle: the fiftieth frame is done fifty detections after the first was there.
    assert world.now() == pytest.approx(100.0 + period_s + 50.0, abs=period_s + 1e-6)
    last = frames[-1].counters
    assert last.processed == 50
    assert last.captured == pytest.approx(50.0 / period_s, rel=0.02, abs=2)
    assert last.captured - last.processed - last.dropped in (0, 1)


def test_all_would_not_bound_it_on_a_line() -> None:
    """What `latest` is for: with room for 20 and a detector ten times too slow, age grows to the whole line's."""
    world = World()
    frames = run(Camera(world, 0.1), Slow(world, 1.0), world, 40, policy="bounded:20")
    ages = [frame.age_s for frame in frames]
    assert ages[0] == pytest.approx(1.0)
    assert ages[-1] == pytest.approx(3.0, abs=0.11)  # 20 frames of 0.1 s, and the detection


def test_latest_takes_the_newest_and_waits_where_the_detector_is_faster() -> None:
    world = World()
    slow = run(Camera(world, 0.3), Slow(world, 1.0), world, 5)
    # Frame n is there at 0.3 (n + 1). Detections begin at 0.3, 1.3, 2.3, 3.3, 4.3, each with the last one before.
    # At 3.3 the eleventh comes at the same instant: either is right, and the world is fair to the first in line.
    assert [frame.index for frame in slow][:3] == [0, 3, 6]
    assert [number_of(frame.image) for frame in slow] == [frame.index for frame in slow]
    world = World()
    fast = run(Camera(world, 0.3), Slow(world, 0.1), world, 5)
    assert [frame.index for frame in fast] == [0, 1, 2, 3, 4]
    assert [frame.age_s for frame in fast] == pytest.approx([0.1] * 5)
    assert fast[-1].counters.dropped == 0


def test_all_gives_every_frame_and_stops_the_source() -> None:
    world = World()
    camera, detector = Camera(world, 0.01, count=30, live=False), Slow(world, 1.0)
    with stream(camera, detector, clock=world, policy="all") as frames:
        for number, frame in enumerate(frames):
            assert frame.index == number
            # Read ahead: those in line and the one being read.
            assert camera.next <= number + 1 + 2 + 1
    assert detector.calls == [[number] for number in range(30)]
    assert (frame.counters.captured, frame.counters.processed, frame.counters.dropped) == (30, 30, 0)


def test_bounded_rides_out_a_delay_of_the_detector() -> None:
    world = World()
    detector = Slow(world, 0.05, fail=lambda number: False)
    camera = Camera(world, 0.1, count=60, live=False)
    indices = []
    with stream(camera, detector, clock=world, policy="bounded:10") as frames:
        for frame in frames:
            indices.append(frame.index)
            if frame.index == 20:
                world.sleep(0.75)  # the caller is busy for seven frames
    assert indices == list(range(60))


def test_bounded_newest_keeps_the_first() -> None:
    world = World()
    frames = run(Camera(world, 0.1), Slow(world, 10.0), world, 4, policy="bounded:2:newest")
    assert [frame.index for frame in frames[:3]] == [0, 1, 2]
    assert frames[3].index > 90


@pytest.mark.parametrize(("max_fps", "count"), [(2.0, 20), (5.0, 50), (3.0, 30)])
def test_frame_rate_cap(max_fps: float, count: int) -> None:
    world = World()
    frames = run(Camera(world, 1 / 64), Slow(world, 1 / 128), world, count, max_fps=max_fps)
    taken = [frame.captured_s for frame in frames]
    assert (taken[-1] - taken[0]) / (count - 1) == pytest.approx(1 / max_fps, rel=0.01)
    # The cap never makes frames stale: the newest is taken when the beat comes.
    assert max(frame.age_s for frame in frames) <= 1 / 64 + 1 / 128 + 1e-9


def test_frame_rate_cap_under_all_slows_the_source() -> None:
    world = World()
    frames = run(Camera(world, 0.01, count=20, live=False), Slow(world, 0.01), world, max_fps=4.0, policy="all")
    assert [frame.index for frame in frames] == list(range(20))
    assert world.now() - 100.0 == pytest.approx(0.01 + 19 / 4.0 + 0.01, abs=0.02)


def test_the_beat_is_kept_by_what_is_a_little_late() -> None:
    cap = RateCap(4.0)
    for now, next_s in ((0.0, 0.25), (0.25, 0.5), (0.65, 0.75), (0.8, 1.0), (2.0, 2.25)):
        cap.took(now)
        assert cap.next_s == next_s


@given(st.lists(st.floats(0.0, 3.0), min_size=2, max_size=60), st.floats(0.5, 50.0))
def test_frame_rate_cap_holds_for_any_arrivals(gaps: list[float], max_fps: float) -> None:
    """In any window of time there are at most so many frames as fit, plus the one on its edge and one for the beat."""
    cap, now, taken = RateCap(max_fps), 0.0, []
    for gap in gaps:
        now = max(now + gap, cap.next_s)
        cap.took(now)
        taken.append(now)
    for first, last in itertools.combinations(range(len(taken)), 2):
        assert last - first <= (taken[last] - taken[first]) * max_fps + 1 + 1e-6


def test_deadline_drops_what_is_too_old() -> None:
    world = World()
    frames = run(
        Camera(world, 0.1, count=100, live=False), Slow(world, 1.0), world, policy="bounded:20", deadline_s=0.45
    )
    # Taken at an age of at most 0.45, one second of work: no frame is given that is older than both.
    assert max(frame.age_s for frame in frames) <= 1.45 + 1e-9
    last = frames[-1].counters
    assert last.captured == 100
    assert last.dropped > 0
    # Of the line of 20 the first that is young enough is taken: 4 or 5 frames, and not the newest.
    assert frames[5].age_s > 1.25


def test_several_sources_go_to_the_detector_together() -> None:
    world = World()
    detector = Slow(world, 0.5)
    cameras = {f"cam{n}": Camera(world, 0.1 + 0.02 * n, name="same") for n in range(3)}
    with stream(cameras, detector, clock=world) as opened:
        frames = list(itertools.islice(opened, 30))
    assert {frame.source for frame in frames} == {"cam0", "cam1", "cam2"}
    assert [len(call) for call in detector.calls[1:9]] == [3] * 8
    assert max(frame.age_s for frame in frames) <= 0.5 + 0.14 + 1e-9
    assert set(opened.counters) == {"cam0", "cam1", "cam2"}


def test_a_slow_source_does_not_hold_back_a_fast_one() -> None:
    world = World()
    cameras = [Camera(world, 0.1, name="fast"), Camera(world, 5.0, name="slow")]
    with stream(cameras, Slow(world, 0.05), clock=world) as opened:
        frames = list(itertools.islice(opened, 200))
    fast = [frame.index for frame in frames if frame.source == "fast"]
    assert fast == list(range(len(fast)))
    assert 2 <= sum(frame.source == "slow" for frame in frames) <= 5


def test_sources_of_one_name_are_told_apart() -> None:
    world = World()
    cameras = [Camera(world, 0.1, count=2, live=False), Camera(world, 0.1, count=2, live=False)]
    with stream(cameras, Slow(world, 0.05), clock=world) as opened:
        assert {frame.source for frame in opened} == {"camera (0)", "camera (1)"}


def test_stage_times_add_up_to_the_age() -> None:
    world = World()
    metrics_of = stream(Camera(world, 0.3), Slow(world, 1.0), clock=world)
    with metrics_of as opened:
        ages = [frame.age_s for frame in itertools.islice(opened, 20)]
    metrics = opened.metrics
    assert metrics.age.count == 20
    assert metrics.age.sum_s == pytest.approx(sum(ages))
    assert metrics.wait.sum_s + metrics.detect.sum_s + metrics.hand_over.sum_s == pytest.approx(sum(ages))
    assert metrics.detect.min_s == metrics.detect.max_s == pytest.approx(1.0)
    assert metrics.capture.min_s == pytest.approx(0.3)


def test_a_slow_caller_shows_in_the_hand_over_of_a_batch() -> None:
    world = World()
    cameras = [Camera(world, 0.1, name="a"), Camera(world, 0.1, name="b")]
    with stream(cameras, Slow(world, 0.1), clock=world) as opened:
        for _ in itertools.islice(opened, 10):
            world.sleep(1.0)
    assert opened.metrics.hand_over.max_s == pytest.approx(1.0)


# -- playback ----------------------------------------------------------------------------------------------------------


def test_playback_speed() -> None:
    playback = Playback(2.0)
    assert [playback.due_s(time_s, 50.0) for time_s in (7.0, 7.5, 9.0)] == [50.0, 50.25, 51.0]


@pytest.mark.parametrize("jump_s", [-3.0, 1000.0])
def test_playback_goes_on_after_a_jump_in_time(jump_s: float) -> None:
    playback = Playback(1.0)
    playback.due_s(10.0, 50.0)
    assert playback.due_s(11.0, 50.9) == 51.0
    assert playback.due_s(11.0 + jump_s, 51.1) == 51.1
    assert playback.due_s(11.5 + jump_s, 51.2) == 51.6
