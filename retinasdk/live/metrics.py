"""`Metrics`: how long each stage of a stream takes, as histograms of constant size."""

from __future__ import annotations

import bisect
import itertools
import math
import threading
from typing import Any

# Upper edges in seconds: 10 microseconds to about 3 minutes, eight an octave, so that a quantile is right to 9 %.
_EDGES: tuple[float, ...] = tuple(1e-5 * 2.0 ** (step / 8) for step in range(193))
_COARSE = 8  # of the edges, one an octave is enough for a monitoring system


class Histogram:
    """Durations in seconds. Any thread may add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = [0] * (len(_EDGES) + 1)
        self.count = 0
        self.sum_s = 0.0
        self.min_s = math.inf
        self.max_s = 0.0

    def add(self, seconds: float) -> None:
        with self._lock:
            self._counts[bisect.bisect_left(_EDGES, seconds)] += 1
            self.count += 1
            self.sum_s += seconds
            self.min_s = min(self.min_s, seconds)
            self.max_s = max(self.max_s, seconds)

    def quantile(self, share: float) -> float:
        """Seconds that a share (0 to 1) of all durations do not exceed, at most 9 % too high; NaN of none."""
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
        """[(upper edge in s, durations up to it)], the same 26 edges always, the last infinite; and the sum in s."""
        with self._lock:
            running = list(itertools.accumulate(self._counts))
            edges = [*range(0, len(_EDGES), _COARSE), len(_EDGES)]
            return [((*_EDGES, math.inf)[edge], running[edge]) for edge in edges], self.sum_s

    def to_dict(self) -> dict[str, float]:
        """count, and mean, p50, p95 and max in seconds, for JSON; only the count where there is none."""
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
    """Stage times of a stream, a histogram each. For any frame, age = wait + detect + hand_over.

    capture: until the source gave a frame, its own waiting for it included.
    wait: from capture until the detector was free for it.
    detect: conversion to RGB, preprocessing, inference and post-processing; of a batch, the whole batch.
    preprocess, inference, postprocess: the parts of it that a `Detector` tells of; on the GPU, where they are one piece
        of work, all is inference. Empty for a detector that is something else.
    hand_over: from then until the caller took it: longer where the caller is slow, or the batch large.
    age: from capture to hand-over.
    """

    STAGES = ("capture", "wait", "detect", "preprocess", "inference", "postprocess", "hand_over", "age")

    def __init__(self) -> None:
        self.capture = Histogram()
        self.wait = Histogram()
        self.detect = Histogram()
        self.preprocess = Histogram()
        self.inference = Histogram()
        self.postprocess = Histogram()
        self.hand_over = Histogram()
        self.age = Histogram()

    def to_dict(self) -> dict[str, Any]:
        """{stage: Histogram.to_dict()}."""
        return {name: getattr(self, name).to_dict() for name in self.STAGES}

    def __str__(self) -> str:
        lines = [f"{'stage':11s} {'count':>7s} {'mean':>9s} {'p50':>9s} {'p95':>9s} {'max':>9s}  ms"]
        for name in self.STAGES:
            row = getattr(self, name).to_dict()
            numbers = [f"{1000 * row[key]:9.1f}" for key in ("mean_s", "p50_s", "p95_s", "max_s") if key in row]
            lines.append(" ".join([f"{name:11s} {row['count']:7d}", *numbers]))
        return "\n".join(lines)
