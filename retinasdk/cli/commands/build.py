"""`retinasdk build`: builds a TensorRT engine from an ONNX file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from retinasdk import build_engine
from retinasdk.cli.arguments import add_command, image_size
from retinasdk.cli.file_arguments import Input, Output, add_overwrite, model_files
from retinasdk.cli.output import print_text
from retinasdk.cli.progress import Display
from retinasdk.tensorrt.build import HEAD_LAYOUTS
from retinasdk.tensorrt.engine_info import PRECISIONS, EngineInfo


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "build",
        description="Builds a TensorRT engine from an ONNX model, for the GPU and the TensorRT of this machine. "
        "Building takes minutes. It is only needed to ship an engine or to choose its settings: a Detector on the GPU "
        "builds an engine by itself at the first run and caches it.",
        examples=[
            (
                "Build an engine in float16 for images of one size",
                "retinasdk build model.onnx -o model.engine --size 1080x1920",
            ),
            (
                "Build an engine in 8 bits for batches of 1 to 8 images",
                "retinasdk build model.onnx -o model.engine --precision int8 \\\n"
                "    --images calibration/ --batch 1,4,8",
            ),
        ],
    )
    source = parser.add_argument_group("Input")
    source.add_argument(
        "model", action=Input, files=model_files, metavar="MODEL", help="ONNX file, or name of a bundled model"
    )
    output = parser.add_argument_group("Output")
    output.add_argument(
        "-o",
        "--out",
        action=Output,
        files=lambda value, _: [value, EngineInfo.path_for(value)],
        type=Path,
        required=True,
        metavar="FILE.engine",
        help="engine file to write; FILE.engine.json is written beside it",
    )
    add_overwrite(output)
    engine = parser.add_argument_group("Engine")
    engine.add_argument("--precision", choices=PRECISIONS, default="fp16", help="default: %(default)s")
    engine.add_argument(
        "--images",
        action=Input,
        type=Path,
        metavar="DIR",
        help="calibration images for --precision int8, similar to those that the engine will run on",
    )
    engine.add_argument(
        "--batch",
        type=_batch,
        metavar="N|MIN,OPT,MAX",
        help="images per call: a fixed number, or the smallest, the usual and the largest; default: the model's own, "
        "or 1",
    )
    engine.add_argument(
        "--size",
        type=image_size,
        action="append",
        metavar="HxW",
        help="height x width in pixels of the images that will come, such as 1080x1920; repeatable, the most frequent "
        "first; default: any size",
    )
    engine.add_argument(
        "--workspace", type=int, metavar="MB", help="largest scratch memory of the engine; default: TensorRT's limit"
    )
    engine.add_argument(
        "--level",
        type=int,
        choices=range(6),
        help="optimization level of TensorRT, from 0 (fast build) to 5 (fast engine); default: TensorRT's",
    )
    engine.add_argument(
        "--head-layout",
        choices=HEAD_LAYOUTS,
        help="how the network stores its outputs, if retinasdk reports that it cannot read them; default: TensorRT "
        "chooses the faster layout",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Runs the command. Raises the errors of `build_engine`."""
    with Display(quiet=arguments.quiet) as progress:
        info = build_engine(
            arguments.model,
            arguments.out,
            precision=arguments.precision,
            batch=arguments.batch,
            sizes=arguments.size,
            images=arguments.images,
            head_layout=arguments.head_layout,
            workspace_bytes=None if arguments.workspace is None else arguments.workspace * 1_000_000,
            optimization_level=arguments.level,
            progress=progress,
        )
    print_text(_report(arguments.out, info))


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
        raise argparse.ArgumentTypeError(f"expected one number or three, such as 4 or 1,2,8, got {text!r}")
    return int(text) if len(numbers) == 1 else tuple(map(int, numbers))
