"""Counts what the CUDA kernels of decode and NMS read and write, on the emulated device.

tests/support/cuda_on_cpu/include/cuda_on_cpu_traffic.h says how. The program is tests/native/kernel_traffic.cpp.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emulated_cuda import build_emulated
from paths import ROOT

_BUILD = ROOT / "build" / "kernel_traffic"
TOOLS = ("g++", "nm")


@dataclass(frozen=True)
class Counts:
    """What one block did, or all blocks of a launch. Bytes are those of loads and stores, without atomic operations."""

    read_bytes: int
    written_bytes: int
    logit_bytes: int  # the part of read_bytes that are logits
    shared_read_bytes: int
    shared_written_bytes: int
    atomics: int  # on global memory
    shared_atomics: int
    barriers: int
    collectives: int


@dataclass(frozen=True)
class Launch:
    """One launch: `busiest` has the highest of each count over the blocks."""

    kernel: str
    grid: tuple[int, int, int]
    threads: int
    total: Counts
    busiest: Counts

    @property
    def blocks(self) -> int:
        """The number of blocks of the grid."""
        return self.grid[0] * self.grid[1] * self.grid[2]


@dataclass(frozen=True)
class Traffic:
    """The launches of one decode and one NMS, in order."""

    decode: list[Launch]
    nms: list[Launch]
    reads_per_logit: dict[int, int]  # how many logits were read that often
    logits: int
    logit_bytes: int
    passing: int  # logits above the score threshold
    candidates: int  # of the first image
    detections: int  # of the first image

    @property
    def launches(self) -> list[Launch]:
        """All launches."""
        return [*self.decode, *self.nms]

    @property
    def most_reads(self) -> int:
        """How often the logit was read that was read most often."""
        return max(self.reads_per_logit)


def count_traffic(**options: float) -> Traffic:
    """Runs decode and NMS on random heads, or takes what this program printed for the same options.

    The inputs are seeded and the counts do not depend on the machine. tests/native/checks/kernel_traffic.py and the
    tests want the same ones, of which those of large heads take seconds.

    Args:
        options: Those of tests/native/kernel_traffic.cpp, such as `passing=0.05`.

    Returns:
        The counts.
    """
    arguments = sorted(f"{name}={value}" for name, value in options.items())
    program = _built("kernel_traffic")
    printed = _BUILD / "printed" / f"{'_'.join(arguments)}.json"
    if not printed.exists() or printed.stat().st_mtime_ns <= program.stat().st_mtime_ns:
        said = _run(program, *arguments)
        printed.parent.mkdir(exist_ok=True)
        begun = printed.with_suffix(f".{os.getpid()}")
        begun.write_text(said, encoding="utf-8")
        begun.replace(printed)
    found: dict[str, Any] = json.loads(printed.read_text(encoding="utf-8"))
    reads = {int(times): logits for times, logits in found.pop("reads_per_logit").items()}
    decode, nms = ([_launch(data) for data in found.pop(name)] for name in ("decode", "nms"))
    return Traffic(decode=decode, nms=nms, reads_per_logit=reads, **found)


def check_counters() -> str:
    """Runs the counters over kernels whose counts are known. Returns what the program prints."""
    return _run(_built("traffic_harness"))


def compiler() -> str:
    """The first line of `g++ --version`. Counts differ a little between compilers."""
    return _run(Path("g++"), "--version").splitlines()[0]


def _launch(data: dict[str, Any]) -> Launch:
    address = data["kernel"]
    name = "cudaMemsetAsync" if address == 0 else _kernels()[address]
    counts = (Counts(**data[part]) for part in ("total", "busiest"))
    return Launch(name, tuple(data["grid"]), data["threads"], *counts)


@functools.cache
def _kernels() -> dict[int, str]:
    """Names of the program's functions by address, without namespaces, template arguments and parameters."""
    names = {}
    for line in _run(Path("nm"), "--demangle", str(_built("kernel_traffic"))).splitlines():
        symbol = re.fullmatch(r"([0-9a-f]+) [tTwW] (?:void )?((?:\w+|\(anonymous namespace\))::)*(\w+)\b.*", line)
        if symbol is not None:
            names[int(symbol[1], 16)] = symbol[3]
    return names


@functools.cache
def _built(program: str) -> Path:
    for tool in TOOLS:
        assert shutil.which(tool) is not None, f"counting needs {tool}; install GCC and binutils"
    options = (
        "CMAKE_CXX_COMPILER=g++",
        "RETINASDK_PYTHON=OFF",
        "RETINASDK_NATIVE_TESTS=ON",
        "RETINASDK_COUNT_TRAFFIC=ON",
    )
    build_emulated(_BUILD, (program,), *(f"-D{option}" for option in options))
    (path,) = (path for path in _BUILD.rglob(program) if path.is_file())
    return path


def _run(program: Path, *arguments: str) -> str:
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{program.name} {' '.join(arguments)}: {done.stderr}"
    return done.stdout
