"""One contestant of the table of CPU speeds in a process of its own, which does what its standard input says.

    python benchmarks/cpu_one.py CONTESTANT FOLDER THREADS

benchmarks/cpu_turns.py starts it. Threads, allocators and libraries of one contestant then cannot disturb another. Each
line of the input is a command in JSON, and each is answered by a line in JSON, the first one unasked, when the model is
loaded:

    ["turn", REST_S]   rests, calls once to warm up, and then for half a second: the median in milliseconds
    ["heads", FILE]    saves the head outputs to a .npz file
    ["memory"]         the peak of the process in MB so far, or null
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from cpu_contestants import CONTESTANTS, Opened

_TIMED_S = 0.5  # Single calls of a small model differ by a third on a shared machine.


def turn(opened: Opened, rest_s: float) -> float:
    time.sleep(rest_s)
    opened.call()
    times: list[float] = []
    while sum(times) < _TIMED_S:
        start = time.perf_counter()
        result = opened.call()
        times.append(time.perf_counter() - start)
        del result  # Freed outside the timed part, as the next call's allocations are inside it.
    return 1000.0 * statistics.median(times)


def save_heads(opened: Opened, path: str) -> None:
    np.savez(path, *opened.heads())


def peak_mb() -> float | None:
    """The most memory that this process had at once, in MB; Linux only."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    peak = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM")), None)
    return None if peak is None else int(peak.split()[1]) * 1024 / 1e6


def answer(opened: Opened, command: str, *values: Any) -> Any:
    if command == "turn":
        return turn(opened, *values)
    if command == "heads":
        return save_heads(opened, *values)
    if command == "memory":
        return peak_mb()
    raise ValueError(f"unknown command {command!r}")


def main() -> None:
    name, folder, threads = sys.argv[1:]
    # What libraries print must not come between the answers.
    with os.fdopen(os.dup(1), "w", buffering=1) as answers:
        os.dup2(2, 1)
        opened = CONTESTANTS[name].open(Path(folder), int(threads))
        print(json.dumps(opened.about), file=answers)
        for line in sys.stdin:
            print(json.dumps(answer(opened, *json.loads(line))), file=answers)


if __name__ == "__main__":
    main()
