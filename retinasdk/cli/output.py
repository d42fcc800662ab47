"""What several commands write: text, JSON reports, folders and files checked beforehand."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from retinasdk import RetinaSdkError
from retinasdk._util.addresses import without_passwords
from retinasdk._util.files import write_atomically
from retinasdk._util.printable import printable
from retinasdk.cli.progress import above_progress

STANDARD_OUTPUT = Path("-")
_LACK_OF_MEMORY = ("std::bad_alloc", "Failed to serialize proto")


def text_stream(json_target: Path | None) -> IO[str]:
    """Chooses where a command prints its text.

    Args:
        json_target: The file given to `--json`, if any.

    Returns:
        Standard output; standard error if `--json -` sends the JSON to standard output.
    """
    return sys.stderr if json_target == STANDARD_OUTPUT else sys.stdout


def out_of_memory(error: MemoryError) -> str:
    """Returns the message for a lack of memory."""
    details = f" ({error})" if str(error) else ""
    return (
        f"there is not enough memory{details}; use smaller images, detect in parts with --tiles 640, reduce --batch, "
        "or choose a model with a smaller input size"
    )


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Turns what ONNX Runtime and protobuf raise for a lack of memory into `MemoryError`."""
    try:
        yield
    except (RetinaSdkError, MemoryError):
        raise
    except Exception as error:
        if not any(text in str(error) for text in _LACK_OF_MEMORY):
            raise
        raise MemoryError(" ".join(str(error).split())) from error


def print_text(text: object, file: IO[str] | None = None) -> None:
    """Prints text with control characters escaped, to standard output unless another stream is given."""
    with above_progress():
        print(printable(str(text)), file=file)


def flush_output() -> None:
    """Writes what standard output has buffered, so that a full disk is reported like any other error.

    Raises:
        OSError: It cannot be written.
    """
    try:
        sys.stdout.flush()
    except OSError:
        # Otherwise the interpreter would try again when it ends, and fail with a message of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def print_problem(text: object) -> None:
    """Prints a problem in one line on standard error, without the passwords of URLs."""
    line = printable(" ".join(without_passwords(str(text)).split()))
    with above_progress():
        print(f"retinasdk: {line}", file=sys.stderr, flush=True)


class LogHandler(logging.Handler):
    """Prints what the package logs as problems: lost connections, damaged frames."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a record."""
        try:
            print_problem(f"{record.levelname.lower()}: {record.getMessage()}")
        except Exception:
            self.handleError(record)


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
