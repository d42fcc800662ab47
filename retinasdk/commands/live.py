"""`retinasdk live`: a camera, a stream or a video to JSON Lines, marked video and a window, as it comes."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from retinasdk import Detections, Detector, MissingDependencyError
from retinasdk._labels import class_ids_of
from retinasdk._lazy import require
from retinasdk.commands._shared import add_model, check_file, names
from retinasdk.drawing import draw_detections
from retinasdk.live import Frame, Source, Stream, stream
from retinasdk.live.sources import as_source
from retinasdk.live.video_writer import VideoWriter
from retinasdk.live.web.address import DEFAULT

_WINDOW = "retinasdk live (q ends)"


def add_parser(commands: Any) -> None:
    """Adds the command."""
    live = commands.add_parser("live", help="detect objects in video, as it comes")
    live.add_argument(
        "source",
        metavar="SOURCE",
        help="video file, image folder, GIF, URL (rtsp, http), camera (0, /dev/video0), GStreamer pipeline, ROS 2 bag",
    )
    add_model(live)
    live.add_argument("--classes", type=names, help="only these, e.g. person,chair")
    live.add_argument("--score", type=float, help="report scores above this, 0 to 1 (default: the model's)")
    live.add_argument(
        "--policy",
        help="latest, all, bounded:N or bounded:N:newest: what is dropped when the detector is slower than the source "
        "(default: latest for cameras and URLs, all for files)",
    )
    live.add_argument("--max-fps", type=float, metavar="N", help="at most so many frames a second")
    live.add_argument("--deadline", type=float, metavar="S", help="drop frames older than so many seconds")
    live.add_argument("--max-frames", type=int, metavar="N", help="end after so many frames")
    live.add_argument("--jsonl", metavar="FILE", help="write a line of JSON for each frame; - is standard output")
    live.add_argument("--save", type=Path, metavar="FILE.mp4", help="write marked video")
    live.add_argument("--show", action="store_true", help="show marked video in a window")
    live.add_argument(
        "--web",
        nargs="?",
        const=DEFAULT,
        metavar="HOST:PORT",
        help=f"show it to browsers; a port alone, or nothing, is of this machine only (default: {DEFAULT})",
    )
    live.add_argument("--web-token", metavar="TOKEN", help="what viewers must know; made where others can connect")
    live.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Does it, until the source ends, --max-frames, Ctrl-C or q. Raises the errors of `stream`, and `OSError`."""
    if arguments.max_frames is not None and arguments.max_frames < 1:
        raise ValueError(f"--max-frames must be at least 1, got {arguments.max_frames}")
    source = as_source(arguments.source)
    policy = arguments.policy or ("latest" if source.live else "all")
    with contextlib.ExitStack() as stack:
        detector = stack.enter_context(
            Detector(arguments.model, device=arguments.device, score_threshold=arguments.score)
        )
        if arguments.classes is not None:
            class_ids_of(arguments.classes, detector.labels)  # an unknown name is found out before the work
        call = functools.partial(detector, classes=arguments.classes)
        frames = stack.enter_context(
            stream(source, call, policy=policy, max_fps=arguments.max_fps, deadline_s=arguments.deadline)
        )
        # Last, so that whatever else is wrong has not emptied a file; and closed first.
        sinks = list(_sinks(arguments, source, stack))
        stack.callback(_print_summary, frames, sys.stderr if arguments.jsonl == "-" else sys.stdout)
        for number, frame in enumerate(_with_progress(frames), 1):
            if False in [sink(frame) for sink in sinks] or number == arguments.max_frames:
                break


def _sinks(
    arguments: argparse.Namespace, source: Source, stack: contextlib.ExitStack
) -> Iterator[Callable[[Frame], bool]]:
    """Functions that each take a frame and say whether to go on; `stack` closes what they write to."""
    if arguments.jsonl is not None:
        yield _json_lines(arguments.jsonl, source, stack)
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

    def mark(frame: Frame) -> bool:
        found = Detections.empty(()) if frame.detections is None else frame.detections
        picture = draw_detections(frame.image, found)
        return False not in [show(frame, picture) for show in shows]

    yield mark


def _check_target(target: Path, source: Source) -> None:
    check_file(target)
    if target.exists() and os.path.exists(source.name) and target.samefile(source.name):
        raise ValueError(f"{target}: would replace the source; choose another name")


def _json_lines(target: str, source: Source, stack: contextlib.ExitStack) -> Callable[[Frame], bool]:
    if target == "-":
        file: IO[str] = sys.stdout
    else:
        _check_target(Path(target), source)
        file = stack.enter_context(open(target, "w", encoding="utf-8"))  # noqa: SIM115 - the stack closes it

    def write(frame: Frame) -> bool:
        # A line at once: who reads along wants it now, and a line is whole or not there.
        print(json.dumps(frame.to_dict()), file=file, flush=True)
        return True

    return write


def _web(arguments: argparse.Namespace, stack: contextlib.ExitStack) -> Callable[[Frame], bool]:
    from retinasdk.live.web import Preview

    preview = stack.enter_context(Preview(arguments.web, token=arguments.web_token))
    print(f"look at {preview.url}", file=sys.stderr, flush=True)

    def show(frame: Frame) -> bool:
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


def _with_progress(frames: Stream) -> Iterator[Frame]:
    """A line on a terminal, nothing elsewhere."""
    with require("tqdm", "the progress line").tqdm(desc="live", unit="frame", disable=None) as line:
        for frame in frames:
            line.set_postfix_str(f"age {frame.age_s:.2f} s, dropped {frame.counters.dropped}", refresh=False)
            line.update()
            yield frame


def _print_summary(frames: Stream, file: IO[str]) -> None:
    for name, counters in frames.counters.items():
        print(
            f"{name}: {counters.captured} frames captured, {counters.processed} processed, "
            f"{counters.dropped} dropped, {counters.failed} failed",
            file=file,
        )
    print(frames.metrics, file=file)
