"""Fault loops over allocations: they fail once, and from one on, and each run ends with a sentence.

Large allocations are those from 64 KiB on: images, tensors, weights, files. Of them, and of the hundreds of thousands
of small ones, seeded samples fail. Where a small one fails, libraries may crash, and only the files count.
"""

from __future__ import annotations

import random
import signal
from collections import Counter

import pytest
from fault_commands import NAMES
from fault_loop import ALWAYS, TAKES_LONG, Command, Judge, World

_LARGE, _SMALL = 64 * 1024, 1
_CRASHES = (-signal.SIGSEGV, -signal.SIGABRT)
# NumPy 2.4 reads a null pointer where astype() cannot allocate the buffer of a broadcast array (original_run.py).
_CRASH_IN_LIBRARIES = ("import",)


@pytest.mark.parametrize("name", ["detect", "Detections.save"])
def test_a_sample(name: str, world: World, commands: dict[str, Command]) -> None:
    run_loop(world, commands[name], _LARGE, limit=6)


@TAKES_LONG
@pytest.mark.heavy
@pytest.mark.parametrize("size", [_LARGE, _SMALL])
@pytest.mark.parametrize("name", NAMES)
def test_more(name: str, size: int, world: World, commands: dict[str, Command]) -> None:
    run_loop(world, commands[name], size, limit=12)


def run_loop(world: World, command: Command, size: int, limit: int) -> None:
    """Fails allocations of at least so many bytes, and checks what is left."""
    judge = Judge(world, command)
    judge.allow_reports()
    world.prepare(command, exists=True)
    count = world.run(command, memory=(size, 0, 0)).allocations
    numbers = sorted(random.Random(command.name).sample(range(1, count + 1), min(limit, count)))
    ends: Counter[str] = Counter()
    for number in numbers:
        for last in (number, ALWAYS) if size == _LARGE else (number,):
            world.prepare(command, exists=True)
            ended = world.run(command, memory=(size, number, last))
            assert not ended.hung, (number, last)
            ends[str(ended.status)] += 1
            is_crash = ended.status in _CRASHES and (command.name in _CRASH_IN_LIBRARIES or size == _SMALL)
            judge.left(world.files(), exists=True, is_interrupted=is_crash)
            if size == _LARGE:
                assert is_crash or ended.status in (0, 1, 2), (number, last, ended)
                assert is_crash or "Traceback" not in ended.said, (number, last, ended)
    print(f"\n| {command.name} | from {size} bytes | {len(numbers)} of {count} | {dict(ends)} |")
