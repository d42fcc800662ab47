"""`retinasdk triton`: writes a model repository for NVIDIA Triton Inference Server."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retinasdk.cli.arguments import add_command
from retinasdk.cli.file_arguments import Input, Output, add_overwrite, model_files
from retinasdk.cli.output import print_text
from retinasdk.tensorrt.engine_info import ENGINE_SUFFIX
from retinasdk.triton import export
from retinasdk.triton.export import DEVICES, VERSION, model_folder


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "triton",
        description="Exports a model for NVIDIA Triton Inference Server. The server then takes image files or raw "
        "pixels and answers with bounding boxes: it runs the whole pipeline, with dynamic batching. The Python of the "
        "server must have retinasdk.",
        examples=[
            (
                "Write a model repository with the bundled model that finds people",
                "retinasdk triton export people --repository models",
            ),
            (
                "Add a model of your own, for the GPU of the server, in batches of up to 16 images",
                "retinasdk triton export model.onnx --repository models \\\n    --device cuda --max-batch 16",
            ),
        ],
        takes_long=False,
    )
    source = parser.add_argument_group("Input")
    source.add_argument("action", choices=("export",), help="export: write a model repository")
    source.add_argument(
        "model",
        action=Input,
        files=model_files,
        metavar="MODEL",
        help="ONNX file, TensorRT engine, or name of a bundled model",
    )
    output = parser.add_argument_group("Output")
    output.add_argument(
        "--repository",
        action=Output,
        files=_written,
        is_folder=True,
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of the model repository; the model is written to DIR/NAME, and other models in DIR are kept",
    )
    output.add_argument("--name", help="name of the model on the server; default: the name of the model file")
    add_overwrite(output)
    server = parser.add_argument_group("Server")
    server.add_argument(
        "--device", choices=DEVICES, default="cpu", help="where the server runs the model; default: %(default)s"
    )
    server.add_argument(
        "--max-batch",
        type=int,
        default=8,
        metavar="N",
        help="largest number of images that run together, from one request or several; default: %(default)s",
    )
    server.add_argument(
        "--delay",
        type=float,
        default=2.0,
        metavar="MS",
        help="how long a request waits for others to share a batch with, in milliseconds; default: %(default)s",
    )
    server.add_argument(
        "--instances",
        type=int,
        default=1,
        metavar="N",
        help="copies of the model, each in a process of its own; default: %(default)s",
    )
    server.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="CPU threads of each instance; default: the cores of the server divided by the instances",
    )
    server.add_argument(
        "--score",
        type=float,
        metavar="SCORE",
        help="report detections with a confidence score above this, 0 to 1; requests may set another one; default: the "
        "model's own threshold",
    )
    parser.set_defaults(run=run)


def _written(repository: Path, arguments: argparse.Namespace) -> Iterator[Path]:
    folder = model_folder(Path(arguments.model), repository, arguments.name)
    is_engine = Path(arguments.model).suffix == ENGINE_SUFFIX
    yield folder / "config.pbtxt"
    for name in ("model.py", *(("model.engine", "model.engine.json") if is_engine else ("model.onnx", "model.json"))):
        yield folder / VERSION / name


def run(arguments: argparse.Namespace) -> None:
    """Runs the command. Raises the errors of `retinasdk.triton.export`."""
    folder = export(
        arguments.model,
        arguments.repository,
        device=arguments.device,
        name=arguments.name,
        max_batch=arguments.max_batch,
        delay_ms=arguments.delay,
        instances=arguments.instances,
        threads=arguments.threads,
        score_threshold=arguments.score,
    )
    print_text(
        f"wrote {folder}\n"
        f"  tritonserver --model-repository {arguments.repository.resolve()}\n"
        "  starts a server with it; its Python needs retinasdk: pip install retinasdk"
    )
