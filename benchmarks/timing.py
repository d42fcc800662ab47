"""Timing for the benchmarks: candidates take turns, so that a busy machine slows all of them alike."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

import numpy as np
import numpy.typing as npt

Times = dict[str, npt.NDArray[np.float64]]

# Threads of a runtime that has just run may keep the cores busy for a while, waiting for more: that is not the next
# candidate's time.
_REST_SECONDS = 0.25


def interleave(candidates: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 2) -> Times:
    """Milliseconds of each candidate, (rounds,) float64 by name: A B A B ..., after `warmup` untimed rounds."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(warmup + rounds):
        for name, call in candidates.items():
            time.sleep(_REST_SECONDS)
            start = time.perf_counter()
            result = call()
            elapsed = time.perf_counter() - start
            del result  # freed outside the timed part, as the next call's allocations are inside it
            if turn >= warmup:
                times[name].append(1000.0 * elapsed)
    return {name: np.array(values) for name, values in times.items()}


def print_times(times: Times) -> None:
    width = max(map(len, times))
    for name, values in times.items():
        print(f"  {name:{width}}  median {np.median(values):9.3f} ms   min {values.min():9.3f} ms   n {len(values)}")


def print_ratio(times: Times, above: str, below: str, *, target: str) -> None:
    """Prints above / below: of the medians, of the minima, and the quartiles of the ratio within one round."""
    a, b = times[above], times[below]
    low, middle, high = np.percentile(a / b, [25, 50, 75])
    print(
        f"  {above} / {below}: {np.median(a) / np.median(b):.3f} by medians, {a.min() / b.min():.3f} by minima, "
        f"round by round {middle:.3f} (quartiles {low:.3f} to {high:.3f}); target {target}"
    )


def print_machine(*packages: str) -> None:
    """Prints CPU, usable cores, how busy they are, and the versions of Python and `packages`."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    busy = f"load average {os.getloadavg()[0]:.2f} at the start" if hasattr(os, "getloadavg") else "load unknown"
    print(f"device: CPU, {cpu_name()}, {usable} cores usable, {busy}")
    versions = [f"{name} {metadata.version(name)}" for name in packages]
    print(f"versions: {', '.join([f'Python {platform.python_version()}', *versions])}")


def cpu_name() -> str:
    """The processor as the system calls it."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
