"""Reads what kind of Jetson this is: JetPack, module, power mode and clocks, from files and one command."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class JetPack:
    """Describes a release of JetPack.

    Attributes:
        name: Its version, such as "6.2".
        cuda: The CUDA version of its driver, as (major, minor).
        tensorrt: The TensorRT version that comes with it.
    """

    name: str
    cuda: tuple[int, int]
    tensorrt: str


# By the first (major, minor, patch) of L4T that belongs to each; later ones belong to the last entry before them.
_JETPACKS = (
    ((35, 2, 1), JetPack("5.1", (11, 4), "8.5.2")),
    ((36, 3, 0), JetPack("6.0", (12, 2), "8.6.2")),
    ((36, 4, 0), JetPack("6.1", (12, 6), "10.3.0")),
    ((36, 4, 3), JetPack("6.2", (12, 6), "10.3.0")),
    ((38, 2, 0), JetPack("7.0", (13, 0), "10.13.3")),
    ((38, 4, 0), JetPack("7.1", (13, 0), "10.13.3")),
    ((39, 2, 0), JetPack("7.2", (13, 2), "10.16.2")),
)
_CHIPS = {"tegra194": "Xavier", "tegra234": "Orin", "tegra264": "Thor"}
# Names of the GPU below /sys/class/devfreq, from Xavier to Thor.
_GPU_CLOCK = re.compile(r"gpu|gv11b|ga10b|gpc")


@dataclass(frozen=True)
class Jetson:
    """Describes a Jetson.

    Attributes:
        module: The name of the board.
        chip: "Xavier", "Orin" or "Thor"; None for others.
        l4t: Version of Linux for Tegra as (major, minor, patch); None if its file is not visible, as in some
            containers.
        power_mode: The name of the power mode by nvpmodel; None if it cannot be read.
        clocks_are_fixed: Whether the clock of the GPU is held at one frequency; None if it cannot be read.
    """

    module: str
    chip: str | None
    l4t: tuple[int, int, int] | None
    power_mode: str | None
    clocks_are_fixed: bool | None

    @property
    def jetpack(self) -> JetPack | None:
        """Returns the JetPack of `l4t`, or None if it is unknown."""
        if self.l4t is None:
            return None
        same_major = [jetpack for first, jetpack in _JETPACKS if first <= self.l4t and first[0] == self.l4t[0]]
        return same_major[-1] if same_major else None


def read_jetson(root: Path = Path("/")) -> Jetson | None:
    """Reads what kind of Jetson this is.

    Args:
        root: The root of the file system.

    Returns:
        The Jetson, or None if this is another machine.

    Raises:
        OSError: A file cannot be read.
    """
    release = root / "etc/nv_tegra_release"
    compatible = root / "proc/device-tree/compatible"
    chips = re.findall(r"tegra\d+", _text(compatible)) if compatible.is_file() else []
    if not release.is_file() and not chips:
        return None
    model = root / "proc/device-tree/model"
    return Jetson(
        module=_text(model) if model.is_file() else "unknown module",
        chip=next((_CHIPS[chip] for chip in chips if chip in _CHIPS), None),
        l4t=_l4t(_text(release)) if release.is_file() else None,
        power_mode=_power_mode(),
        clocks_are_fixed=_clocks_are_fixed(root / "sys/class/devfreq"),
    )


def _text(path: Path) -> str:
    """Reads a text file. Strings in the device tree end in a zero byte, and there may be several."""
    return path.read_text(encoding="utf-8", errors="replace").replace("\0", " ").strip()


def _l4t(text: str) -> tuple[int, int, int] | None:
    """Reads (36, 4, 3) from "# R36 (release), REVISION: 4.3, ..."."""
    found = re.search(r"R(\d+) \(release\), REVISION: (\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def _power_mode() -> str | None:
    command = shutil.which("nvpmodel")
    if command is None:
        return None
    try:
        done = subprocess.run([command, "-q"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"NV Power Mode:\s*(\S+)", done.stdout)
    return found[1] if found else None


def _clocks_are_fixed(folder: Path) -> bool | None:
    gpus = [entry for entry in sorted(folder.glob("*")) if _GPU_CLOCK.search(entry.name)]
    try:
        return all(_text(gpu / "min_freq") == _text(gpu / "max_freq") for gpu in gpus) if gpus else None
    except OSError:
        return None
