"""The `retinasdk` command: its parser and its exit status. What each command does is in commands/."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from retinasdk import RetinaSdkError, __version__
from retinasdk.commands import build, detect, doctor, eval, models, verify

_COMMANDS = (detect, models, eval, build, verify, doctor)
_BAD_INPUT = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0, or 2 with one line on stderr for bad input."""
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:  # --help and --version: 0, unusable arguments: 2
        return int(stop.code or 0)
    try:
        arguments.run(arguments)
    except (RetinaSdkError, ValueError, OSError) as error:
        print(f"retinasdk: error: {' '.join(str(error).split())}", file=sys.stderr)
        return _BAD_INPUT
    except KeyboardInterrupt:
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other error of the command."""

    def error(self, message: str) -> NoReturn:
        print(f"retinasdk: error: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(_BAD_INPUT)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="retinasdk", description="RetinaNet detections from ONNX models.")
    parser.add_argument("--version", action="version", version=f"retinasdk {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
