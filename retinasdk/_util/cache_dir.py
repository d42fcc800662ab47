"""The folder of caches: files that retinasdk can make again at any time.

Note: Whose folder it is

    TensorRT runs code that is in an engine, and engines are loaded from the cache without a question. So nobody else
    may be able to put one there: the folder belongs to the user, is private (mode 700), and is no link, which another
    user could have made. A folder that is not so is not used, and its permissions are not changed, because its files
    may be of someone else already. Windows has no such modes; there the folder is in the profile of the user.
"""

from __future__ import annotations

import functools
import logging
import os
import shlex
import stat
import tempfile
from pathlib import Path

VARIABLE = "RETINASDK_CACHE"

_log = logging.getLogger("retinasdk")


def cache_dir() -> Path:
    """Returns the folder of caches and creates it if it does not exist.

    The folder is $RETINASDK_CACHE if that is set, else `retinasdk` in the user's cache folder (on Linux
    ~/.cache/retinasdk, or $XDG_CACHE_HOME/retinasdk). If it cannot be written or is not private, a folder among the
    temporary files is used instead, and one line in the log says why.

    Returns:
        The path of a folder that can be written by its user alone.

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
    _check_private(folder)
    # Writing a file is the only sure test: permissions do not tell about full and read-only disks.
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"1")


def _check_private(folder: Path) -> None:
    if not hasattr(os, "getuid"):
        return
    status = folder.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise PermissionError(f"it is a link; set {VARIABLE} to the folder itself: {folder.resolve()}")
    if status.st_uid != os.getuid():
        raise PermissionError(f"it belongs to another user, number {status.st_uid}")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise PermissionError(
            f"others can use it, its mode is {mode:o}; if all files in it are yours, run: "
            f"{shlex.join(['chmod', '700', str(folder)])}"
        )


def _temporary() -> Path:
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    return Path(tempfile.gettempdir()) / f"retinasdk-{user}"


@functools.cache  # One line in the log for the process, not one for each model.
def _fallback(preferred: Path, why: str) -> Path:
    folder = _temporary()
    try:
        _make(folder)
    except OSError as error:
        raise PermissionError(
            f"No folder of caches can be used: not {preferred} ({why}), and not {folder} "
            f"({error.strerror or error}). Set {VARIABLE} to a private folder of your own: "
            f'mkdir -m 700 -p ~/retinasdk-cache && export {VARIABLE}="$HOME/retinasdk-cache"'
        ) from error
    _log.warning(
        "The folder of caches %s cannot be used (%s). Caches go to %s instead. "
        "Set %s to a private folder that can be written.",
        preferred,
        why,
        folder,
        VARIABLE,
    )
    return folder
