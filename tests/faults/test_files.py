"""Fault loops over files: each call that changes one fails once, fails for good, or is the last one before SIGKILL.

Calls are counted by tests/support/faults.c. The fast test takes a seeded sample of them for a few commands. The heavy
one takes all calls of all commands, if RETINASDK_ALL_FAULTS is 1. `-s` prints what was left, as a row of a table.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest
from fault_commands import NAMES
from fault_loop import ALWAYS, TAKES_LONG, Command, Ended, World

# What fails: from the n-th call on, or this call alone.
KINDS = {"once": "broken", "for good": "broken", "full disk": "no space", "SIGKILL": "kill"}
_QUICK = ("import", "Detections.save", "live, lines", "live, film", "models", "ModelSpec.save")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", _QUICK)
def test_a_sample(name: str, kind: str, world: World, commands: dict[str, Command]) -> None:
    run_loop(world, commands[name], kind, limit=3)


@TAKES_LONG
@pytest.mark.heavy
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_every_call(name: str, kind: str, world: World, commands: dict[str, Command]) -> None:
    run_loop(world, commands[name], kind, limit=None)


def run_loop(world: World, command: Command, kind: str, limit: int | None) -> None:
    """Runs a command with each fault, or with so many of them, and checks what it leaves."""
    judge = world.judge(command)
    numbers = list(range(1, judge.calm.calls + 1))
    if limit is not None and limit < len(numbers):
        numbers = sorted(random.Random(f"{command.name} {kind}").sample(numbers, limit))
    left: Counter[str] = Counter()
    for number in numbers:
        exists = number % 2 == 1
        world.prepare(command, exists=exists)
        ended = world.run(command, files=(KINDS[kind], number, number if kind == "once" else ALWAYS))
        if not ended.failed:  # Of the calls from here on, none needs space.
            continue
        cannot_clean = ended.failed.startswith(("unlink", "rmdir"))
        is_interrupted = kind in ("for good", "SIGKILL") or cannot_clean
        check_end(ended)
        states, others = judge.left(world.files(), exists=exists, is_interrupted=is_interrupted)
        if ended.status == 0:
            for group, state in zip(command.outputs, states, strict=True):
                assert state == "new" or group in command.may_lose, ended
        hidden = {name for name in others if not name.startswith("tmp/")}
        left.update([*states, *["hidden files"][: len(hidden)], *["temporary files"][: len(others - hidden)]])
        if hidden or "halfway" in states:
            again = world.run(command)
            states, others = judge.left(world.files(), exists=exists, is_interrupted=True)
            assert again.status == 0
            assert set(states) == {"new"}, ended
            assert all(name.startswith("tmp/") for name in others), f"not removed by the next run: {others}, {ended}"
    print(f"\n| {command.name} | {kind} | {len(numbers)} of {judge.calm.calls} | {dict(left)} |")


def check_end(ended: Ended) -> None:
    """Checks that a run ended with a sentence."""
    assert not ended.hung, ended
    if ended.status >= 0:
        assert ended.status in (0, 1, 2), ended
        assert "Traceback" not in ended.said, ended
