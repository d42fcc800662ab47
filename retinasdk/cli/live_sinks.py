"""Outputs of `retinasdk live`: JSON Lines, CSV, video, a window, browsers. Each takes a frame and its counts."""

from __future__ import annotations

import argparse
import contextlib
import csv
import functools
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from retinasdk import Detections, MissingDependencyError
from retinasdk._util.files import write_atomically
from retinasdk._util.lazy import require
from retinasdk._util.printable import printable
from retinasdk.drawing import draw_detections
from retinasdk.live import Frame, Source
from retinasdk.live.video_writer import VideoWriter
from retinasdk.live.zones import Zones
from retinasdk.live.zones_drawing import draw_counts

if TYPE_CHECKING:
    from retinasdk.live.counting import Counts

# Returns whether to continue. Counts are None if nothing is counted.
Sink = Callable[[Frame, "Counts | None"], bool]

# Environment variables: arguments of a process can be read by every user of the machine, its environment cannot.
WEB_TOKEN, METRICS_TOKEN = "RETINASDK_WEB_TOKEN", "RETINASDK_METRICS_TOKEN"
_WINDOW = "retinasdk live (press q to quit)"
_COLUMNS = ("source", "index", "time_s", "label", "score", "x1", "y1", "x2", "y2")


def open_sinks(
    arguments: argparse.Namespace,
    source: Source,
    zones: Zones | None,
    stack: contextlib.ExitStack,
    *,
    is_tracked: bool,
) -> Iterator[Sink]:
    """Opens the outputs that the arguments ask for.

    Args:
        arguments: The arguments of the command.
        source: Where the frames come from.
        zones: The zones to draw, if objects are counted.
        stack: Closes the outputs.
        is_tracked: Whether objects are tracked.

    Yields:
        Each output.

    Raises:
        ValueError: A file cannot be written under its name.
        OSError: A file or an address cannot be opened.
        MissingDependencyError: A package is missing.
    """
    if arguments.jsonl is not None:
        yield functools.partial(_write_json, _LineFile(arguments.jsonl, stack))
    if arguments.csv is not None:
        yield _csv(arguments.csv, zones, stack, is_tracked=is_tracked)
    if arguments.web is not None:
        yield _web(arguments, stack)
    if arguments.save is None and not arguments.show:
        return
    shows: list[Callable[[Frame, Any], bool]] = []
    if arguments.save is not None:
        writer = stack.enter_context(VideoWriter(arguments.save))
        shows.append(functools.partial(_save, writer, source))
    if arguments.show:
        shows.append(_window(stack))

    def mark(frame: Frame, counts: Counts | None) -> bool:
        found = Detections.empty(()) if frame.detections is None else frame.detections
        picture = draw_detections(frame.image, found)
        if counts is not None and zones is not None:
            draw_counts(picture, zones, counts)
        return False not in [show(frame, picture) for show in shows]

    yield mark


def given_token(argument: str | None, variable: str) -> str | None:
    """Returns the access token that the user gave, or None.

    Args:
        argument: The value of the option.
        variable: The environment variable that is used if the option is not.
    """
    return argument if argument is not None else os.environ.get(variable) or None


class _LineFile:
    """Appends whole lines to a file, or to standard output for "-".

    An older file is replaced by one with the first line: a run that fails before that, or for which the disk has no
    room, leaves the older file. Each line is written at once, so that a program that follows the file reads it without
    delay. If the disk is full later, the part of a line that was written is removed.
    """

    def __init__(self, target: str, stack: contextlib.ExitStack) -> None:
        self._target, self._stack = target, stack
        self._file: IO[bytes] | None = None

    def write(self, line: str) -> None:
        if self._target == "-":
            # A terminal would follow escape sequences in labels and names. A program gets them as they are.
            print(printable(line.removesuffix("\r")) if sys.stdout.isatty() else line, flush=True)
            return
        content = f"{line}\n".encode()
        if self._file is None:
            path = Path(self._target)
            # Devices, pipes and links, such as /dev/stdout, are written in place.
            is_replaced = not path.is_symlink() and (path.is_file() or not path.exists())
            if is_replaced:
                write_atomically(path, content)
            mode = "ab" if is_replaced else "wb"
            self._file = self._stack.enter_context(open(path, mode, buffering=0))  # noqa: SIM115 (the stack's)
            if is_replaced:
                return
        self._write_whole(self._file, content)

    def _write_whole(self, file: IO[bytes], content: bytes) -> None:
        begin = file.tell() if file.seekable() else None
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[file.write(rest) :]
        except BaseException as error:  # also Ctrl-C
            if begin is not None:
                file.truncate(begin)
            if not isinstance(error, OSError):
                raise
            raise OSError(
                f"{self._target}: cannot be written: {error.strerror}; the lines before are complete"
            ) from error


