"""Writes files completely or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Mapping
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file through a temporary file beside it.

    Args:
        path: The file to write. If it exists, it is replaced.
        content: The bytes to write.

    Raises:
        OSError: If it cannot be written. An existing file is then unchanged.
    """
    write_together({path: content})


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Writes files that belong together, all or none, each through a temporary file beside it.

    Args:
        contents: The bytes to write, by path. Existing files are replaced.

    Raises:
        OSError: If a file cannot be written. Existing files are then unchanged.
    """
    temporary = {path: path.with_name(f".{path.name}.{secrets.token_hex(4)}") for path in contents}
    try:
        for path, content in contents.items():
            with open(temporary[path], "xb") as file:
                file.write(content)
        for path in contents:  # Checks what could still fail before the first file is replaced.
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        for path in contents:
            os.replace(temporary[path], path)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)
