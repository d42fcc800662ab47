"""Reads config files and the files that they name as their base, which come from outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retinasdk._util.json_text import parse_json

_MAX_BYTES = 1 << 19  # The largest dumped configs have some tens of kilobytes, and YAML takes seconds for a megabyte.


def config_text(path: Path) -> str:
    """Returns the text of a config file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is a device or a pipe, is too large, or is not UTF-8.
    """
    size = path.stat().st_size
    if not path.is_file():  # A device has no end, and a pipe may have no writer.
        raise ValueError("it is no file")
    if size > _MAX_BYTES:
        raise ValueError(f"it has {size} bytes; a config has at most {_MAX_BYTES}")
    return path.read_text(encoding="utf-8")


def read_json(path: Path) -> Any:
    """Returns the content of a JSON file. Raises the errors of `config_text`, and `ValueError` if it is no JSON."""
    return parse_json(config_text(path))
