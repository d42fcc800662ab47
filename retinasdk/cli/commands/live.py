"""`retinasdk live`: detects objects in video from any source; `live_sinks.py` writes and shows them."""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import sys
from pathlib import Path
from typing import IO, Any

from retinasdk import Detector
from retinasdk._util.labels import class_ids_of
from retinasdk._util.lazy import require
from retinasdk.cli.arguments import (
    add_command,
    add_device,
    add_filters,
    add_model,
    add_suppression,
    add_tiles,
    suppression_of,
    tiles_of,
)
from retinasdk.cli.file_arguments import Input, Output, add_overwrite
from retinasdk.cli.live_sinks import METRICS_TOKEN, WEB_TOKEN, given_token, open_sinks
from retinasdk.cli.output import print_text
from retinasdk.cli.progress import Display
from retinasdk.cli.tracking_options import NOTE, add_tracking, tracker_of, zones_of
from retinasdk.live import Frame, Reconnect, Stream, stream
from retinasdk.live.counting import Counter, Counts
from retinasdk.live.sources import DECODERS, as_source
from retinasdk.live.web.address import DEFAULT


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "live",
        description="Detects objects in live or recorded video: a file, a camera, a network stream, a folder of "
        "images, a GStreamer pipeline or a ROS 2 bag. Writes them as JSON Lines or CSV, as video with boxes, or shows "
        "them in a window or a browser. It can track objects and count them in zones. Stop it with Ctrl-C.",
        examples=[
            (
                "Detect in every frame of a video, and write a video with boxes",
                "retinasdk live traffic.mp4 --save marked.mp4 --jsonl found.jsonl",
            ),
            ("Watch a camera in the browser", "retinasdk live /dev/video0 --web"),
            (
                "Give each object a number, and write it with each detection",
                "retinasdk live clip.mp4 --track --csv -",
            ),
            (
                "Count who crosses the middle of the picture in a network stream",
                "retinasdk live rtsp://camera/live --count-line 0,0.5,1,0.5 --jsonl -",
            ),
        ],
        notes=NOTE,
    )
    video = parser.add_argument_group("Input")
    video.add_argument(
        "source",
        action=Input,
        metavar="SOURCE",
        help="video file, folder of images, animated GIF, URL (rtsp, http), camera (0 or /dev/video0), GStreamer "
        "pipeline in quotes, or folder of a ROS 2 bag",
    )
    video.add_argument(
        "--decoder",
        choices=DECODERS,
        default=DECODERS[0],
        help="what decodes video files and URLs. nvdec: an NVIDIA GPU, where frames stay unless an output shows them; "
        "needs --device cuda and pip install pynvvideocodec; default: %(default)s, on the CPU",
    )
    video.add_argument(
        "--policy",
        help="which frames are dropped if the detector is slower than the source. latest: keep only the newest; all: "
        "drop none; bounded:N: queue N frames and drop the oldest; bounded:N:newest: queue N and drop the newest; "
        "default: latest for cameras and URLs, all for files",
    )
    video.add_argument(
        "--max-fps", type=float, metavar="N", help="process at most this many frames per second; default: no limit"
    )
    video.add_argument(
        "--deadline", type=float, metavar="S", help="drop frames that have waited longer than S seconds; default: none"
    )
    video.add_argument("--max-frames", type=int, metavar="N", help="stop after N frames; default: at the end")
    video.add_argument(
        "--attempts",
        type=_attempts,
        default=10,
        metavar="N",
        help="how often in a row a camera or URL that drops is opened again, at growing intervals of 0.5 to 30 s; 0: "
        "never; unlimited: until it is back; default: %(default)s",
    )
    video.add_argument(
        "--first-attempts",
        type=_attempts,
        default=0,
        metavar="N",
        help="how often a camera or URL that cannot be opened at the start is tried again; unlimited: until it is "
        "there; default: %(default)s, which reports at once why it cannot be opened",
    )
    detection = parser.add_argument_group("Detection")
    add_model(detection)
    add_filters(detection)
    add_tracking(parser)
    output = parser.add_argument_group("Output")
    output.add_argument(
        "--jsonl",
        action=Output,
        is_stream=True,
        metavar="FILE",
        help="write one line of JSON per frame; - writes to standard output",
    )
    output.add_argument(
        "--csv",
        action=Output,
        is_stream=True,
        metavar="FILE",
        help="write one row per detection; - writes to standard output",
    )
    output.add_argument(
        "--save",
        action=Output,
        type=Path,
        metavar="FILE.mp4",
        help="write video with boxes, as .mp4, .m4v, .mov or .mkv",
    )
    add_overwrite(output)
    output.add_argument("--show", action="store_true", help="show video with boxes in a window; q closes it")
    output.add_argument(
        "--web",
        nargs="?",
        const=DEFAULT,
        metavar="HOST:PORT",
        help="show video with boxes in browsers, at the address that is printed. A port alone serves this machine "
        f"only; 0.0.0.0:8080 serves the network; default without a value: {DEFAULT}",
    )
    output.add_argument(
        "--web-token",
        metavar="TOKEN",
        help=f"access token for --web, 16 to 256 letters, digits, - or _; default: ${WEB_TOKEN}, or a new one for "
        "addresses that others can reach",
    )
    output.add_argument(
        "--metrics",
        metavar="HOST:PORT",
        help="serve stage times and frame counts to Prometheus, at /metrics. A port alone, 9090 or :9090, serves this "
        "machine only; 0.0.0.0:9090 serves the network, to clients that send the token",
    )
    output.add_argument(
        "--metrics-token",
        metavar="TOKEN",
        help=f"access token for --metrics, as --web-token; default: ${METRICS_TOKEN}, or a new one for addresses that "
        "others can reach",
    )
    add_tiles(parser)
    add_suppression(parser)
    add_device(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Runs the command until the source ends, `--max-frames`, Ctrl-C or q.

    Raises:
        RetinaSdkError: An error of `Detector` or of `stream`.
        ValueError: An option is out of range.
        OSError: A file cannot be written, or an address is not free.
    """
    if arguments.max_frames is not None and arguments.max_frames < 1:
        raise ValueError(f"--max-frames must be at least 1, got {arguments.max_frames}")
    device = arguments.device
    if arguments.decoder == "nvdec":
        if device == "cpu":
            raise ValueError("--decoder nvdec decodes into GPU memory, which --device cpu cannot read; leave one out")
        device = "cuda"
    source = as_source(arguments.source, arguments.decoder)
    tracker, zones = tracker_of(arguments), zones_of(arguments)
    if arguments.jsonl == arguments.csv == "-":
        raise ValueError("--jsonl and --csv cannot both go to standard output")
    tiles = tiles_of(arguments)
    policy = arguments.policy or ("latest" if source.live else "all")
    with contextlib.ExitStack() as stack:
        detector = stack.enter_context(
            Detector(
                arguments.model,
                device=device,
                score_threshold=arguments.score,
                suppression=suppression_of(arguments),
            )
        )
        if arguments.classes is not None:
            class_ids_of(arguments.classes, detector.labels)  # reports an unknown name before the work
        counter = None if zones is None else Counter(zones, detector.labels)
        call = functools.partial(detector, classes=arguments.classes, ignore=arguments.ignore, tiles=tiles)
        frames = stack.enter_context(
            stream(
                source,
                call,
                policy=policy,
                max_fps=arguments.max_fps,
                deadline_s=arguments.deadline,
                reconnect=Reconnect(attempts=arguments.attempts, first_attempts=arguments.first_attempts),
                tracker=tracker,
            )
        )
        if arguments.metrics is not None:
            _serve_metrics(arguments, frames, stack)
        # Opened last, and closed first.
        sinks = list(open_sinks(arguments, source, zones, stack, is_tracked=tracker is not None))
        counts, found = None, _Found()
        file = sys.stderr if "-" in (arguments.jsonl, arguments.csv) else sys.stdout
        stack.callback(_print_summary, frames, found, file)
        # Lines of results on the same terminal would tear the line of progress.
        is_torn = file is sys.stderr and sys.stdout.isatty()
        progress = stack.enter_context(Display(quiet=arguments.quiet or is_torn))
        for number, frame in enumerate(frames, 1):
            _show_progress(progress, number, frame)
            found.add(frame)
            if counter is not None:
                counts = counter.update(frame)
            if False in [sink(frame, counts) for sink in sinks] or number == arguments.max_frames:
                break
        if counts is not None:
            _print_counts(counts, file)


class _Found:
    """Counts what was detected, for the summary."""

    def __init__(self) -> None:
        self._labels: collections.Counter[str] = collections.Counter()
        self._frames = self._frames_with_any = 0

    def add(self, frame: Frame) -> None:
        found = [] if frame.detections is None else [item.label for item in frame.detections]
        self._labels.update(found)
        self._frames += 1
        self._frames_with_any += bool(found)

    def __str__(self) -> str:
        if not self._labels:
            return f"detected nothing in {self._frames} frames"
        counts = ", ".join(f"{count} x {label}" for label, count in self._labels.most_common())
        return f"detected {counts}, in {self._frames_with_any} of {self._frames} frames"


def _attempts(text: str) -> int | None:
    """Returns how often to try again, None for no limit. Called by argparse, which reports errors."""
    if text == "unlimited":
        return None
    if text.isdecimal():
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no number of attempts; use 0, 1, 2 ... or unlimited")


def _serve_metrics(arguments: argparse.Namespace, frames: Stream, stack: contextlib.ExitStack) -> None:
    from retinasdk.live.prometheus import MetricsServer, register

    registry = require("prometheus_client", "--metrics").CollectorRegistry()
    register(frames, name="live", registry=registry)
    token = given_token(arguments.metrics_token, METRICS_TOKEN)
    server = stack.enter_context(MetricsServer(registry, arguments.metrics, token=token))
    shown = server.token if token is None else "TOKEN"  # One that was given is known, and stays out of logs.
    needed = "" if server.token is None else f", with the header Authorization: Bearer {shown}"
    print(f"metrics at {server.url}{needed}", file=sys.stderr, flush=True)


def _show_progress(progress: Display, number: int, frame: Frame) -> None:
    """Shows how much of a recording is done. A camera has no end: it is shown on a terminal, and fills no log."""
    if frame.progress is not None or sys.stderr.isatty():
        note = f"{number:,} frames, age {frame.age_s:.2f} s, {frame.counters.dropped:,} dropped"
        progress.update("live", frame.progress, note)


def _print_counts(counts: Counts, file: IO[str]) -> None:
    for name, inside in counts.zones.items():
        print_text(f"{name}: {inside} inside at the end", file=file)
    for name, (came, went) in counts.lines.items():
        print_text(f"{name}: {came} in, {went} out", file=file)


def _print_summary(frames: Stream, found: _Found, file: IO[str]) -> None:
    if not any(counters.captured for counters in frames.counters.values()):
        return  # The source could not be opened, and the error says why.
    for name, counters in frames.counters.items():
        print_text(
            f"{name}: {counters.captured} frames captured, {counters.processed} processed, "
            f"{counters.dropped} dropped, {counters.failed} failed",
            file=file,
        )
    print_text(found, file=file)
    print_text(frames.metrics, file=file)
    bottleneck = frames.metrics.load.bottleneck()
    if bottleneck is not None:
        print_text(bottleneck, file=file)
