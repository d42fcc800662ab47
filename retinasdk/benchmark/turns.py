"""Times configurations alternately, so that other work on the machine slows all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from retinasdk._util.progress import ProgressCallback, tracked

if TYPE_CHECKING:
    import numpy.typing as npt

Steps = Mapping[str, Callable[[int], object]]
Times = dict[str, "npt.NDArray[np.float64]"]


@dataclass(frozen=True)
class Spread:
    """Quartiles of a set of measurements.

    Attributes:
        low: First quartile.
        median: Median.
        high: Third quartile.
    """

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: npt.NDArray[np.float64]) -> Spread:
        """Computes the quartiles of an array."""
        low, median, high = np.percentile(values, [25, 50, 75])
        return cls(float(low), float(median), float(high))


def take_turns(
    contestants: Sequence[Steps],
    *,
    rounds: int,
    warmup: int,
    clock: Callable[[], float],
    progress: ProgressCallback | None = None,
) -> list[Times]:
    """Times contestants alternately (A B A B ...).

    In each round every contestant runs all its steps in order. A step is called with the number of the round, from 0.

    Args:
        contestants: The steps of each contestant, by name.
        rounds: Timed rounds.
        warmup: Rounds before them that are not timed.
        clock: Returns the time in seconds.
        progress: Called with a `Progress` for each round, also those that are not timed.

    Returns:
        For each contestant, the milliseconds of each step, (rounds,) float64 by the step's name.
    """
    times: list[dict[str, list[float]]] = [{name: [] for name in steps} for steps in contestants]
    for turn in tracked(range(warmup + rounds), progress, "time", "round"):
        for steps, found in zip(contestants, times, strict=True):
            for name, step in steps.items():
                start = clock()
                result = step(turn)
                elapsed = clock() - start
                del result  # freed outside the timed section
                if turn >= warmup:
                    found[name].append(1000.0 * elapsed)
    return [{name: np.array(values) for name, values in found.items()} for found in times]
