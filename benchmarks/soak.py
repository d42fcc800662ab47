"""Does everything stay level when retinasdk runs for long? Two programs, watched for an hour.

    python benchmarks/soak.py [--minutes 60] [--device cuda] [--record FILE.jsonl] [--picture FILE.svg]
    python benchmarks/soak.py --draw FILE.jsonl [--picture FILE.svg]       # also from a soak that was interrupted

One program detects in photos of changing sizes, whole and by tiles (soak_calls.py). The other is `retinasdk live` with
preview and metrics, on a real RTSP camera, which is killed and brought back every other minute. Viewers come, read and
leave; strangers send half a request; the metrics are collected. Memory, threads, descriptors and processor time are
sampled all the while, and latencies come from what the two programs print. Every minute a line goes to the record.

Prints "flat" or "not flat" with the reasons, by the rule at the top of soak_rule.py, and writes it beside the picture.
Exit status 1 if not flat. It needs Linux, GStreamer's RTSP server (see tests/support/rtsp_server.py) and the extras
video, web, prometheus and eval. --device cuda needs a GPU and an engine; it has not been run on one yet.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from gpu_machine import commit
from gpu_process import said
from soak_guests import Guests
from soak_picture import draw
from soak_programs import Camera, Held, Program, calls_program, killed_afterwards, live_program
from soak_rule import report
from timing import cpu_name

_ROOT = Path(__file__).resolve().parent.parent
_START_S = 120.0
_SAMPLES = 24  # in a cycle
# Parts of a cycle: guests have left, and whoever served them has noticed.
_BUSY, _QUIET = 0.6, 0.75
_FRESH_S = 5.0  # A camera whose last frame is older than this is not back.


class Soak:
    """Runs cycles, and keeps what the programs print between two of them."""

    def __init__(self, camera: Camera, calls: Program, live: Program, cycle_s: float) -> None:
        self._camera = camera
        self._programs = {"calls": calls, "live": live}
        self._cycle_s = cycle_s
        self._preview = live.wait_for_error("open ", _START_S)
        self._metrics = live.wait_for_error("metrics at ", _START_S)
        self._begin = time.monotonic()
        self._last_frame_s = 0.0
        self._counters = {"processed": 0, "dropped": 0, "failed": 0}
        self._seconds: dict[str, list[float]] = {}
        self._frame_times: list[float] = []

    def cycle(self, number: int) -> dict[str, Any]:
        """Runs one cycle, and returns its line of the record."""
        begin = self._begin + number * self._cycle_s
        self._seconds = {"detect": [], "tiles": [], "age": []}
        self._frame_times = []
        before, counters = self._held(), dict(self._counters)
        guests = Guests(self._preview, self._metrics, begin + _BUSY * self._cycle_s)
        outage = self._outage(begin) if number % 2 else None
        samples = []
        for step in range(1, _SAMPLES + 1):
            now = begin + step / _SAMPLES * self._cycle_s
            if outage is not None:
                self._play(outage, now)
            time.sleep(max(0.0, now - time.monotonic()))
            self._read()
            is_quiet = step > _QUIET * _SAMPLES and now - self._last_frame_s < _FRESH_S
            samples.append((is_quiet, self._held()))
            if step == int(_QUIET * _SAMPLES):
                guests.leave()
        back = [at - outage["started"] for at in self._frame_times if at > outage["started"]] if outage else []
        return {
            "minutes": (time.monotonic() - self._begin) / 60,
            "held": at_rest([held for is_quiet, held in samples if is_quiet and held]),
            "most": self._most([held for _, held in samples if held]),
            "cpu": self._cpu(before, samples[-1][1]),
            "latency_s": {what: _quantiles(times) for what, times in self._seconds.items()},
            "frames": {name: self._counters[name] - counters[name] for name in counters},
            "outage": outage and {"lost_s": outage["started"] - outage["kill"], "back_s": min(back, default=None)},
            "guests": dict(guests.seen),
            "load": os.getloadavg()[0],
            "gpu_mb": said(("nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"))
            or None,
        }

    def _outage(self, begin: float) -> dict[str, Any]:
        kill = begin + random.uniform(0.05, 0.15) * self._cycle_s
        return {"kill": kill, "start": kill + random.uniform(0.03, 0.15) * self._cycle_s, "started": None}

    def _play(self, outage: dict[str, Any], until: float) -> None:
        """Kills the camera and brings it back, where that is due before a moment."""
        for what, act in (("kill", self._camera.kill), ("start", self._camera.start)):
            if outage["started"] is None and outage[what] < until:
                time.sleep(max(0.0, outage[what] - time.monotonic()))
                act()
                outage["started"] = time.monotonic() if what == "start" else None

    def _read(self) -> None:
        """Takes what the programs have printed since."""
        for name, program in self._programs.items():
            while not program.printed.empty():
                came, line = program.printed.get()
                if name == "live":
                    self._take_frame(came, json.loads(line))
                else:
                    what, _, seconds = line.partition(" ")
                    self._seconds[what].append(float(seconds))

    def _take_frame(self, came: float, frame: dict[str, Any]) -> None:
        self._last_frame_s = came
        self._frame_times.append(came)
        self._seconds["age"].append(frame["age_s"])
        self._counters = {name: frame["counters"][name] for name in self._counters}

    def _held(self) -> dict[str, Held] | None:
        """What the programs hold now; None if one has ended."""
        held = {name: program.held() for name, program in self._programs.items()}
        alive = {name: one for name, one in held.items() if one is not None}
        return alive if len(alive) == len(held) else None

    def _most(self, samples: Sequence[dict[str, Held]]) -> dict[str, Any]:
        fields = ("rss_mb", "threads", "descriptors")
        return {
            name: {what: max((getattr(sample[name], what) for sample in samples), default=None) for what in fields}
            for name in self._programs
        }

    def _cpu(self, before: dict[str, Held] | None, after: dict[str, Held] | None) -> dict[str, float | None]:
        """Processors in use, 1.0 for one of them."""
        if before is None or after is None:
            return dict.fromkeys(self._programs)
        return {name: (after[name].cpu_s - before[name].cpu_s) / self._cycle_s for name in self._programs}


def at_rest(samples: Sequence[dict[str, Held]]) -> dict[str, Any] | None:
    """The least that each program held, since a call in progress has memory and threads on top; None without samples.

    And the most threads and descriptors, since some of them are not there while a camera comes back.
    """
    if not samples:
        return None
    least, most = ("rss_mb", "pss_mb", "anonymous_mb", "threads", "descriptors"), ("threads", "descriptors")
    return {
        name: {what: min(getattr(sample[name], what) for sample in samples) for what in least}
        | {f"most_{what}": max(getattr(sample[name], what) for sample in samples) for what in most}
        for name in samples[0]
    }


def _quantiles(seconds: Sequence[float]) -> dict[str, float | int | None]:
    p50, p99 = np.percentile(seconds, (50, 99)).tolist() if seconds else (None, None)
    return {"count": len(seconds), "p50": p50, "p99": p99}


def head_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the record says of the machine and the settings."""
    revision, changed = commit(_ROOT)
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": revision,
        "changed_files": changed,
        "machine": f"{cpu_name()}, {os.cpu_count()} cores",
        "gpu": said(("nvidia-smi", "--query-gpu=name", "--format=csv,noheader", "--id=0")) or None,
        "versions": {name: metadata.version(name) for name in ("onnxruntime", "numpy", "av")},
        "python": platform.python_version(),
        "device": arguments.device,
        "model": arguments.model,
        "share": arguments.share,
        "max_fps": arguments.max_fps,
        "cycle_s": arguments.cycle,
        "limit_mb_per_hour": arguments.limit,
        "note": arguments.note,
    }


