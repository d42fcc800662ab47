"""Each call that changes a file fails once, for good, for lack of space, or is the last one before SIGKILL."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from fault_commands import command_list
from fault_loop import ALWAYS, Command, Ended, Judge, World

NAMES = [command.name for command in command_list(Path())]
KINDS = {"once": "broken", "for good": "broken", "full disk": "no space", "SIGKILL": "kill"}
_HEAVY = os.environ.get("ALLN")

def check(world, command, judge, ended, exists, interrupted):
    assert not ended.hung, ended
    if not interrupted or ended.status>=0:
        assert ended.status in (0,1,2), ended
        assert "Traceback" not in ended.said, ended
    states, others = judge.left(world.files(), exists=exists, is_interrupted=interrupted)
    if ended.status == 0:
        lost = [g for g,s in zip(command.outputs, states) if s!="new" and not set(g)<=set(command.may_lose)]
        assert not lost, (ended, lost)
    return states, others

@pytest.mark.parametrize("exists", [True, False], ids=["old","none"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_all(name, kind, exists, world, commands):
    command=commands[name]
    if command.name not in JUDGES: JUDGES[name]=Judge(world, command)
    judge=JUDGES[name]
    number=0
    found=Counter(); bad=[]
    import time; t=time.time()
    while True:
        number+=1
        world.prepare(command, exists=exists)
        ended=world.run(command, files=(KINDS[kind], number, number if kind=="once" else ALWAYS))
        if not ended.failed and number>ended.calls: break
        if not ended.failed: continue
        cleanup = ended.failed.split()[0] in ("unlink","rmdir")
        interrupted = kind in ("for good","SIGKILL") or cleanup
        try:
            states, others = check(world, command, judge, ended, exists, interrupted)
        except AssertionError as e:
            bad.append((number, ended.failed, str(e)[:1500])); continue
        found[(tuple(states), ended.status, "others" if others else "")]+=1
        if any(not o.startswith("tmp/") for o in others) or "halfway" in states:
            again=world.run(command)
            states,others=judge.left(world.files(), exists=exists, is_interrupted=True)
            if again.status or set(states)-{"new"} or any(not o.startswith("tmp/") for o in others):
                bad.append((number, ended.failed, "AGAIN", again, states, others))
        if number>400: break
    print(f"\n## {name} {kind} {'old' if exists else 'none'}: {number-1} faults in {time.time()-t:.1f}s, {len(bad)} bad; {dict(found)}")
    for b in bad[:6]: print("   BAD", b)
JUDGES={}
