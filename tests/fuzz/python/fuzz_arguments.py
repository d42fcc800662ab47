"""Fuzzes the words of the command line: sizes, tiles, classes, scores, regions, rules for overlapping boxes.

A word ends at a line break. Commands run in an empty folder, so that they read words and find no files. Those that
would open a camera, measure, or ask the network are parsed only.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import random
from collections.abc import Iterator

import harness

with harness.instrumented(__name__ == "__main__"):
    from retinasdk._util.labels import class_ids_of
    from retinasdk.cli.arguments import suppression_of, tiles_of
    from retinasdk.cli.main import UnusableArgumentsError, build_parser, main
    from retinasdk.convert.importing.options import parse_resize
    from retinasdk.errors import ModelError
    from retinasdk.pipeline.call_options import checked_regions, checked_thresholds
    from retinasdk.spec import Resize

LABELS = ("person", "dining table")
RUN = ("detect", "eval", "import", "build", "quantize", "verify")
PARSED = ("detect", "live", "bench", "export", "doctor", "models")
_PARSER = build_parser()
_VALUES = (
    "640",
    "480x640",
    "auto",
    "0.2",
    "1e400",
    "nan",
    "inf",
    "-1",
    "0x0",
    "²",
    "٣x٣",
    "9" * 5000,
    "1_000",
    "person",
)
_OPTIONS = (
    "--tiles", "--overlap", "--whole-image", "--classes", "--score", "--ignore", "--iou", "--sigma", "--max-per-class",
    "--max-detections", "--suppression", "--across-classes", "--fused-score", "--resize", "--labels", "--strides",
    "--mean", "--std", "--threads", "--batch", "--size", "--max-fps", "--attempts", "--web", "--metrics", "--device",
)  # fmt: skip


def one_input(data: bytes) -> None:
    words = data.decode("utf-8", "surrogateescape").split("\n")
    with _quiet():
        _parse(words)
        for command in PARSED:
            _parsed([command, *words])
    for word in words:
        with harness.documented(ModelError):
            parse_resize(word, Resize("shortest", (800, 1333)), (96, 160))
    _run(RUN[len(data) % len(RUN)], words)


def _parsed(words: list[str]) -> argparse.Namespace | None:
    """Returns the arguments; None for words that the parser refuses, with the end of the process or an error."""
    try:
        return _PARSER.parse_args(words)
    except (SystemExit, UnusableArgumentsError):
        return None


def _parse(words: list[str]) -> None:
    arguments = _parsed(["detect", "nothing.png", *words])
    if arguments is None:
        return
    with harness.documented(ValueError, TypeError):
        tiles_of(arguments)
    with harness.documented(ValueError, TypeError):
        suppression_of(arguments)
    with harness.documented(ValueError, TypeError):
        checked_regions(arguments.ignore)
    if arguments.score is not None:
        with harness.documented(ValueError, TypeError):
            checked_thresholds(arguments.score, LABELS, 0.5)
    if arguments.classes is not None:
        with harness.documented(ValueError, TypeError):
            class_ids_of(arguments.classes, LABELS)


def _run(command: str, words: list[str]) -> None:
    here = os.getcwd()
    with harness.folder_with() as folder:
        os.chdir(folder)
        try:
            with _quiet() as said:
                status = main([command, *words])
            written = os.listdir(folder)
        finally:
            os.chdir(here)
    if written:
        raise harness.FindingError(f"{command} wrote {written}")
    if status == 2 and len(said.getvalue().splitlines()) != 1:
        raise harness.FindingError(f"{command} ended with status 2 and not with one line: {said.getvalue()!r}")


@contextlib.contextmanager
def _quiet() -> Iterator[io.StringIO]:
    """Keeps what is printed, and gives what goes to standard error."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        yield said


def mutate(data: bytes, largest: int, seed: int) -> bytes:
    """Changes options and their values as whole words."""
    choice = random.Random(seed)
    words = data.decode("utf-8", "surrogateescape").split("\n")
    at = choice.randrange(len(words) + 1)
    added = [choice.choice(_OPTIONS)] if choice.random() < 0.7 else []
    parts = [choice.choice(_VALUES) for _ in range(choice.choice((1, 1, 1, 2, 4)))]
    separators = itertools.chain([""], itertools.repeat(choice.choice((",", "x", "=", " ", ":"))))
    words[at : at + choice.randrange(3)] = [*added, "".join(f"{a}{b}" for a, b in zip(separators, parts, strict=False))]
    return "\n".join(words).encode("utf-8", "surrogateescape")


if __name__ == "__main__":
    harness.fuzz(one_input, mutate=mutate)
