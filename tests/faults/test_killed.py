"""SIGKILL at random moments of whole commands: what is left is whole, and the next run removes what is hidden."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from fault_commands import NAMES
from fault_loop import TAKES_LONG, Command, World

_QUICK = ("import", "detect", "verify", "live, lines", "live, film", "Detections.save", "ModelSpec.save")
_SLOW = ("quantize", "build", "eval", "bench", "engine cache", *(("export",) if "export" in NAMES else ()))


def test_killed_at_10_random_moments(world: World, commands: dict[str, Command]) -> None:
    kill_at_random_moments(world, [commands[name] for name in ("import", "live, lines")], times=10)


@TAKES_LONG
@pytest.mark.heavy
@pytest.mark.parametrize(("names", "times"), [(_QUICK, 448), (_SLOW, 60)], ids=["quick", "slow"])
def test_killed_at_508_random_moments(
    names: tuple[str, ...], times: int, world: World, commands: dict[str, Command]
) -> None:
    kill_at_random_moments(world, [commands[name] for name in names], times)


def kill_at_random_moments(world: World, commands: list[Command], times: int) -> None:
    """Kills each command in turn. Every second time, it runs in what the killed one before left."""
    seed = random.Random(1)
    left: Counter[str] = Counter()
    for command in commands:
        judge = world.judge(command)
        world.prepare(command, exists=True)
        killed = 0
        for number in range(times // len(commands)):
            ended = world.run(command, kill_after_s=seed.uniform(0, judge.calm.seconds * 1.1))
            killed += ended.status == -9
            assert ended.status in (-9, 0), ended
            states, others = judge.left(world.files(), exists=True, is_interrupted=True)
            left.update([*states, *["hidden files" for name in others if not name.startswith("tmp/")]])
            if number % 2:
                world.prepare(command, exists=True)
        assert killed > 0
        assert world.run(command).status == 0
        states, others = judge.left(world.files(), exists=True, is_interrupted=True)
        assert set(states) <= {"new"}
        assert all(name.startswith("tmp/") for name in others), others
    print(f"\n| SIGKILL at random moments | {times} | {dict(left)} |")
