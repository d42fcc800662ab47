"""The `retinasdk` command: its parser and its exit status. What each command does is in commands/."""

from __future__ import annotations

import argparse
import importlib
import keyword
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from retinasdk import RetinaSdkError, __version__

_COMMANDS = ("detect", "live", "models", "eval", "bench", "import", "export", "quantize", "build", "verify", "doctor")
_BAD_INPUT = 2
_READER_LEFT = 141  # as a shell says of a program that SIGPIPE ended


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status.

    0; 1 where what was asked for is not so (verify, doctor); 2 with one line on stderr for bad input; 130 after Ctrl-C,
    141 where nobody reads standard output any more.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    # One command imports what it needs, not what others need: the doctor has to come where those cannot be imported.
    wanted = words[:1] if words and words[0] in _COMMANDS else _COMMANDS
    try:
        arguments = _parser(wanted).parse_args(words)
    except SystemExit as stop:  # --help and --version: 0, unusable arguments: 2
        return int(stop.code or 0)
    try:
        status: int | None = arguments.run(arguments)
    except BrokenPipeError:  # its reader, such as head, has enough; what is still in the buffer is nobody's
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _READER_LEFT
    except (RetinaSdkError, ValueError, OSError) as error:
        print(f"retinasdk: error: {' '.join(str(error).split())}", file=sys.stderr)
        return _BAD_INPUT
    except KeyboardInterrupt:
        return 130
    return status or 0


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other error of the command."""

    def error(self, message: str) -> NoReturn:
        print(f"retinasdk: error: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(_BAD_INPUT)


def _parser(names: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(prog="retinasdk", description="RetinaNet detections from ONNX models.")
    parser.add_argument("--version", action="version", version=f"retinasdk {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name in names:
        module = f"{name}_" if keyword.iskeyword(name) else name
        importlib.import_module(f"retinasdk.cli.commands.{module}").add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
