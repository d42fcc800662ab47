"""compute-sanitizer and Nsight Compute: where they are, and what they print."""

from __future__ import annotations

import csv
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
# "========= ERROR SUMMARY: 1 error", of all tools but racecheck
_ERRORS = re.compile(r"^=+ ERROR SUMMARY: (\d+) errors?\b", re.MULTILINE)
# "========= RACECHECK SUMMARY: 2 hazards displayed (0 errors, 2 warnings)"
_RACES = re.compile(r"^=+ RACECHECK SUMMARY: (\d+) hazards? displayed \((\d+) errors?, (\d+) warnings?\)", re.MULTILINE)

_TIME = "gpu__time_duration.sum"
_METRICS = {  # field of a record: metric
    "dram_percent": "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "registers": "launch__registers_per_thread",
    "occupancy_percent": "sm__warps_active.avg.pct_of_peak_sustained_active",
    "blocks": "launch__grid_size",
    "threads": "launch__block_size",
}
_MICROSECONDS = {"ns": 1e-3, "nsecond": 1e-3, "us": 1.0, "usecond": 1.0, "ms": 1e3, "msecond": 1e3, "s": 1e6}


def program(name: str) -> str | None:
    """Path of a program of the CUDA toolkit; None if it is not installed."""
    folders = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    folders += [Path("/usr/local/cuda"), *sorted(Path("/usr/local").glob("cuda-*"), reverse=True)]
    places = [str(folder / place) for folder in folders for place in ("bin", "compute-sanitizer")]
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(places))


def reports(tool: str, text: str) -> dict[str, int] | None:
    """How many reports a tool of compute-sanitizer counts in its summary; None if there is no summary."""
    if tool == "racecheck":
        races = _RACES.findall(text)
        if not races:
            return None
        return {"reports": sum(int(one[1]) for one in races), "warnings": sum(int(one[2]) for one in races)}
    errors = _ERRORS.findall(text)
    return {"reports": sum(map(int, errors))} if errors else None


def nsight_arguments() -> list[str]:
    """Arguments of ncu in front of the program."""
    metrics = ",".join([_TIME, *_METRICS.values()])
    return ["--csv", "--print-units", "base", "--metrics", metrics]


def nsight_kernels(text: str, dtype: str) -> list[dict[str, Any]]:
    """The kernels that ncu measured, each once: of several launches the last, which is warm."""
    launches: dict[str, dict[str, Any]] = {}
    for row in csv.DictReader(_table(text)):
        values = launches.setdefault(row["ID"], {"kernel": _bare(row["Kernel Name"])})
        name, unit, value = row["Metric Name"], row["Metric Unit"], row["Metric Value"].replace(",", "")
        values[name] = float(value) * _MICROSECONDS.get(unit, 1.0) if name == _TIME else float(value)
    found: dict[str, dict[str, Any]] = {}
    for values in launches.values():
        if values.get(_TIME):
            described: dict[str, Any] = {field: values.get(metric) for field, metric in _METRICS.items()}
            for field in ("registers", "blocks", "threads"):
                described[field] = None if described[field] is None else int(described[field])
            for field in ("dram_percent", "occupancy_percent"):
                described[field] = described[field] or None
            found[values["kernel"]] = {
                "kernel": values["kernel"],
                "dtype": dtype,
                "microseconds": values[_TIME],
                **described,
            }
    return list(found.values())


def _table(text: str) -> Iterator[str]:
    """The lines of the table, which stands among messages."""
    return (line for line in text.splitlines() if line.startswith('"'))


def _bare(kernel: str) -> str:
    """The name of a kernel without template arguments, parameters and namespaces."""
    name = re.sub(r"\(.*", "", kernel.replace("(anonymous namespace)", "").replace("<unnamed>", ""))
    return re.sub(r"<.*", "", name).split("::")[-1].split()[-1]
