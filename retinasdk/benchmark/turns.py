"""Timing in turns, so that other work on the machine slows all contestants alike, and what is made of the times."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

Steps = Mapping[str, Callable[[int], object]]
Times = dict[str, "npt.NDArray[np.float64]"]


@dataclass(frozen=True)
class Spread:
    """The quartiles of many measurements."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: npt.NDArray[np.float64]) -> Spread:
        low, median, high = np.percentile(values, [25, 50, 75])
        return cls(float(low), float(median), float(high))


def take_turns(
    contestants: Sequence[Steps],
    *,
    rounds: int,
    warmup: int,
    clock: Callable[[], float],
    progress: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> list[Times]:
    """Milliseconds of each contestant's steps, (rounds,) float64 by the step's name.

    Contestants take turns (A B A B ...), and run all their steps in a turn, in order; each is called with the number of
    the round, from 0. The first `warmup` rounds are not timed. clock: seconds. progress: wraps the sequence of rounds.
    """
    times: list[dict[str, list[float]]] = [{name: [] for name in steps} for steps in contestants]
    for turn in progress(range(warmup + rounds)):
        for steps, found in zip(contestants, times, strict=True):
            for name, step in steps.items():
                start = clock()
                result = step(turn)
                elapsed = clock() - start
                del result  # freed outside the timed part
                if turn >= warmup:
                    found[name].append(1000.0 * elapsed)
    return [{name: np.array(values) for name, values in found.items()} for found in times]
