"""`retinasdk bench`: measures the speed of models, devices, precisions and input sizes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from retinasdk._util.charts import check_charts
from retinasdk._util.files import write_atomically
from retinasdk.benchmark.bench import DEFAULT_ROUNDS, bench
from retinasdk.benchmark.plot import chart
from retinasdk.benchmark.table import markdown
from retinasdk.cli.arguments import add_command, add_json, image_size, names
from retinasdk.cli.file_arguments import Input, Output, model_files
from retinasdk.cli.output import print_text, text_stream, write_json
from retinasdk.cli.progress import Display


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "bench",
        description="Measures how long detection takes, for every combination of the given models, devices, precisions "
        "and input sizes. All of them are loaded at once and take turns, so that a change of the clock rate affects "
        "all alike. Prints a Markdown table with median times in milliseconds; with annotations also the average "
        "precision (AP).",
        examples=[
            ("Time a model on this machine", "retinasdk bench model.onnx"),
            (
                "Compare two models at two input sizes, with their accuracy",
                "retinasdk bench people mine.onnx --size 480x640 720x1280 \\\n    --images val/ --annotations val.json",
            ),
            (
                "Compare the CPU with float16 and int8 on the GPU",
                "retinasdk bench model.onnx --device cpu,cuda --precision fp16,int8",
            ),
        ],
    )
    compared = parser.add_argument_group("What is compared")
    compared.add_argument(
        "models",
        action=Input,
        files=model_files,
        nargs="+",
        metavar="MODEL",
        help="names of bundled models, ONNX files or TensorRT engines",
    )
    compared.add_argument(
        "--device", type=names, default=["auto"], metavar="D,...", help="one or more of auto, cpu, cuda; default: auto"
    )
    compared.add_argument(
        "--precision",
        type=names,
        default=[],
        metavar="P,...",
        help="precisions of ONNX files on the GPU: one or more of fp32, fp16, int8; default: fp16",
    )
    compared.add_argument(
        "--size",
        type=image_size,
        nargs="+",
        action="extend",
        default=[],
        metavar="HxW",
        help="resize images to fit into this height x width, by the resize rule of the model, then pad them as the "
        "model requires; the table shows the padded size: 480x640 becomes 512 x 640 for a model that pads to multiples "
        "of 128; default: the model's own size",
    )
    images = parser.add_argument_group("Images")
    images.add_argument(
        "--images",
        action=Input,
        type=Path,
        metavar="DIR",
        help="folder of images, up to 16 of which are used in turn; default: a generated picture",
    )
    images.add_argument(
        "--annotations",
        action=Input,
        type=Path,
        metavar="COCO.json",
        help="boxes of these images in COCO format; adds AP to the table",
    )
    images.add_argument("--batch", type=int, default=1, metavar="N", help="images per call; default: %(default)s")
    timing = parser.add_argument_group("Timing")
    timing.add_argument(
        "--rounds", type=int, default=DEFAULT_ROUNDS, metavar="N", help="timed calls of each; default: %(default)s"
    )
    timing.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads per call; ignored on the GPU; default: number of cores"
    )
    output = parser.add_argument_group("Output")
    add_json(output, "the report")
    output.add_argument(
        "--plot",
        action=Output,
        type=Path,
        metavar="FILE.png",
        help="draw a chart: AP against time, or the times of the stages if there are no annotations",
    )
    output.add_argument(
        "--published",
        action="store_true",
        help="add published figures of other projects to the report; needs --annotations",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Runs the command. Raises the errors of `bench`."""
    if arguments.plot is not None:
        if arguments.plot.suffix.lower() != ".png":
            raise ValueError(f"{arguments.plot}: the chart is written as PNG; name it {arguments.plot.stem}.png")
        check_charts()
    with Display(quiet=arguments.quiet) as progress:
        report = bench(
            arguments.models,
            devices=arguments.device,
            precisions=arguments.precision,
            sizes=arguments.size,
            images=arguments.images,
            annotations=arguments.annotations,
            batch=arguments.batch,
            rounds=arguments.rounds,
            threads=arguments.threads,
            published=arguments.published,
            progress=progress,
        )
    text = text_stream(arguments.json)
    print_text(markdown(report), file=text)
    write_json(arguments.json, report.to_json())
    if arguments.plot is not None:
        write_atomically(arguments.plot, chart(report))
        print_text(f"wrote {arguments.plot}", file=text)
