"""Measures which convolutions run a network faster on this machine.

Note: How networks are measured

    Both sessions run the same noise, in turn, with a pause before each call in which threads of the other one stop. The
    first call of each is not timed. Of two or three rounds, the fastest counts, because other work on the machine only
    ever adds time. If no other round is nearly as fast, the machine is too busy, and the times are not used. There is
    one exception: if each call of one session was clearly faster than each call of the other, they are used.

    All of it takes about two seconds or less, and up to five if ours are not clearly faster or the machine is busy,
    because both are measured again then. Where calls are too long for that, a smaller input is measured, down to sides
    of 320 pixels. How long calls are is predicted from two on the smallest input.

    For large files, the second session is opened after the first one is closed, so that measuring needs no more memory
    than running the network.

    The outputs are compared, too. They differ by rounding, and by more only if something is broken, such as a virtual
    machine that promises instructions which it emulates wrongly. Then the convolutions of ONNX Runtime are used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from retinasdk.backends.tuning import Times

Size = tuple[int, int]
Run = Callable[[Any, Size], Sequence[npt.NDArray[np.float32]]]

LIMIT_S = 2.5
LEAST_ROUNDS, MOST_ROUNDS = 2, 3
_CALLS_OF_A_ROUND = 1.5  # A call of retinasdk takes about half as long as one of ONNX Runtime.
_PAUSE_S = 0.02
_MOST_DIFFERENCE = 0.1  # Of the standard deviation of an output. Rounding in 8 bits makes some hundredths.
_SAMPLES = 4096  # of each output, to keep little
_SMALL = 320  # pixels
_MOST_SPREAD = 1.25
# What takes less than this share of the time is clearly faster. Unless ours are, both are measured again after a while.
# Other programs that slow one session more than the other for a second would otherwise decide for good.
_CLEARLY, _SECOND_LOOK_S = 0.85, 1.0


class BusyError(Exception):
    """Says that times differ too much between rounds."""


class DisagreementError(Exception):
    """Says that the outputs of both sessions differ by more than rounding."""


@dataclass(frozen=True)
class Contest:
    """Measures two ways to run a network.

    Attributes:
        open_direct: Opens the session with the convolutions of ONNX Runtime.
        open_blocked: Opens the one with those of retinasdk.
        run: Runs a session on noise of a size, and returns the outputs.
        sizes: Sizes of the input that may be measured, the best one first.
        clock: Returns the time in seconds.
        pause: Waits for some seconds.
    """

    open_direct: Callable[[], Any]
    open_blocked: Callable[[], Any]
    run: Run
    sizes: Sequence[Size]
    clock: Callable[[], float] = time.perf_counter
    pause: Callable[[float], None] = time.sleep

    def together(self) -> tuple[Times, Any, Any]:
        """Measures both in turn, and returns the times and both sessions.

        Raises:
            BusyError: If the times are not reliable.
            DisagreementError: If the outputs differ.
        """
        direct = self.open_direct()
        blocked = self.open_blocked()
        size, rounds = self._plan(direct)
        self._compare(self._sampled(direct, size), self._sampled(blocked, size))
        turns = [(self._time(direct, size), self._time(blocked, size)) for _ in range(rounds)]
        if not _is_settled(*zip(*turns, strict=True)):
            self.pause(_SECOND_LOOK_S)
            turns += [(self._time(direct, size), self._time(blocked, size)) for _ in range(rounds)]
        return Times(*_fastest_of_both(*zip(*turns, strict=True)), *size), direct, blocked

    def one_after_the_other(self) -> tuple[Times, Any]:
        """Measures one, closes it, measures the other one, and returns the times and the session of the latter.

        Raises:
            BusyError: If the times are not reliable.
            DisagreementError: If the outputs differ.
        """
        direct = self.open_direct()
        size, rounds = self._plan(direct)
        expected = self._sampled(direct, size)
        direct_times = [self._time(direct, size) for _ in range(rounds)]
        del direct
        blocked = self.open_blocked()
        self._compare(expected, self._sampled(blocked, size))
        blocked_times = [self._time(blocked, size) for _ in range(rounds)]
        return Times(*_fastest_of_both(direct_times, blocked_times), *size), blocked

    def _plan(self, session: Any) -> tuple[Size, int]:
        """Returns the size to measure, and the number of rounds."""
        smallest = self.sizes[-1]
        self.run(session, smallest)
        took = self._time(session, smallest) / 1e3
        for size in self.sizes:
            predicted = took * (size[0] * size[1]) / (smallest[0] * smallest[1])
            rounds = int(min(MOST_ROUNDS, LIMIT_S / max(predicted, _PAUSE_S) / _CALLS_OF_A_ROUND - 1))
            if rounds >= LEAST_ROUNDS:
                return size, rounds
        return smallest, LEAST_ROUNDS

    def _time(self, session: Any, size: Size) -> float:
        """Returns the milliseconds of a call."""
        self.pause(_PAUSE_S)
        start = self.clock()
        self.run(session, size)
        return (self.clock() - start) * 1e3

    def _sampled(self, session: Any, size: Size) -> list[npt.NDArray[np.float32]]:
        self.pause(_PAUSE_S)
        return [output.ravel()[:: max(1, output.size // _SAMPLES)].copy() for output in self.run(session, size)]

    @staticmethod
    def _compare(expected: Sequence[npt.NDArray[np.float32]], found: Sequence[npt.NDArray[np.float32]]) -> None:
        for one, other in zip(expected, found, strict=True):
            difference = np.sqrt(np.mean(np.square(one - other, dtype=np.float64)))
            if not difference <= _MOST_DIFFERENCE * one.std(dtype=np.float64):
                raise DisagreementError(f"an output differs by {difference:.3g}, its deviation is {one.std():.3g}")


def _is_settled(direct: Sequence[float], blocked: Sequence[float]) -> bool:
    """Whether ours are clearly faster, so that nothing needs to be measured again."""
    try:
        one, other = _fastest_of_both(direct, blocked)
    except BusyError:
        return False
    return other <= _CLEARLY * one


def _fastest_of_both(direct: Sequence[float], blocked: Sequence[float]) -> tuple[float, float]:
    """Returns the fastest call of each. Raises BusyError if neither is clearly faster and times are not reliable."""
    one, other = min(direct), min(blocked)
    if max(blocked) < _CLEARLY * one or max(direct) < _CLEARLY * other:
        return one, other
    return _fastest(direct), _fastest(blocked)


def _fastest(times: Sequence[float]) -> float:
    first, second, *_ = sorted(times)
    if second > _MOST_SPREAD * first:
        raise BusyError(f"calls take from {first:.4g} to {max(times):.4g} ms")
    return first


def sizes_to_measure(size: Size, *, multiple: int) -> list[Size]:
    """Returns a size and smaller ones, halved until the first call takes little time on any processor.

    Args:
        size: (height, width) of the network input in pixels.
        multiple: Sides of smaller inputs are multiples of this many pixels.
    """
    sizes, part = [size], 2
    while max(sizes[-1]) > _SMALL:
        height, width = (-(-side // (part * multiple)) * multiple for side in size)
        if height * width >= sizes[-1][0] * sizes[-1][1]:
            break
        sizes.append((height, width))
        part *= 2
    return sizes