def _write_json(file: _LineFile, frame: Frame, counts: Counts | None) -> bool:
    entry = frame.to_dict()
    if counts is not None:
        entry.update(counts.to_dict())
    file.write(json.dumps(entry))
    return True


def _csv(target: str, zones: Zones | None, stack: contextlib.ExitStack, *, is_tracked: bool) -> Sink:
    """Writes a row per detection; of tracked objects, also the number, and the names of the zones they are in."""
    file = _LineFile(target, stack)
    has_head = False

    def add(row: Sequence[object]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\r").writerow(row)  # the line feed follows
        file.write(text.getvalue())

    def write(frame: Frame, counts: Counts | None) -> bool:
        nonlocal has_head
        if not has_head:
            add([*_COLUMNS, *(["track"] if is_tracked else []), *(["zones"] if zones is not None else [])])
            has_head = True
        time_s = frame.captured_s if frame.time_s is None else frame.time_s
        for number, item in enumerate(frame.detections if frame.detections is not None else ()):
            row: list[object] = [frame.source, frame.index, f"{time_s:.3f}", item.label, f"{item.score:.4f}"]
            row += [f"{edge:.2f}" for edge in item.xyxy]
            if is_tracked:
                row.append("" if item.track is None else item.track)
            if counts is not None and zones is not None:
                inside = [zone.name for zone, is_in in zip(zones.zones, counts.in_zone[number], strict=True) if is_in]
                row.append(";".join(inside))
            add(row)
        return True

    return write


def _web(arguments: argparse.Namespace, stack: contextlib.ExitStack) -> Sink:
    from retinasdk.live.web import Preview

    token = given_token(arguments.web_token, WEB_TOKEN)
    preview = stack.enter_context(Preview(arguments.web, token=token))
    text = " or on this machine ".join(preview.urls)
    if token is not None:  # One that was given is known, and stays out of logs.
        text = f"{text.replace(token, 'TOKEN')} (TOKEN: the given access token)"
    print(f"open {text}", file=sys.stderr, flush=True)

    def show(frame: Frame, _: Counts | None) -> bool:
        preview.show(frame)
        return True

    return show


def _save(writer: VideoWriter, source: Source, frame: Frame, picture: Any) -> bool:
    # A recording keeps its own times. Those of a network stream start again when it reconnects.
    recorded = frame.time_s is not None and not source.live
    writer.add(picture, frame.time_s if recorded else frame.captured_s)  # type: ignore[arg-type]
    return True


def _window(stack: contextlib.ExitStack) -> Callable[[Frame, Any], bool]:
    cv2 = require("cv2", "--show", package="opencv-python")
    try:
        cv2.namedWindow(_WINDOW, cv2.WINDOW_NORMAL)
    except cv2.error as error:
        raise MissingDependencyError(
            "--show needs an OpenCV that has windows, and this one has none; use --web or --save, or replace it: "
            "pip uninstall opencv-python-headless && pip install --force-reinstall opencv-python"
        ) from error
    stack.callback(cv2.destroyAllWindows)
    numpy = require("numpy", "--show")

    def show(_: Frame, picture: Any) -> bool:
        cv2.imshow(_WINDOW, numpy.asarray(picture)[..., ::-1])
        return int(cv2.waitKey(1)) & 0xFF != ord("q")

    return show