def read_record(path: Path) -> dict[str, Any]:
    """Reads a record; the last line may be cut off."""
    lines = []
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    ends = [line["end"] for line in lines if "end" in line]
    return {
        "head": lines[0]["head"],
        "cycles": [line["cycle"] for line in lines if "cycle" in line],
        "end": ends[0] if ends else None,
    }


def run(arguments: argparse.Namespace) -> None:
    """Soaks, and writes the record line by line."""
    arguments.record.parent.mkdir(parents=True, exist_ok=True)
    with arguments.record.open("w") as file, TemporaryDirectory() as folder:

        def write(**line: Any) -> None:
            print(json.dumps(line), file=file, flush=True)

        write(head=head_of(arguments))
        camera = Camera(Path(folder))
        calls = calls_program(arguments.model, arguments.device, arguments.share)
        live = live_program(arguments.model, arguments.device, camera.url, arguments.max_fps)
        with killed_afterwards(camera, calls, live):
            soak = Soak(camera, calls, live, arguments.cycle)
            for number in range(max(1, round(60 * arguments.minutes / arguments.cycle))):
                cycle = soak.cycle(number)
                write(cycle=cycle)
                print(_line(number, cycle), flush=True)
            ends = {program.name: program.stop() for program in (calls, live)}
            write(end={name: {"status": status, "seconds": seconds} for name, (status, seconds) in ends.items()})


def _line(number: int, cycle: dict[str, Any]) -> str:
    if cycle["held"] is None:
        return f"cycle {number}: the camera is not back, or a program has ended"
    held = (f"{name} {held['anonymous_mb']:.1f} MB, {held['descriptors']} descriptors, {held['threads']} threads"
            for name, held in cycle["held"].items())  # fmt: skip
    return f"cycle {number}: {'; '.join(held)}; {cycle['frames']['processed']} frames"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", default="people", help="bundled name, ONNX path or engine; default: people")
    parser.add_argument("--share", type=float, default=0.3, help="of the time in which the first program detects")
    parser.add_argument("--max-fps", type=float, default=5.0, help="of the second program")
    parser.add_argument("--cycle", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--limit", type=float, default=2.0, metavar="MB", help="growth of memory in an hour")
    parser.add_argument("--note", help="what else ran on the machine")
    parser.add_argument("--record", type=Path, default=_ROOT / "build/soak/soak.jsonl", metavar="FILE.jsonl")
    parser.add_argument("--picture", type=Path, metavar="FILE.svg", help="default: beside the record")
    parser.add_argument("--draw", type=Path, metavar="FILE.jsonl", help="draw this record, and run nothing")
    arguments = parser.parse_args()
    if arguments.draw is None:
        run(arguments)
    path = arguments.draw or arguments.record
    record = read_record(path)
    lines = report(record)
    picture = arguments.picture or path.with_suffix(".svg")
    draw(record, picture)
    picture.with_suffix(".txt").write_text("\n".join(lines) + "\n")
    print(*lines, f"picture: {picture}", sep="\n")
    return 0 if lines[-1].startswith("flat") else 1


if __name__ == "__main__":
    sys.exit(main())
