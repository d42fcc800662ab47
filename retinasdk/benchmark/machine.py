"""Describes the machine that a benchmark runs on."""

from __future__ import annotations

import os
import platform
import time
from importlib import metadata

from retinasdk import __version__
from retinasdk._util.processor import processor_name, usable_cores

_PACKAGES = ("numpy", "onnxruntime")


def machine_facts() -> dict[str, str]:
    """Returns processor, usable cores, load, versions and date, by name. What the system does not tell is left out."""
    facts = {"processor": processor_name(), "cores": f"{usable_cores()} usable"}
    if hasattr(os, "getloadavg"):
        facts["load"] = f"{os.getloadavg()[0]:.2f} at the start"
    versions = [f"{name} {metadata.version(name)}" for name in _PACKAGES]
    facts["versions"] = ", ".join([f"retinasdk {__version__}", f"Python {platform.python_version()}", *versions])
    facts["system"] = f"{platform.system()} {platform.machine()}"
    facts["date"] = time.strftime("%Y-%m-%d")
    return facts
