"""How much of what this processor could do the network reaches, for each kind of layer, on two models in float32.

    python benchmarks/roofline.py            # prints the tables of this machine; needs a C++ compiler and onnx
    python benchmarks/roofline.py --record   # and keeps them in benchmarks/records/cpu, if the machine was idle
    python benchmarks/roofline.py --write    # measures nothing: writes docs/how/roofline.md; needs matplotlib

The best possible time of an operator is the larger of two: its multiplications over the most that the processor does,
and its bytes over the most that it moves, both as benchmarks/peak.cpp measures them here, on all threads. The reached
time is that of the operator in ONNX Runtime's profiler, with `convolution="blocked"`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cpu_records
import onnx
import roofline_page
from cpu_cases import ROOT, Case, write_case
from cpu_turns import OtherWork, work_of_others
from gpu_machine import commit
from layer_work import KINDS, OTHER, Model, Work
from node_times import profile, stages

from retinasdk import _native

_CASES = ("resnet50", "people")
_COMPILE = ("-std=c++17", "-O3", "-ffp-contract=fast", "-pthread")


def measured_peak(folder: Path, threads: int) -> dict[str, Any]:
    """Compiles and runs peak.cpp."""
    program = folder / "peak"
    compiler = os.environ.get("CXX", "c++")
    subprocess.run([compiler, *_COMPILE, str(Path(__file__).with_name("peak.cpp")), "-o", str(program)], check=True)
    found: dict[str, Any] = json.loads(subprocess.run([program, str(threads)], check=True, capture_output=True).stdout)
    return found


def bandwidth(peak: dict[str, Any], moved: int) -> float:
    """Bytes per second at best: with the largest working set that was measured and is not larger than these bytes.

    A smaller working set fits into a faster cache, so no operator can be faster than this says.
    """
    by_size = sorted((int(megabytes) << 20, rate) for megabytes, rate in peak["bytes_per_second"].items())
    fitting = [rate for size, rate in by_size if size <= moved]
    return float(fitting[-1] if fitting else by_size[0][1])


def best_ms(work: Work, peak: dict[str, Any], isa: str) -> tuple[float, float]:
    """Milliseconds of the multiplications and of the bytes."""
    arithmetic = work.computed / (peak["multiply_adds_per_core"][isa] * peak["threads"])
    return 1000 * arithmetic, 1000 * work.bytes / bandwidth(peak, work.bytes)


def measured_model(case: Case, peak: dict[str, Any], isa: str, threads: int, rounds: int) -> dict[str, Any]:
    """What is known of one model, by kind of layer."""
    times = profile(case.folder / "model.onnx", threads, rounds)
    model = Model(onnx.load(case.folder / "model.onnx"), (1, 3, *case.size))
    kinds = {kind: dict.fromkeys(("operators", "layers", "direct", "computed", "bytes"), 0) for kind in KINDS}
    milliseconds = {kind: dict.fromkeys(("arithmetic", "memory", "best", "reached"), 0.0) for kind in KINDS}
    for node, reached in times.of_operators():
        work = model.work(node)
        arithmetic, memory = best_ms(work, peak, isa)
        counts, sums = kinds[work.kind], milliseconds[work.kind]
        counts["operators"] += 1
        counts["layers"] += len(work.layers)
        counts["direct"] += work.direct
        counts["computed"] += work.computed
        counts["bytes"] += work.bytes
        sums["arithmetic"] += arithmetic
        sums["memory"] += memory
        sums["best"] += max(arithmetic, memory)
        sums["reached"] += reached
    milliseconds[OTHER]["reached"] += times.of_others()
    missing = sum(map(model.direct, model.convolutions())) - sum(counts["direct"] for counts in kinds.values())
    if missing:
        raise ValueError(f"{case.title}: {missing:,} multiplications were not found among the operators that ran")
    return {
        "name": case.name,
        "title": case.title,
        "size": list(case.size),
        "network_ms": times.network,
        "stages_ms": stages(case.folder / "model.onnx", threads, rounds),
        "kinds": [
            {"kind": kind, **kinds[kind], **{f"{name}_ms": value for name, value in milliseconds[kind].items()}}
            for kind in KINDS
            if kinds[kind]["operators"]
        ],
    }


def measured(threads: int, rounds: int) -> cpu_records.Record:
    """A record of all models."""
    others = OtherWork()
    isa = str(_native.convolution_isa())
    with TemporaryDirectory() as folder:
        cases = [write_case(name, Path(folder)) for name in _CASES]
        peak = measured_peak(Path(folder), threads)
        if isa not in peak["multiply_adds_per_core"]:
            raise ValueError(f"peak.cpp does not know the instruction set {isa}")
        models = [measured_model(case, peak, isa, threads, rounds) for case in cases]
    return {
        "format": cpu_records.FORMAT,
        "kind": cpu_records.ROOFLINE,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "machine": cpu_records.machine(),
        "isa": isa,
        "is_forced": "RETINASDK_ISA" in os.environ,
        "versions": cpu_records.versions(),
        "commit": commit(ROOT)[0],
        "threads": threads,
        "rounds": rounds,
        "other_work": others.share(),
        "peak": peak,
        "models": models,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--record", action="store_true", help="keep the tables in benchmarks/records/cpu")
    parser.add_argument("--write", action="store_true", help="write docs/how/roofline.md from the records")
    arguments = parser.parse_args()
    if arguments.write:
        roofline_page.write()
        return
    try:
        if arguments.record:
            cpu_records.check_quiet(work_of_others(), "before anything was measured")
        record = measured(arguments.threads, arguments.rounds)
        print("\n".join(roofline_page.section(record, picture=None)))
        if arguments.record:
            print(f"recorded: {cpu_records.save(record)}")
    except (cpu_records.BusyError, ValueError) as error:
        sys.exit(f"roofline.py: {error}")


if __name__ == "__main__":
    main()
