"""Describes the machine that a benchmark runs on."""

from __future__ import annotations

import os
import platform
import time
from importlib import metadata
from pathlib import Path

from retinasdk import __version__

_PACKAGES = ("numpy", "onnxruntime")


def machine_facts() -> dict[str, str]:
    """Returns processor, usable cores, load, versions and date, by name. What the system does not tell is left out."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts = {"processor": _processor(), "cores": f"{usable} usable"}
    if hasattr(os, "getloadavg"):
        facts["load"] = f"{os.getloadavg()[0]:.2f} at the start"
    versions = [f"{name} {metadata.version(name)}" for name in _PACKAGES]
    facts["versions"] = ", ".join([f"retinasdk {__version__}", f"Python {platform.python_version()}", *versions])
    facts["system"] = f"{platform.system()} {platform.machine()}"
    facts["date"] = time.strftime("%Y-%m-%d")
    return facts


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    board = Path("/proc/device-tree/model")  # ARM's cpuinfo has no names; Jetson's board has one
    if board.is_file():
        return board.read_text(errors="replace").strip("\0\n ")
    return platform.processor() or platform.machine()
