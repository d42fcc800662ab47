"""`retinasdk quantize`: converts a model to 8 bits for the CPU."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from retinasdk import quantize_onnx
from retinasdk.cli.arguments import add_command
from retinasdk.cli.file_arguments import Input, Output, add_overwrite, model_files, with_spec
from retinasdk.cli.output import print_text
from retinasdk.cli.progress import Display
from retinasdk.quantization.quantizer import DEFAULT_MAX_AP_DROP, DEFAULT_MIN_AGREEMENT, DEFAULT_SWEEP_IMAGES


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "quantize",
        description="Converts a float32 model to 8 bits (INT8), for faster inference on CPUs with 8-bit instructions. "
        "Calibrates on your images, keeps sensitive layers in float32, and writes nothing if accuracy falls by more "
        "than allowed. For INT8 on the GPU use 'retinasdk build --precision int8'. Needs pip install "
        "'retinasdk[onnx]'.",
        examples=[
            (
                "Quantize a model, and check it by agreement with float32",
                "retinasdk quantize model.onnx -o model-int8.onnx --images photos/",
            ),
            (
                "Quantize a model, and check its average precision",
                "retinasdk quantize model.onnx -o model-int8.onnx --images val/ \\\n"
                "    --annotations val.json --max-ap-drop 0.5",
            ),
        ],
    )
    source = parser.add_argument_group("Input")
    source.add_argument(
        "model", action=Input, files=model_files, metavar="MODEL", help="float32 ONNX file, or name of a bundled model"
    )
    source.add_argument(
        "--images",
        action=Input,
        type=Path,
        required=True,
        metavar="DIR",
        help="calibration images, similar to those that the model will run on",
    )
    source.add_argument(
        "--annotations",
        action=Input,
        type=Path,
        metavar="COCO.json",
        help="boxes of these images in COCO format; average precision (AP) is measured before and after",
    )
    output = parser.add_argument_group("Output")
    output.add_argument(
        "-o",
        "--out",
        action=Output,
        files=with_spec,
        type=Path,
        required=True,
        metavar="OUT.onnx",
        help="model to write; its spec is written beside it as OUT.json",
    )
    add_overwrite(output)
    accuracy = parser.add_argument_group("Accuracy")
    accuracy.add_argument(
        "--max-ap-drop",
        type=float,
        default=DEFAULT_MAX_AP_DROP,
        metavar="POINTS",
        help="with --annotations: write nothing if AP falls by more than this many points of 100; default: %(default)s",
    )
    accuracy.add_argument(
        "--min-agreement",
        type=float,
        default=DEFAULT_MIN_AGREEMENT,
        metavar="SHARE",
        help="without --annotations: write nothing if a smaller share of the detections, 0 to 1, matches those of "
        "float32; default: %(default)s",
    )
    accuracy.add_argument(
        "--sweep-images",
        type=int,
        default=DEFAULT_SWEEP_IMAGES,
        metavar="N",
        help="images on which the sensitivity of each layer is measured; more take longer; default: %(default)s",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Runs the command. Raises the errors of `quantize_onnx`."""
    with Display(quiet=arguments.quiet) as progress:
        progress.update("read the model")
        report = quantize_onnx(
            arguments.model,
            arguments.out,
            arguments.images,
            annotations=arguments.annotations,
            max_ap_drop=arguments.max_ap_drop,
            min_agreement=arguments.min_agreement,
            sweep_images=arguments.sweep_images,
            progress=progress,
        )
    print_text(report)
