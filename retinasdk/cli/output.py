"""What several commands write: text, JSON reports, folders and files checked beforehand."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import IO

from retinasdk._util.files import write_atomically
from retinasdk.cli.progress import above_progress

STANDARD_OUTPUT = Path("-")
# Also the marks that reverse the direction of writing.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def text_stream(json_target: Path | None) -> IO[str]:
    """Chooses where a command prints its text.

    Args:
        json_target: The file given to `--json`, if any.

    Returns:
        Standard output; standard error if `--json -` sends the JSON to standard output.
    """
    return sys.stderr if json_target == STANDARD_OUTPUT else sys.stdout


def printable(text: str) -> str:
    """Returns the text with control characters escaped, except line ends and tabs.

    Names of files, labels and messages may come from strangers: an escape sequence among them could change what the
    terminal shows, or its settings.
    """
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def out_of_memory(error: MemoryError) -> str:
    """Returns the message for a lack of memory."""
    details = f" ({error})" if str(error) else ""
    return (
        f"there is not enough memory{details}; use smaller images, detect in parts with --tiles 640, reduce --batch, "
        "or choose a model with a smaller input size"
    )


def print_text(text: object, file: IO[str] | None = None) -> None:
    """Prints text with control characters escaped, to standard output unless another stream is given."""
    with above_progress():
        print(printable(str(text)), file=file)


def write_json(target: Path | None, content: str) -> None:
    """Writes the file given to `--json`, or standard output for `-`, and says so. Does nothing without a target."""
    if target is None:
        return
    if target == STANDARD_OUTPUT:
        print(content.rstrip("\n"), flush=True)
    else:
        write_atomically(target, content.encode())
        print_text(f"wrote {target}")


def make_folder(folder: Path) -> None:
    """Makes a folder to write to.

    Raises:
        ValueError: It cannot be made, or cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder}: the output folder cannot be created: {error.strerror}; choose another") from error
    _check_writable(folder)


def check_file(path: Path) -> None:
    """Checks before the work that a file of this name can be written.

    Raises:
        ValueError: It is a folder, or its folder cannot be written to.
    """
    if path.is_dir():
        raise ValueError(f"{path}: this is a folder; give the name of the file to write")
    _check_writable(path.parent)


def _check_writable(folder: Path) -> None:
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder to write to; create it first: mkdir -p '{folder}'")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{folder}: the folder cannot be written to; choose another, or change its permissions")


def print_now(text: str, file: IO[str]) -> None:
    """Prints at once, above a line of progress if there is one."""
    with above_progress():
        print(printable(text), file=file, flush=True)
