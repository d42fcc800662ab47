"""How long the whole call takes on this CPU, beside ONNX Runtime, ncnn and OpenVINO: in float32 and in 8 bits.

    pip install ncnn pnnx openvino onnx       # any of the peers; what is not installed is left out
    python benchmarks/cpu_table.py            # prints the table of this machine: 5 minutes on two cores
    python benchmarks/cpu_table.py --record   # and keeps it in benchmarks/records/cpu, if the machine was idle
    python benchmarks/cpu_table.py --isa avx2 --record   # retinasdk limited to AVX2
    python benchmarks/cpu_table.py --write    # measures nothing: writes docs/performance.md from the records

Each contestant runs in a process of its own with as many threads as there are cores. They take turns, A B A B: each
rests for 0.4 s, calls once to warm up, and then calls for half a second, but at least once. The median of these calls
is its time. A ratio is the time over that of ONNX Runtime's network alone in the same round; shown are the median and
the quartiles of all rounds. Below 1 is faster.

Of retinasdk the whole call is timed, `Detector(photo)`: resizing, the network, decoding, NMS. Of the others it is the
network alone. What `convolution="auto"` measures once for each model is measured before, in an empty cache.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cpu_page
import cpu_records
from cpu_cases import CASES, ROOT, Case, write_case
from cpu_contestants import CONTESTANTS, OURS, RUNTIME
from cpu_turns import REST_S, OtherWork, heads_difference, peak_mb, start_all, take_turns, work_of_others
from gpu_machine import commit

_BEST = "best"
# The names that oneDNN has for instruction sets. It computes most, not all, of what OpenVINO does.
_ONEDNN = {"avx2": "AVX2"}


def environment(isa: str, cache: Path) -> dict[str, str]:
    """Variables for all contestants."""
    variables = {"RETINASDK_CACHE": str(cache)}
    if isa != _BEST:
        variables["RETINASDK_ISA"] = isa
        if isa in _ONEDNN:
            variables["ONEDNN_MAX_CPU_ISA"] = _ONEDNN[isa]
    return variables


def measure(case: Case, threads: int, rounds: int, variables: Mapping[str, str]) -> dict[str, Any]:
    """All contestants of one case."""
    left_out = {}
    names = []
    for name, contestant in CONTESTANTS.items():
        if contestant.only_float and not case.in_float:
            left_out[name] = "it does not read this model in 8 bits"
        elif importlib.util.find_spec(contestant.module) is None:
            left_out[name] = "it is not installed"
        else:
            names.append(name)
    with ExitStack() as opened:
        running, failed = start_all(names, case.folder, threads, variables, opened)
        for needed in (OURS, RUNTIME):
            if needed in failed:
                raise SystemExit(f"{case.title}: {needed} does not run here: {failed[needed]}")
        differences = {
            name: None if name == RUNTIME else heads_difference(one, running[RUNTIME], case.folder)
            for name, one in running.items()
        }
        times = take_turns(running, rounds)
        about = {name: one.about for name, one in running.items()}
    peaks = {name: peak_mb(name, case.folder, threads, variables) for name in (OURS, RUNTIME)}
    return {
        "name": case.name,
        "title": case.title,
        "size": list(case.size),
        "contestants": [
            {
                "name": name,
                "what": CONTESTANTS[name].what,
                "times_ms": [round(value, 3) for value in values],
                "heads_difference": differences[name],
                "peak_mb": peaks.get(name),
                "about": about[name],
            }
            for name, values in times.items()
        ],
        "left_out": left_out | failed,
    }


def measured(cases: list[Case], isa: str, threads: int, rounds: int) -> cpu_records.Record:
    """A record of all cases."""
    others = OtherWork()
    with TemporaryDirectory() as cache:
        variables = environment(isa, Path(cache))
        found = [measure(case, threads, rounds, variables) for case in cases]
    ours = next(one for one in found[0]["contestants"] if one["name"] == OURS)
    return {
        "format": cpu_records.FORMAT,
        "kind": cpu_records.TABLE,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "machine": cpu_records.machine(),
        "isa": ours["about"]["isa"],
        "is_forced": isa != _BEST,
        "versions": cpu_records.versions(),
        "commit": commit(ROOT)[0],
        "threads": threads,
        "rounds": rounds,
        "rest_s": REST_S,
        "other_work": others.share(),
        "cases": found,
    }


def print_tables(isas: list[str], names: list[str], threads: int, rounds: int, *, is_recorded: bool) -> None:
    """Measures and prints the table of each instruction set, and records it."""
    with TemporaryDirectory() as folder:
        cases = [write_case(name, Path(folder)) for name in names]
        for isa in isas:
            if is_recorded:
                cpu_records.check_quiet(work_of_others(), "before anything was measured")
            record = measured(cases, isa, threads, rounds)
            print("\n".join(cpu_page.section(record)), flush=True)
            if is_recorded:
                print(f"recorded: {cpu_records.save(record)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each contestant")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--isa", nargs="+", default=[_BEST], help="best, avx512, avx2, neon or plain, for retinasdk")
    parser.add_argument("--record", action="store_true", help="keep the tables in benchmarks/records/cpu")
    parser.add_argument(
        "--write", action="store_true", help="write docs/performance.md from the records, measure nothing"
    )
    arguments = parser.parse_args()
    if arguments.write:
        cpu_page.write()
        return
    try:
        print_tables(arguments.isa, arguments.cases, arguments.threads, arguments.rounds, is_recorded=arguments.record)
    except cpu_records.BusyError as error:
        sys.exit(f"cpu_table.py: {error}")


if __name__ == "__main__":
    main()
