"""Temporary folders that are removed even if the process has to end in the middle of a call."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator

_folders: set[str] = set()


@contextlib.contextmanager
def temporary_folder() -> Iterator[str]:
    """Makes a folder, yields its path, and removes it with its content at the end."""
    import tempfile  # Here, because the command needs this module before it can be interrupted.

    folder = tempfile.mkdtemp(prefix="retinasdk-")
    _folders.add(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _folders.discard(folder)


def remove_folders() -> None:
    """Removes all folders that are in use. Call it only if the process ends next."""
    for folder in list(_folders):
        shutil.rmtree(folder, ignore_errors=True)
