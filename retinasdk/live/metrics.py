"""`Metrics`: how long each stage of a stream takes, in histograms of constant size."""

from __future__ import annotations

import bisect
import itertools
import math
import threading
from typing import Any

from retinasdk.live.clock import Clock
from retinasdk.live.load import Load

# Upper bin edges in seconds, from 10 microseconds to about 3 minutes. Eight bins per octave bound the error of a
# quantile to 9%.
_EDGES: tuple[float, ...] = tuple(1e-5 * 2.0 ** (step / 8) for step in range(193))
_COARSE = 8  # One edge per octave is enough for a monitoring system.


class Histogram:
    """A histogram of durations. All methods may be called from any thread.

    Attributes:
        count: How many durations were added.
        sum_s: Their sum in seconds.
        min_s: The shortest in seconds, infinity if there is none.
        max_s: The longest in seconds, 0 if there is none.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = [0] * (len(_EDGES) + 1)
        self.count = 0
        self.sum_s = 0.0
        self.min_s = math.inf
        self.max_s = 0.0

    def add(self, seconds: float) -> None:
        """Adds a duration.

        Args:
            seconds: The duration in seconds.
        """
        with self._lock:
            self._counts[bisect.bisect_left(_EDGES, seconds)] += 1
            self.count += 1
            self.sum_s += seconds
            self.min_s = min(self.min_s, seconds)
            self.max_s = max(self.max_s, seconds)

    def quantile(self, share: float) -> float:
        """Returns a quantile of the durations.

        Args:
            share: The share of all durations that do not exceed the quantile, from 0 to 1. 0.5 is the median.

        Returns:
            Seconds, at most 9% too high. NaN if there are no durations.

        Raises:
            ValueError: If `share` is out of range.
        """
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"a quantile's share must be from 0 to 1, got {share!r}")
        with self._lock:
            wanted, below = max(1, math.ceil(share * self.count)), 0
            for edge, count in zip((*_EDGES, math.inf), self._counts, strict=True):
                below += count
                if below >= wanted:
                    return min(max(edge, self.min_s), self.max_s)
            return math.nan

    def cumulative(self) -> tuple[list[tuple[float, int]], float]:
        """Returns the cumulative histogram, as Prometheus wants it.

        Returns:
            A list of (upper edge in seconds, number of durations up to it), always with the same 26 edges, the last of
            which is infinite; and the sum of all durations in seconds.
        """
        with self._lock:
            running = list(itertools.accumulate(self._counts))
            edges = [*range(0, len(_EDGES), _COARSE), len(_EDGES)]
            return [((*_EDGES, math.inf)[edge], running[edge]) for edge in edges], self.sum_s

    def to_dict(self) -> dict[str, float]:
        """Returns "count", "mean_s", "p50_s", "p95_s" and "max_s", ready for JSON; only "count" if it is 0."""
        if not self.count:
            return {"count": 0}
        mean = self.sum_s / self.count
        return {
            "count": self.count,
            "mean_s": mean,
            "p50_s": self.quantile(0.5),
            "p95_s": self.quantile(0.95),
            "max_s": self.max_s,
        }


class Metrics:
    """Duration of each stage of a stream, as one `Histogram` per stage, and what limits the rate.

    For every frame, age = wait + detect + hand_over. `print(metrics)` shows a table in milliseconds, with the share of
    the time for which a stage was busy. `print(metrics.load.bottleneck())` names the stage that holds the rate back.

    Attributes:
        STAGES: The names of the stages, in the order below.
        capture: Reading a frame from the source, including the wait for it.
        wait: From capture until the detector started on the frame.
        detect: Conversion to RGB, preprocessing, inference and post-processing. If several sources are processed
            together, the duration for the whole batch.
        convert: The part of `detect` that converts the frame to RGB.
        queue: The part of `detect` in which a `Detector` waits for a free execution context. Empty on the CPU. This
            and the following parts are empty for other detectors.
        preprocess: The part of `detect` that a `Detector` spends on preprocessing. On the GPU, only the copy to pinned
            memory.
        inference: The part of `detect` that a `Detector` spends on inference. On the GPU, from the launch of a frame
            until its results are in host memory: upload, preprocessing, network, decoding, suppression, download.
        postprocess: The part of `detect` that a `Detector` spends on post-processing. On the GPU, only reading results.
        hand_over: From the end of detection until the caller took the frame. Long if the caller is slow.
        output: From when the caller took a frame until it asked for the next one: drawing, writing, sending.
        age: From capture until the caller took the frame.
        load: How long each stage is busy, a `Load`.
    """

    STAGES = (
        "capture",
        "wait",
        "detect",
        "convert",
        "queue",
        "preprocess",
        "inference",
        "postprocess",
        "hand_over",
        "output",
        "age",
    )

    def __init__(self, clock: Clock | None = None) -> None:
        self.load = Load(clock or Clock())
        self.capture = Histogram()
        self.wait = Histogram()
        self.detect = Histogram()
        self.convert = Histogram()
        self.queue = Histogram()
        self.preprocess = Histogram()
        self.inference = Histogram()
        self.postprocess = Histogram()
        self.hand_over = Histogram()
        self.output = Histogram()
        self.age = Histogram()

    def to_dict(self) -> dict[str, Any]:
        """Returns {name of the stage: `Histogram.to_dict()`}, ready for JSON."""
        return {name: getattr(self, name).to_dict() for name in self.STAGES}

    def __str__(self) -> str:
        shares = self.load.shares()
        lines = [f"{'stage':11s} {'count':>7s} {'mean':>9s} {'p50':>9s} {'p95':>9s} {'max':>9s}  ms {'busy':>6s}"]
        for name in self.STAGES:
            row = getattr(self, name).to_dict()
            numbers = [f"{1000 * row[key]:9.1f}" for key in ("mean_s", "p50_s", "p95_s", "max_s") if key in row]
            busy = f"{'':3s} {shares[name]:6.0%}" if numbers and name in shares else ""
            lines.append(" ".join([f"{name:11s} {row['count']:7d}", *numbers, busy]).rstrip())
        return "\n".join(lines)
