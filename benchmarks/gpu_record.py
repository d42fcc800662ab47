"""`make gpu`: builds, tests, checks and measures on this machine's GPU, and writes one record to benchmarks/records/.

    python benchmarks/gpu_record.py [--parts tests postprocess memcheck ...] [--budget SECONDS]

Needs Python 3.10 and NVIDIA's driver. Uses nvcc, compute-sanitizer, ncu, TensorRT, pycuda and torch where they are
installed, and says what was left out. A part that takes longer than its limit is ended. Exit code 0: nothing failed;
1: a test failed, a sanitizer reported something, or a part was ended (the record is written nevertheless); 2: no GPU.

RETINASDK_GPU_TESTS=fake runs all this over stand-ins, for tests of this program: its record goes to build/gpu/.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import gpu_steps
from gpu_build import build
from gpu_machine import Chip, chip_here, commit, facts, slug, stand_in_chip
from gpu_records import FOLDER, FORMAT, Record, write
from gpu_steps import ROOT, Session, Step, step
from gpu_tools import SANITIZERS

_Part = Callable[[Session, float], Step]
# The most important first, with the seconds after which each is ended.
PARTS: dict[str, tuple[_Part, float]] = {
    "tests": (gpu_steps.tests, 600),
    "postprocess": (gpu_steps.postprocess, 600),
    **{
        tool: (partial(lambda tool, session, seconds: gpu_steps.sanitizer(session, tool, seconds), tool), 300)
        for tool in SANITIZERS
    },
    "frames": (gpu_steps.frames, 1200),
    "nsight": (gpu_steps.nsight, 300),
}
BUILD_SECONDS = 600.0
_LEAST_SECONDS = 10.0  # A part is not begun with less than that.


def parts_of(text: str) -> list[str]:
    """The names in "tests memcheck", in the order of PARTS; "sanitizers" and "benchmark" name several."""
    groups = {"sanitizers": list(SANITIZERS), "benchmark": ["postprocess", "frames"]}
    names = [name for word in text.replace(",", " ").split() for name in groups.get(word, [word])]
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        known = ", ".join([*PARTS, *groups])
        raise argparse.ArgumentTypeError(f"there is no part {unknown[0]!r}; known are: {known}")
    return [name for name in PARTS if name in names]


def carry_out(session: Session, parts: list[str]) -> list[Step]:
    """Every part in turn; one that fails does not stop the next."""
    steps = [build(session, BUILD_SECONDS)]
    print(f"build: {steps[0]['outcome']}: {steps[0]['note']}", flush=True)
    for name, (part, seconds) in PARTS.items():
        if name not in parts:
            steps.append(step(name, "left out", "it was not asked for"))
        elif session.why_no_kernels is not None:
            steps.append(step(name, "left out", f"There are no kernels: {session.why_no_kernels}"))
        elif session.end - time.monotonic() < _LEAST_SECONDS:
            steps.append(step(name, "left out", "the budget of time was spent"))
        else:
            steps.append(part(session, seconds))
        done = steps[-1]
        counts = ", ".join(f"{count} {kind}" for kind, count in done["counts"].items())
        print(f"{name}: {'. '.join(said for said in (done['outcome'], counts, done['note']) if said)}", flush=True)
    return steps


def record_of(session: Session, steps: list[Step], head: str, changed: int | None) -> Record:
    date = time.strftime("%Y-%m-%d", time.gmtime())
    machine = {**facts(session.chip), **session.versions}
    return {
        "format": FORMAT,
        "kind": "stand-in" if session.is_stand_in else "gpu",
        "name": f"{'stand-in' if session.is_stand_in else slug(session.chip)}-{date}-{head[:7]}",
        "date": date,
        "commit": head,
        "changed_files": changed,
        "machine": machine,
        "copy_gb_s": None,
        "steps": steps,
        "postprocess": [],
        "kernels_ms": {},
        "nsight": [],
        "frames": None,
        "notes": [],
        **session.found,
    }


def save(record: Record, folder: Path) -> Path:
    """Writes a record under a name that is free."""
    name, number = record["name"], 1
    while (folder / f"{record['name']}.json").exists():
        number += 1
        record["name"] = f"{name}-{number}"
    return write(record, folder)


def main() -> int:
    """The process's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=parts_of, default=list(PARTS), help=f"of: {' '.join(PARTS)}; in one word")
    parser.add_argument("--budget", type=float, default=3600.0, help="seconds for everything; default 3600")
    arguments = parser.parse_args()
    is_stand_in = os.environ.get("RETINASDK_GPU_TESTS") == "fake"
    chip: Chip | str = stand_in_chip() if is_stand_in else chip_here()
    if isinstance(chip, str):
        print(f"make gpu needs a machine with an NVIDIA GPU, and there is none here: {chip}.", file=sys.stderr)
        return 2
    try:
        head, changed = commit(ROOT)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    session = Session(chip, is_stand_in, time.monotonic() + arguments.budget)
    steps = carry_out(session, arguments.parts)
    path = save(record_of(session, steps, head, changed), session.folder if is_stand_in else FOLDER)
    print(f"The record is {path.with_suffix('.md')}.")
    bad = [one["part"] for one in steps if one["outcome"] in ("failed", "time limit")]
    if bad:
        print(f"Not everything passed: {', '.join(bad)}.", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
