"""`retinasdk live`: a camera, a stream or a video, as it comes, to what `_live_sinks.py` writes."""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from retinasdk import Detector
from retinasdk._util.labels import class_ids_of
from retinasdk._util.lazy import require
from retinasdk.cli.arguments import add_filters, add_model, add_suppression, add_tiles, suppression_of, tiles_of
from retinasdk.cli.live_sinks import open_sinks
from retinasdk.live import Frame, Stream, stream
from retinasdk.live.counting import Counter, Counts
from retinasdk.live.sources import as_source
from retinasdk.live.web.address import DEFAULT, Address
from retinasdk.live.zones import Zones


def add_parser(commands: Any) -> None:
    """Adds the command."""
    live = commands.add_parser("live", help="detect objects in video, as it comes")
    live.add_argument(
        "source",
        metavar="SOURCE",
        help="video file, image folder, GIF, URL (rtsp, http), camera (0, /dev/video0), GStreamer pipeline, ROS 2 bag",
    )
    add_model(live)
    add_filters(live)
    add_suppression(live)
    add_tiles(live)
    live.add_argument(
        "--policy",
        help="latest, all, bounded:N or bounded:N:newest: what is dropped when the detector is slower than the source "
        "(default: latest for cameras and URLs, all for files)",
    )
    live.add_argument("--max-fps", type=float, metavar="N", help="at most so many frames a second")
    live.add_argument("--deadline", type=float, metavar="S", help="drop frames older than so many seconds")
    live.add_argument("--max-frames", type=int, metavar="N", help="end after so many frames")
    live.add_argument("--jsonl", metavar="FILE", help="write a line of JSON for each frame; - is standard output")
    live.add_argument("--csv", metavar="FILE", help="write a row for each object; - is standard output")
    live.add_argument(
        "--zones", type=Path, metavar="FILE.json", help="count in zones and across lines (retinasdk.live.zones.Zones)"
    )
    live.add_argument("--track", action="store_true", help="give each object an id; --zones does so too")
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
    live.add_argument(
        "--metrics", metavar="HOST:PORT", help="serve stage times and counters to Prometheus; a port alone: 127.0.0.1"
    )
    live.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Does it, until the source ends, --max-frames, Ctrl-C or q. Raises the errors of `stream`, and `OSError`."""
    if arguments.max_frames is not None and arguments.max_frames < 1:
        raise ValueError(f"--max-frames must be at least 1, got {arguments.max_frames}")
    source = as_source(arguments.source)
    zones = Zones() if arguments.track else None
    if arguments.zones is not None:
        zones = Zones.load(arguments.zones)
    if arguments.jsonl == arguments.csv == "-":
        raise ValueError("--jsonl and --csv cannot both go to standard output")
    tiles = tiles_of(arguments)
    policy = arguments.policy or ("latest" if source.live else "all")
    with contextlib.ExitStack() as stack:
        detector = stack.enter_context(
            Detector(
                arguments.model,
                device=arguments.device,
                score_threshold=arguments.score,
                suppression=suppression_of(arguments),
            )
        )
        if arguments.classes is not None:
            class_ids_of(arguments.classes, detector.labels)  # an unknown name is found out before the work
        counter = None if zones is None else Counter(zones, detector.labels)
        call = functools.partial(detector, classes=arguments.classes, ignore=arguments.ignore, tiles=tiles)
        frames = stack.enter_context(
            stream(source, call, policy=policy, max_fps=arguments.max_fps, deadline_s=arguments.deadline)
        )
        if arguments.metrics is not None:
            _serve_metrics(arguments.metrics, frames, stack)
        # Last, so that whatever else is wrong has not emptied a file; and closed first.
        sinks = list(open_sinks(arguments, source, zones, stack))
        counts = None
        file = sys.stderr if "-" in (arguments.jsonl, arguments.csv) else sys.stdout
        stack.callback(_print_summary, frames, file)
        for number, frame in enumerate(_with_progress(frames), 1):
            if counter is not None:
                counts = counter.update(frame)
            if False in [sink(frame, counts) for sink in sinks] or number == arguments.max_frames:
                break
        if counts is not None:
            _print_counts(counts, file)


def _serve_metrics(address: str, frames: Stream, stack: contextlib.ExitStack) -> None:
    from retinasdk.live.prometheus import register

    client = require("prometheus_client", "--metrics")
    registry = client.CollectorRegistry()
    register(frames, name="live", registry=registry)
    place = Address.parse(address)
    place.bind().close()  # says what is wrong with the address
    server, thread = client.start_http_server(place.port, addr=place.host, registry=registry)
    print(f"metrics at {place.url(server.server_port, None)}metrics", file=sys.stderr, flush=True)
    stack.callback(thread.join)
    stack.callback(server.server_close)
    stack.callback(server.shutdown)


def _with_progress(frames: Stream) -> Iterator[Frame]:
    """A line on a terminal, nothing elsewhere."""
    with require("tqdm", "the progress line").tqdm(desc="live", unit="frame", disable=None) as line:
        for frame in frames:
            line.set_postfix_str(f"age {frame.age_s:.2f} s, dropped {frame.counters.dropped}", refresh=False)
            line.update()
            yield frame


def _print_counts(counts: Counts, file: IO[str]) -> None:
    for name, inside in counts.zones.items():
        print(f"{name}: {inside} inside at the end", file=file)
    for name, (came, went) in counts.lines.items():
        print(f"{name}: {came} in, {went} out", file=file)


def _print_summary(frames: Stream, file: IO[str]) -> None:
    for name, counters in frames.counters.items():
        print(
            f"{name}: {counters.captured} frames captured, {counters.processed} processed, "
            f"{counters.dropped} dropped, {counters.failed} failed",
            file=file,
        )
    print(frames.metrics, file=file)
