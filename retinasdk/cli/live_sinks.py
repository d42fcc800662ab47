"""Where `retinasdk live` writes: JSON Lines, CSV, video, a window, browsers. Each takes a frame and its counts."""

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
from retinasdk.cli.arguments import check_file
from retinasdk.drawing import draw_detections
from retinasdk.live import Frame, Source
from retinasdk.live.video_writer import VideoWriter
from retinasdk.live.zones import Zones
from retinasdk.live.zones_drawing import draw_counts

if TYPE_CHECKING:
    from retinasdk.live.counting import Counts

# Each says whether to go on. Counts are None where nothing is counted.
Sink = Callable[[Frame, "Counts | None"], bool]

_WINDOW = "retinasdk live (q ends)"
_COLUMNS = ("source", "index", "time_s", "label", "score", "x1", "y1", "x2", "y2")


def open_sinks(
    arguments: argparse.Namespace, source: Source, zones: Zones | None, stack: contextlib.ExitStack
) -> Iterator[Sink]:
    """What the arguments ask for; `stack` closes it. Raises what cannot be opened."""
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
        raise ValueError(f"{target}: would replace the source; choose another name")


def _text_file(target: str, source: Source, stack: contextlib.ExitStack) -> IO[str]:
    if target == "-":
        return sys.stdout
    _check_target(Path(target), source)
    # The stack closes it. csv brings line ends of its own.
    return stack.enter_context(open(target, "w", encoding="utf-8", newline=""))


def _write_json(file: IO[str], frame: Frame, counts: Counts | None) -> bool:
    entry = frame.to_dict()
    if counts is not None:
        entry.update(counts.to_dict())
        for found, track in zip(entry["detections"] or [], counts.tracks.tolist(), strict=True):
            found["track"] = None if track < 0 else track
    # A line at once: who reads along wants it now, and a line is whole or not there.
    print(json.dumps(entry), file=file, flush=True)
    return True


def _csv(target: str, source: Source, zones: Zones | None, stack: contextlib.ExitStack) -> Sink:
    """A row for each object; with zones also its track and the names of the zones it is in."""
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
    print(f"look at {preview.url}", file=sys.stderr, flush=True)

    def show(frame: Frame, _: Counts | None) -> bool:
        preview.show(frame)
        return True

    return show


def _save(writer: VideoWriter, source: Source, frame: Frame, picture: Any) -> bool:
    # A recording keeps its own times; those of a network stream begin anew when it is opened again.
    recorded = frame.time_s is not None and not source.live
    writer.add(picture, frame.time_s if recorded else frame.captured_s)  # type: ignore[arg-type]
    return True


def _window(stack: contextlib.ExitStack) -> Callable[[Frame, Any], bool]:
    cv2 = require("cv2", "--show")
    try:
        cv2.namedWindow(_WINDOW, cv2.WINDOW_NORMAL)
    except cv2.error as error:
        raise MissingDependencyError(
            "--show needs an OpenCV that has windows; pip install opencv-python (not -headless), or use --save"
        ) from error
    stack.callback(cv2.destroyAllWindows)
    numpy = require("numpy", "--show")

    def show(_: Frame, picture: Any) -> bool:
        cv2.imshow(_WINDOW, numpy.asarray(picture)[..., ::-1])
        return int(cv2.waitKey(1)) & 0xFF != ord("q")

    return show
