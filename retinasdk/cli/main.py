"""The `retinasdk` command: its parser and its exit status. What each command does is in commands/."""

from __future__ import annotations

import argparse
import importlib
import keyword
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from retinasdk import RetinaSdkError, __version__
from retinasdk._util.addresses import without_passwords
from retinasdk.cli import interruption
from retinasdk.cli.command_list import COMMANDS, SUMMARIES
from retinasdk.cli.file_arguments import check_files
from retinasdk.cli.option_names import in_option_names
from retinasdk.cli.output import flush_output, memory_errors, out_of_memory, print_problem

PROG = "retinasdk"
_EXAMPLES = f"""\
examples:
  Detect people in a photo and draw them into out/street_detections.jpg:
    {PROG} detect street.jpg --out out
  Convert a model that another framework exported, then use it:
    {PROG} import theirs.onnx -o model.onnx
    {PROG} detect street.jpg --model model.onnx

A word @FILE stands for the arguments in that file, one in each line. So the
password of a camera is not in the list of processes.

'{PROG} COMMAND --help' describes a command and its options."""
_FAILED = 1
_BAD_INPUT = 2
_READER_LEFT = 141  # the exit status that a shell reports for a program ended by SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The words after `retinasdk`. Defaults to those of the process.

    Returns:
        The exit status: 0 for success; 1 if `verify` or `doctor` found a problem, `detect` could not read some of the
        images, or memory was not enough; 2 for bad input, with one line on standard error; 130 after Ctrl-C and 143
        after SIGTERM, with one line on standard error; 141 if the reader of standard output has gone.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        words = _with_files(words)
    except (OSError, ValueError) as error:
        return _failed(str(error), _BAD_INPUT)
    # A command loads only its own imports, so that `doctor` runs where the imports of other commands fail.
    wanted = words[:1] if words and words[0] in COMMANDS else COMMANDS
    try:
        arguments = _parser(wanted).parse_args(words)
    except SystemExit as stop:  # after --help and --version
        return int(stop.code or 0)
    except UnusableArgumentsError as error:
        return _failed(without_passwords(str(error), words), _BAD_INPUT)
    try:
        check_files(arguments.parser, arguments)
        with memory_errors():
            status: int | None = arguments.run(arguments)
        flush_output()
    except BrokenPipeError:  # the reader, such as `head`, has read enough; what is still buffered has no reader
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _READER_LEFT
    except KeyboardInterrupt:
        return interruption.tell()
    except (RetinaSdkError, ValueError, OSError) as error:
        # Without passwords first: what is found in the text must be as it was typed.
        return _failed(in_option_names(without_passwords(str(error), words), arguments), _BAD_INPUT)
    except MemoryError as error:
        return _failed(out_of_memory(error), _FAILED)
    return status or 0


def _failed(message: str, status: int) -> int:
    if interruption.received() is not None:  # An interrupted import may raise anything.
        return interruption.tell()
    print_problem(f"error: {message}")
    return status


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser of the whole command.

    The command reference in the documentation is generated from it.

    Returns:
        The parser with every subcommand, each with its description, its examples (`epilog`) and its option groups.
    """
    return _parser(COMMANDS)


def _with_files(words: Sequence[str]) -> list[str]:
    """Replaces each word @FILE by the lines of the file. So a password is not in the list of processes."""
    found = []
    for word in words:
        if not word.startswith("@"):
            found.append(word)
            continue
        try:
            found += [line for line in Path(word[1:]).read_text(encoding="utf-8").splitlines() if line]
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{word}: this stands for the arguments in a file, one in each line, but the file cannot be read "
                f"({getattr(error, 'strerror', None) or error}); a name that begins with @ is written ./{word}"
            ) from error
    return found


class UnusableArgumentsError(Exception):
    """The words after `retinasdk` are no command."""


class _Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, as every other error of the command."""

    def error(self, message: str) -> NoReturn:
        raise UnusableArgumentsError(f"{message}; see {self.prog} --help")


def _parser(names: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROG,
        usage="%(prog)s [-h] [--version] COMMAND ...",
        description="Run RetinaNet object detection models exported to ONNX, on the CPU or an\n"
        "NVIDIA GPU, with the post-processing of the framework that trained them.\n\n" + _command_list(),
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{PROG} {__version__}")
    # argparse would list all commands in one block; the description lists them in groups.
    commands = parser.add_subparsers(required=True, metavar="COMMAND", prog=PROG, help=argparse.SUPPRESS)
    for name in names:
        module = f"{name}_" if keyword.iskeyword(name) else name
        importlib.import_module(f"retinasdk.cli.commands.{module}").add_parser(commands)
    return parser


def _command_list() -> str:
    width = max(map(len, COMMANDS))
    lines = []
    for title, group in SUMMARIES.items():
        lines.append(f"{title}:")
        lines += [f"  {name:{width}s}  {summary}" for name, summary in group.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    from retinasdk.cli.process import run

    run()
