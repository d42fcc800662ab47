"""Names the processor of this machine, and what it can do."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path

_CPUINFO, _BOARD = Path("/proc/cpuinfo"), Path("/proc/device-tree/model")
# Those for which ONNX Runtime or retinasdk has kernels of its own.
_INSTRUCTION_SETS = frozenset(
    (
        *("sse4_1", "avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16"),
        *("amx_tile", "amx_int8", "amx_bf16"),
        *("asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2", "sme"),
    )
)


@functools.cache
def processor_name() -> str:
    """Returns the model of the processor, the name of the board if the processor has none, or the architecture."""
    name = _cpuinfo().get("model name")
    if name:
        return name
    try:  # ARM's cpuinfo has no names. A Jetson's board has one.
        board = _BOARD.read_text(errors="replace").strip("\0\n ")
    except OSError:
        board = ""
    return board or platform.processor() or platform.machine()


@functools.cache
def instruction_sets() -> tuple[str, ...]:
    """Returns the instruction sets of the processor that matter to networks, sorted. Empty if they are not known."""
    told = _cpuinfo()
    return tuple(sorted(_INSTRUCTION_SETS.intersection((told.get("flags") or told.get("Features") or "").split())))


def usable_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpuinfo() -> dict[str, str]:
    """Returns what Linux tells about the first processor."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
