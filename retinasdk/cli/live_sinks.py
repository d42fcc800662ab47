"""Outputs of `retinasdk live`: JSON Lines, CSV, video, a window, browsers. Each takes a frame and its counts."""

from __future__ import annotations

import argparse
import contextlib
import csv
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from retinasdk import Detections, MissingDependencyError
from retinasdk._util.lazy import require
from retinasdk.cli.output import check_file
from retinasdk.drawing import draw_detections
from retinasdk.live import Frame, Source
from retinasdk.live.video_writer import VideoWriter
from retinasdk.live.zones import Zones
from retinasdk.live.zones_drawing import draw_counts

if TYPE_CHECKING:
    from retinasdk.live.counting import Counts

# Returns whether to continue. Counts are None if nothing is counted.
Sink = Callable[[Frame, "Counts | None"], bool]

_WINDOW = "retinasdk live (press q to quit)"
_COLUMNS = ("source", "index", "time_s", "label", "score", "x1", "y1", "x2", "y2")


def open_sinks(
    arguments: argparse.Namespace, source: Source, zones: Zones | None, stack: contextlib.ExitStack
) -> Iterator[Sink]:
    """Opens the outputs that the arguments ask for.

    Args:
        arguments: The arguments of the command.
        source: Where the frames come from, which no output may replace.
        zones: The zones to draw, if objects are counted.
        stack: Closes the outputs.

    Yields:
        Each output.

    Raises:
        ValueError: A file cannot be written under its name.
        OSError: A file or an address cannot be opened.
        MissingDependencyError: A package is missing.
    """
    if arguments.jsonl is not None:
        yield functools.partial(_write_json, _text_file(arguments.jsonl, source, stack))
    if arguments.csv is not None:
        yield _csv(arguments.csv, source, zones, stack)
    if arguments.web is not None:
        yield _web(arguments, stack)
    if arguments.save is None and not arguments.show:
        return
    shows: list[Callable[[Frame, Any], bool]] = []
    if arguments.save is not None:
        _check_target(arguments.save, source)
        writer = stack.enter_context(VideoWriter(arguments.save))
        shows.append(functools.partial(_save, writer, source))
    if arguments.show:
        shows.append(_window(stack))

    def mark(frame: Frame, counts: Counts | None) -> bool:
        found = Detections.empty(()) if frame.detections is None else frame.detections
        tracks = None if counts is None or frame.detections is None else counts.tracks.tolist()
        picture = draw_detections(frame.image, found, tracks=tracks)
        if counts is not None and zones is not None:
            draw_counts(picture, zones, counts)
        return False not in [show(frame, picture) for show in shows]

    yield mark


def _check_target(target: Path, source: Source) -> None:
    check_file(target)
    if target.exists() and os.path.exists(source.name) and target.samefile(source.name):
        raise ValueError(f"{target}: this would replace the source; choose another name")


def _text_file(target: str, source: Source, stack: contextlib.ExitStack) -> IO[str]:
    if target == "-":
        return sys.stdout
    _check_target(Path(target), source)
    # The stack closes it. The csv module writes its own line ends.
    return stack.enter_context(open(target, "w", encoding="utf-8", newline=""))


def _write_json(file: IO[str], frame: Frame, counts: Counts | None) -> bool:
    entry = frame.to_dict()
    if counts is not None:
        entry.update(counts.to_dict())
        for found, track in zip(entry["detections"] or [], counts.tracks.tolist(), strict=True):
            found["track"] = None if track < 0 else track
    # Flushed at once: a program that follows the file reads each line without delay, and never half a line.
    print(json.dumps(entry), file=file, flush=True)
    return True


def _csv(target: str, source: Source, zones: Zones | None, stack: contextlib.ExitStack) -> Sink:
    """Writes a row per detection; if objects are counted, also its track and the names of the zones it is in."""
    file = _text_file(target, source, stack)
    writer = csv.writer(file)
    writer.writerow([*_COLUMNS, "track", "zones"] if zones is not None else _COLUMNS)

    def write(frame: Frame, counts: Counts | None) -> bool:
        time_s = frame.captured_s if frame.time_s is None else frame.time_s
        for number, item in enumerate(frame.detections if frame.detections is not None else ()):
            row = [frame.source, frame.index, f"{time_s:.3f}", item.label, f"{item.score:.4f}"]
            row += [f"{edge:.2f}" for edge in item.xyxy]
            if counts is not None and zones is not None:
                track = int(counts.tracks[number])
                inside = [zone.name for zone, is_in in zip(zones.zones, counts.in_zone[number], strict=True) if is_in]
                row += ["" if track < 0 else track, ";".join(inside)]
            writer.writerow(row)
        file.flush()
        return True

    return write


def _web(arguments: argparse.Namespace, stack: contextlib.ExitStack) -> Sink:
    from retinasdk.live.web import Preview

    preview = stack.enter_context(Preview(arguments.web, token=arguments.web_token))
    print(f"open {preview.url}", file=sys.stderr, flush=True)

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
