"""Where retinasdk keeps what it can make again."""

from __future__ import annotations

import functools
import logging
import os
import tempfile
from pathlib import Path

VARIABLE = "RETINASDK_CACHE"

_log = logging.getLogger("retinasdk")


def cache_dir() -> Path:
    """The folder of caches, made if it is not there: $RETINASDK_CACHE, else `retinasdk` in the user's cache folder.

    Where that cannot be written, a folder of the user's among the temporary files, with one line in the log.
    Raises `OSError` where not even that can be made.
    """
    wanted = _wanted()
    try:
        _make(wanted)
    except OSError as error:
        return _fallback(wanted, error.strerror or str(error))
    return wanted


def _wanted() -> Path:
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE]).expanduser()
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "retinasdk"
    try:
        return Path.home() / ".cache" / "retinasdk"
    except RuntimeError:  # no home, as for some services
        return _temporary()


def _make(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    # The one sure way to know that files can be written, on full and on read-only disks too.
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"1")


def _temporary() -> Path:
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    return Path(tempfile.gettempdir()) / f"retinasdk-{user}"


@functools.cache  # one line in the log, not one a model
def _fallback(wanted: Path, why: str) -> Path:
    folder = _temporary()
    _make(folder)
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder}: wanted a folder of one's own for caches; set {VARIABLE} to one")
    _log.warning(
        "caches go to %s, as %s cannot be written (%s); set %s to a folder that can", folder, wanted, why, VARIABLE
    )
    return folder
