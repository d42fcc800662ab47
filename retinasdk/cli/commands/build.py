"""`retinasdk build`: an ONNX file to a TensorRT engine."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from retinasdk import build_engine
from retinasdk._util.lazy import require
from retinasdk.cli.arguments import image_size
from retinasdk.tensorrt.engine_info import PRECISIONS, EngineInfo


def add_parser(commands: Any) -> None:
    """Adds the command."""
    build = commands.add_parser("build", help="build a TensorRT engine for the GPU of this machine")
    build.add_argument("model", metavar="MODEL", help="a bundled name or an ONNX file")
    build.add_argument("-o", "--out", type=Path, required=True, metavar="FILE.engine", help="the engine to write")
    build.add_argument("--precision", choices=PRECISIONS, default="fp16", help="(default: %(default)s)")
    build.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="for int8: images like those to come, which the scales are taken from",
    )
    build.add_argument(
        "--batch", type=_batch, metavar="N|MIN,OPT,MAX", help="images at a time (default: 1, or the network's own)"
    )
    build.add_argument(
        "--size",
        type=image_size,
        action="append",
        metavar="HxW",
        help="size of images to come, such as 1080x1920; again for more, the most frequent first (default: any)",
    )
    build.add_argument("--workspace", type=int, metavar="MB", help="most scratch memory of the engine")
    build.add_argument("--level", type=int, choices=range(6), help="0: quick to build ... 5: quick to run")
    build.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Builds it. Raises the errors of `build_engine`."""
    with _progress_bar() as progress:
        info = build_engine(
            arguments.model,
            arguments.out,
            precision=arguments.precision,
            batch=arguments.batch,
            sizes=arguments.size,
            images=arguments.images,
            workspace_bytes=None if arguments.workspace is None else arguments.workspace * 1_000_000,
            optimization_level=arguments.level,
            progress=progress,
        )
    print(_report(arguments.out, info))


def _report(path: Path, info: EngineInfo) -> str:
    made, low, usual, high = info.fingerprint, *(info.profile.min, info.profile.opt, info.profile.max)
    sizes = f"{high[2]} x {high[3]}"
    if low[2:] != high[2:]:
        sizes = f"{low[2]} x {low[3]} to {sizes}, tuned for {usual[2]} x {usual[3]}"
    batch = f"{high[0]}" if low[0] == high[0] else f"{low[0]} to {high[0]}, tuned for {usual[0]}"
    return (
        f"wrote {path} and {EngineInfo.path_for(path).name}\n"
        f"  {info.precision}, {info.size_bytes / 1e6:.1f} MB, built in {info.build_seconds:.1f} s\n"
        f"  network input {sizes}; images at a time {batch}\n"
        f"  {made.tensorrt} {made.tensorrt_version}, for {made.gpu or 'any GPU that it supports'}"
    )


def _batch(text: str) -> int | tuple[int, ...]:
    numbers = text.split(",")
    if len(numbers) not in (1, 3) or not all(number.isdigit() for number in numbers):
        raise argparse.ArgumentTypeError(f"one number or three are wanted, such as 4 or 1,2,8; got {text!r}")
    return int(text) if len(numbers) == 1 else tuple(map(int, numbers))


@contextlib.contextmanager
def _progress_bar() -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, as TensorRT tells how far it is."""
    with require("tqdm", "the progress bar").tqdm(desc="build", unit="step", disable=None) as bar:

        def show(done: int, of: int) -> None:
            bar.total = of
            bar.update(done - bar.n)

        yield show
