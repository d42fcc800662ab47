"""The GPU of this machine, its driver and clocks, and the commit; with nothing but Python and the driver."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from gpu_process import said

_MAJOR, _MINOR, _MULTIPROCESSORS, _SM_CLOCK, _MEMORY_CLOCK = 75, 76, 16, 13, 36  # CUdevice_attribute


@dataclass(frozen=True)
class Chip:
    """The first GPU that the driver shows; clocks are the highest ones, in kHz."""

    name: str
    compute_capability: tuple[int, int]
    multiprocessors: int
    memory_bytes: int
    cuda: str
    sm_clock: int
    memory_clock: int


def chip_here(library: str = "libcuda.so.1") -> Chip | str:
    """The chip, or why there is none."""
    try:
        driver = ctypes.CDLL(library)
    except OSError as error:
        return f"NVIDIA's driver is not installed ({error})"
    code = int(driver.cuInit(0))
    if code:
        return f"the driver finds no usable GPU (cuInit returned {code})"
    count, device = ctypes.c_int(), ctypes.c_int()
    if driver.cuDeviceGetCount(ctypes.byref(count)) or count.value == 0:
        return "the driver finds no GPU"
    driver.cuDeviceGet(ctypes.byref(device), 0)
    name, memory, version = ctypes.create_string_buffer(256), ctypes.c_size_t(), ctypes.c_int()
    driver.cuDeviceGetName(name, 256, device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    driver.cuDriverGetVersion(ctypes.byref(version))

    def attribute(number: int) -> int:
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), number, device)
        return value.value

    return Chip(
        name.value.decode(errors="replace"),
        (attribute(_MAJOR), attribute(_MINOR)),
        attribute(_MULTIPROCESSORS),
        memory.value,
        f"{version.value // 1000}.{version.value % 1000 // 10}",
        attribute(_SM_CLOCK),
        attribute(_MEMORY_CLOCK),
    )


def stand_in_chip() -> Chip:
    return Chip("Stand-in for a GPU", (8, 7), 1, 1 << 30, "12.6", 1, 1)


def facts(chip: Chip) -> dict[str, str]:
    """Chip, driver, clocks; on Jetson the power mode too. Lines without an answer are left out."""
    clocks = "clocks.sm,clocks.max.sm,clocks.mem,clocks.max.mem,power.limit,persistence_mode"
    found = {
        "GPU": f"{chip.name}, compute capability {'.'.join(map(str, chip.compute_capability))}, "
        f"{chip.multiprocessors} multiprocessors, {chip.memory_bytes / 1e9:.1f} GB",
        "driver": said(("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0")),
        "CUDA of the driver": chip.cuda,
        "highest clocks": f"{chip.sm_clock // 1000} MHz, memory {chip.memory_clock // 1000} MHz",
        "clocks": said(("nvidia-smi", f"--query-gpu={clocks}", "--format=csv", "--id=0")),
        "board": content("/proc/device-tree/model"),
        "L4T": content("/etc/nv_tegra_release").partition("\n")[0],
        "power mode": said(("nvpmodel", "-q")),
        "host": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    return {name: fact for name, fact in found.items() if fact}


def content(path: str) -> str:
    file = Path(path)
    return file.read_text(errors="replace").strip("\0\n ") if file.is_file() else ""


def commit(root: Path) -> tuple[str, int | None]:
    """The commit and the number of changed files; COMMIT in the environment names it where there is no repository.

    Raises:
        ValueError: If the commit is not known.
    """
    git = ("git", "-C", str(root), "-c", f"safe.directory={root}")
    head = said((*git, "rev-parse", "HEAD"))
    if head:
        return head, len([line for line in said((*git, "status", "--porcelain")).split("; ") if line])
    given = os.environ.get("COMMIT", "")
    if re.fullmatch(r"[0-9a-f]{7,40}", given):
        return given, None
    raise ValueError("This folder is not a Git repository. Say which commit it is of: make gpu COMMIT=9d3680d")


def slug(chip: Chip) -> str:
    """The chip's name for a file: "h200" for "NVIDIA H200"."""
    words = re.sub(r"[^a-z0-9]+", "-", chip.name.lower()).strip("-")
    return words.removeprefix("nvidia-").removeprefix("geforce-") or "gpu"
