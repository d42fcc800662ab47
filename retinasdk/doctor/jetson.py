"""What a Jetson tells of itself: its JetPack, module, power mode and clocks. All of it from files and one command."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class JetPack:
    """A release: its name, the CUDA of its driver as (major, minor), and the TensorRT that belongs to it."""

    name: str
    cuda: tuple[int, int]
    tensorrt: str


# By (major, minor, patch) of L4T, the first that belongs to it; what comes later and is not listed is of the same one.
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
# Names that the GPU goes by below /sys/class/devfreq, from Xavier to Thor.
_GPU_CLOCK = re.compile(r"gpu|gv11b|ga10b|gpc")


@dataclass(frozen=True)
class Jetson:
    """module: as the board names itself. chip: "Xavier", "Orin", "Thor", or None for others.

    l4t: (major, minor, patch) of Linux for Tegra; None: its file is not to be seen, as in some containers.
    power_mode: as nvpmodel names it; None: it cannot be asked. clocks_are_fixed: whether the GPU's clock is held; None:
    it cannot be read.
    """

    module: str
    chip: str | None
    l4t: tuple[int, int, int] | None
    power_mode: str | None
    clocks_are_fixed: bool | None

    @property
    def jetpack(self) -> JetPack | None:
        """The JetPack of `l4t`; None: not one that is known here."""
        if self.l4t is None:
            return None
        same_major = [jetpack for first, jetpack in _JETPACKS if first <= self.l4t and first[0] == self.l4t[0]]
        return same_major[-1] if same_major else None


def read_jetson(root: Path = Path("/")) -> Jetson | None:
    """The Jetson that this is; None: it is none. root: where its files lie. Raises `OSError` for unreadable ones."""
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
    """Strings in the device tree end in a zero byte, and several follow each other."""
    return path.read_text(encoding="utf-8", errors="replace").replace("\0", " ").strip()


def _l4t(text: str) -> tuple[int, int, int] | None:
    """(36, 4, 3) of "# R36 (release), REVISION: 4.3, ..."."""
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
