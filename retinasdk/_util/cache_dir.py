"""The folder of caches: files that retinasdk can make again at any time."""

from __future__ import annotations

import functools
import logging
import os
import tempfile
from pathlib import Path

VARIABLE = "RETINASDK_CACHE"

_log = logging.getLogger("retinasdk")


def cache_dir() -> Path:
    """Returns the folder of caches and creates it if it does not exist.

    The folder is $RETINASDK_CACHE if that is set, else `retinasdk` in the user's cache folder (on Linux
    ~/.cache/retinasdk, or $XDG_CACHE_HOME/retinasdk). If it cannot be written, a folder among the temporary files that
    belongs to the user is used instead, and one line in the log says so.

    Returns:
        The path of a folder that can be written.

    Raises:
        OSError: If the folder among the temporary files cannot be used either.
    """
    preferred = _preferred()
    try:
        _make(preferred)
    except OSError as error:
        return _fallback(preferred, error.strerror or str(error))
    return preferred


def _preferred() -> Path:
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE]).expanduser()
    import platformdirs

    folder = platformdirs.user_cache_path("retinasdk", appauthor=False)
    return folder if folder.is_absolute() else _temporary()  # Some services run without a home folder.


def _make(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Writing a file is the only sure test: permissions do not tell about full and read-only disks.
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"1")


def _temporary() -> Path:
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    return Path(tempfile.gettempdir()) / f"retinasdk-{user}"


@functools.cache  # One line in the log for the process, not one for each model.
def _fallback(preferred: Path, why: str) -> Path:
    folder = _temporary()
    _make(folder)
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        raise PermissionError(
            f"The folder of caches {folder} belongs to another user. Set {VARIABLE} to a folder of your own."
        )
    _log.warning(
        "The folder of caches %s cannot be written (%s). Caches go to %s instead. "
        "Set %s to a folder that can be written.",
        preferred,
        why,
        folder,
        VARIABLE,
    )
    return folder
