"""Measuring which convolutions are faster, with sessions and a clock that are made up."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from retinasdk.backends.contest import LIMIT_S, BusyError, Contest, DisagreementError, Size, sizes_to_measure


class World:
    """Sessions that take a time for each pixel, and a clock that knows it."""

    def __init__(self, **nanoseconds: float) -> None:
        self.nanoseconds = nanoseconds
        self.now = 0.0
        self.open: list[str] = []
        self.calls: list[tuple[str, Size]] = []
        self.spoilt: dict[str, float] = {}
        self.slow_calls: dict[int, float] = {}

    def opens(self, name: str) -> Callable[[], Any]:
        world = self

        class Session:
            def __init__(self) -> None:
                self.name = name
                world.open.append(name)

            def __del__(self) -> None:
                world.open.remove(name)

        return Session

    def run(self, session: Any, size: Size) -> Sequence[npt.NDArray[np.float32]]:
        self.now += self.nanoseconds[session.name] * 1e-9 * size[0] * size[1] + self.slow_calls.get(len(self.calls), 0)
        self.calls.append((session.name, size))
        values = np.random.default_rng(0).standard_normal((2, 3, *size), np.float32)
        return [values, values + np.float32(self.spoilt.get(session.name, 0.0))]

    def contest(self, *sizes: Size) -> Contest:
        pauses: Callable[[float], None] = lambda seconds: None  # noqa: E731
        return Contest(self.opens("direct"), self.opens("blocked"), self.run, sizes, lambda: self.now, pauses)


def test_both_take_turns() -> None:
    world = World(direct=100, blocked=50)
    times, direct, blocked = world.contest((100, 100)).together()
    assert (times.direct, times.blocked) == (pytest.approx(1.0), pytest.approx(0.5))
    assert [name for name, _ in world.calls[2:]] == ["direct", "blocked"] * 4
    assert (direct.name, blocked.name) == ("direct", "blocked")


def test_large_files_are_measured_one_after_the_other() -> None:
    world = World(direct=100, blocked=50)
    seen = []
    contest = world.contest((100, 100))
    run = dataclasses.replace(contest, run=lambda *arguments: (seen.append([*world.open]), world.run(*arguments))[1])
    times, last = run.one_after_the_other()
    assert (times.direct, times.blocked) == (pytest.approx(1.0), pytest.approx(0.5))
    assert all(len(names) == 1 for names in seen)
    assert last.name == "blocked"


def test_other_work_on_the_machine_counts_little() -> None:
    world = World(direct=100, blocked=90)
    world.slow_calls = {3: 5.0, 4: 0.01, 7: 2.0}
    times = world.contest((1000, 1000)).together()[0]
    assert (times.direct, times.blocked) == (pytest.approx(100), pytest.approx(90))


def test_what_is_not_clear_is_measured_again() -> None:
    world = World(direct=100, blocked=50)
    world.slow_calls = dict.fromkeys((5, 7, 9), 0.06)  # Those of the other convolutions, all by the same.
    times = world.contest((1000, 1000)).together()[0]
    assert (times.direct, times.blocked) == (pytest.approx(100), pytest.approx(50))


# In the first look, two of three calls of one session are slow, and in the second look all three.
@pytest.mark.parametrize(
    "slow_calls", [{4: 0.1, 6: 0.2, 10: 0.1, 12: 0.1, 14: 0.1}, {5: 0.1, 7: 0.2, 11: 0.1, 13: 0.1, 15: 0.1}]
)
def test_a_busy_machine_is_noticed(slow_calls: dict[int, float]) -> None:
    world = World(direct=100, blocked=90)
    world.slow_calls = slow_calls
    with pytest.raises(BusyError, match=r"calls take from (100|90) to (300|290) ms"):
        world.contest((1000, 1000)).together()


@pytest.mark.parametrize("slow_calls", [{4: 0.1, 6: 0.2}, {5: 0.1, 7: 0.2}])
def test_a_machine_that_is_busy_for_a_second_is_measured_again(slow_calls: dict[int, float]) -> None:
    world = World(direct=100, blocked=90)
    world.slow_calls = slow_calls
    times = world.contest((1000, 1000)).together()[0]
    assert (times.direct, times.blocked) == (pytest.approx(100), pytest.approx(90))


@pytest.mark.parametrize("nanoseconds", [{"direct": 100, "blocked": 30}, {"direct": 30, "blocked": 100}])
def test_what_is_clear_is_clear_on_a_busy_machine(nanoseconds: dict[str, float]) -> None:
    """No call of the slower one took less than 100 ms, and no call of the faster one more than 80."""
    world = World(**nanoseconds)
    slow, fast = ((4, 6), (5, 7)) if nanoseconds["direct"] == 100 else ((5, 7), (4, 6))
    world.slow_calls = {slow[0]: 0.1, slow[1]: 0.2, fast[0]: 0.02, fast[1]: 0.05}
    expected = (pytest.approx(nanoseconds["direct"]), pytest.approx(nanoseconds["blocked"]))
    times = world.contest((1000, 1000)).together()[0]
    assert (times.direct, times.blocked) == expected


def test_large_files_on_a_busy_machine() -> None:
    world = World(direct=100, blocked=50)
    world.slow_calls = {3: 0.1, 4: 0.2}
    times = world.contest((1000, 1000)).one_after_the_other()[0]
    assert (times.direct, times.blocked) == (pytest.approx(100), pytest.approx(50))
    world = World(direct=100, blocked=90)
    world.slow_calls = {3: 0.1, 4: 0.2}
    with pytest.raises(BusyError, match="calls take from 100 to 300 ms"):
        world.contest((1000, 1000)).one_after_the_other()


@pytest.mark.parametrize("nanoseconds", [1, 100, 1000, 10_000, 100_000])
def test_measuring_takes_about_two_seconds(nanoseconds: float) -> None:
    world = World(direct=nanoseconds, blocked=nanoseconds / 2)
    sizes = sizes_to_measure((800, 1088), multiple=32)
    assert sizes == [(800, 1088), (416, 544), (224, 288)]
    times = world.contest(*sizes).together()[0]
    smallest = nanoseconds * 1e-9 * 224 * 288
    assert world.now <= max(1.5 * LIMIT_S, 6.6 * smallest)
    assert (times.height, times.width) == world.calls[-1][1]
    if nanoseconds <= 100:
        assert (times.height, times.width) == (800, 1088)


def test_sizes_to_measure() -> None:
    assert sizes_to_measure((256, 320), multiple=32) == [(256, 320)]
    assert sizes_to_measure((640, 768), multiple=128) == [(640, 768), (384, 384), (256, 256)]
    assert sizes_to_measure((800, 1067), multiple=32) == [(800, 1067), (416, 544), (224, 288)]
    assert sizes_to_measure((4096, 4096), multiple=4096) == [(4096, 4096)]
    assert max(sizes_to_measure((65536, 65536), multiple=32)[-1]) <= 320


@pytest.mark.parametrize("spoilt", [0.3, -2.0, float("nan"), float("inf")])
def test_other_results_are_refused(spoilt: float) -> None:
    world = World(direct=100, blocked=50)
    world.spoilt["blocked"] = spoilt
    with pytest.raises(DisagreementError, match="an output differs by"):
        world.contest((100, 100)).together()
    with pytest.raises(DisagreementError, match="an output differs by"):
        world.contest((100, 100)).one_after_the_other()
