"""The cache of measured times: which convolutions are faster for a model on this machine.

Note: How measured times are kept

    Each key has a small file of its own in the cache folder, which holds the whole key and the times. It is written
    completely or not at all, and a file that cannot be read, or has another key, counts as missing. No lock is held
    while a model is measured, so a killed or forked process leaves none behind, and no process waits for another one. A
    process that has measured takes the times that another one has written meanwhile. All later ones decide alike.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from retinasdk._util.cache_dir import cache_dir
from retinasdk._util.files import write_atomically
from retinasdk._util.json_text import parse_json
from retinasdk.backends.convolution import BLOCKED, DIRECT

VARIABLE = "RETINASDK_TUNE"  # "0": nothing is measured, and the cache is not used.

_FORMAT = 1
_MAX_BYTES = 1 << 16
_log = logging.getLogger("retinasdk")


@dataclass(frozen=True)
class TuningKey:
    """What measured times depend on.

    Attributes:
        model: SHA-256 of the model.
        processor: Name of the processor.
        instruction_sets: What it can do.
        isa: The instruction set that the convolutions of retinasdk use.
        threads: Number of threads per call.
        onnxruntime: Version of ONNX Runtime.
        retinasdk: Version of retinasdk.
        height: Nominal height of the network input in pixels.
        width: Its nominal width.
    """

    model: str
    processor: str
    instruction_sets: str
    isa: str
    threads: int
    onnxruntime: str
    retinasdk: str
    height: int
    width: int


@dataclass(frozen=True)
class Times:
    """Holds measured times.

    Attributes:
        direct: Milliseconds of a call with the convolutions of ONNX Runtime.
        blocked: Milliseconds of a call with those of retinasdk.
        height: Height of the network input that was measured, in pixels.
        width: Its width.
    """

    direct: float
    blocked: float
    height: int
    width: int

    def __post_init__(self) -> None:
        for value in (self.direct, self.blocked, self.height, self.width):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise ValueError(f"a time or a size must be a number above 0, got {value!r}")

    @property
    def milliseconds(self) -> Mapping[str, float]:
        """Both times, by the name of the convolutions."""
        return {DIRECT: self.direct, BLOCKED: self.blocked}


def is_enabled() -> bool:
    """Returns whether models are measured: unless RETINASDK_TUNE is "0"."""
    return os.environ.get(VARIABLE, "").strip() != "0"


def kept_times(key: TuningKey) -> Times | None:
    """Returns the times that are in the cache, or None.

    Raises:
        OSError: If there is no folder of caches.
    """
    return _read(_path(key), key)


def keep_times(key: TuningKey, times: Times) -> Times:
    """Writes times to the cache, unless another process has been faster.

    Args:
        key: What they depend on.
        times: The times.

    Returns:
        The times that count: those of the other process, or `times`. If they cannot be written, a line in the log says
        so.
    """
    try:
        path = _path(key)
        theirs = _read(path, key)
        if theirs is not None:
            return theirs
        content = {"format": _FORMAT, "key": asdict(key), "times": asdict(times)}
        write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
    except OSError as error:
        _log.warning(
            "Measured times of convolutions cannot be kept (%s), so the next process measures again. Set "
            "RETINASDK_CACHE to a private folder that can be written, or %s=0 to measure nothing.",
            error,
            VARIABLE,
        )
    return times


def _path(key: TuningKey) -> Path:
    digest = hashlib.sha256(json.dumps(asdict(key), sort_keys=True).encode()).hexdigest()
    return cache_dir() / f"convolution-{digest[:16]}.json"


def _read(path: Path, key: TuningKey) -> Times | None:
    try:
        with open(path, "rb") as file:
            text = file.read(_MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.info("%s cannot be read (%s), so convolutions are measured again", path, error)
        return None
    with contextlib.suppress(ValueError, TypeError, KeyError):
        content = parse_json(text)
        if content["format"] == _FORMAT and content["key"] == asdict(key):
            return Times(**content["times"])
    _log.info("%s is damaged, so convolutions are measured again", path)
    return None
