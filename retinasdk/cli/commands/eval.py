"""`retinasdk eval`: computes COCO average precision on annotated images."""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any

from retinasdk import Detector
from retinasdk.cli.arguments import (
    add_command,
    add_device,
    add_json,
    add_model,
    add_suppression,
    add_tiles,
    names,
    suppression_of,
    tiles_of,
)
from retinasdk.cli.file_arguments import Input, Output
from retinasdk.cli.output import make_folder, print_text, text_stream, write_json
from retinasdk.cli.progress import Display
from retinasdk.evaluation.evaluate import DEFAULT_BATCH, DEFAULT_COUNTED, DEFAULT_SCORE_THRESHOLD, evaluate
from retinasdk.evaluation.report import PAGE, report_names
from retinasdk.evaluation.results import Evaluation


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "eval",
        description="Runs a model on annotated images and prints its COCO average precision (AP), in total, by class "
        "and by object size, and the score threshold with the best F1. It can also write a page with curves and the "
        "worst images. Needs pip install 'retinasdk[eval]'.",
        examples=[
            (
                "Evaluate a model on a COCO-format data set",
                "retinasdk eval --model model.onnx --images val/ --annotations val.json",
            ),
            (
                "Match a category that the model calls differently, and write a report",
                "retinasdk eval --images val/ --annotations val.json \\\n    --map pedestrian=person --report report/",
            ),
        ],
    )
    data = parser.add_argument_group("Input")
    data.add_argument("--images", action=Input, type=Path, required=True, metavar="DIR", help="folder of the images")
    data.add_argument(
        "--annotations",
        action=Input,
        type=Path,
        required=True,
        metavar="COCO.json",
        help="ground truth boxes in COCO format",
    )
    data.add_argument(
        "--map",
        type=_renaming,
        action="append",
        default=[],
        metavar="CATEGORY=LABEL",
        help="a category of the annotations that the model names differently, and the model's label (repeatable)",
    )
    data.add_argument(
        "--batch",
        type=int,
        default=DEFAULT_BATCH,
        metavar="N",
        help="images in memory at a time; default: %(default)s",
    )
    detection = parser.add_argument_group("Detection")
    add_model(detection)
    detection.add_argument(
        "--classes", type=names, metavar="A,B", help="evaluate only these labels, such as person,chair; default: all"
    )
    detection.add_argument(
        "--score",
        type=float,
        default=DEFAULT_SCORE_THRESHOLD,
        help="evaluate detections with a confidence score above this, 0 to 1; AP needs a low one; default: %(default)s",
    )
    detection.add_argument(
        "--counted",
        type=int,
        default=DEFAULT_COUNTED,
        metavar="N",
        help="count the best N detections per image and class; default: %(default)s, as COCO does",
    )
    output = parser.add_argument_group("Output")
    add_json(output, "the metrics")
    output.add_argument(
        "--report",
        action=Output,
        files=lambda folder, _: [folder / name for name in report_names()],
        is_folder=True,
        type=Path,
        metavar="DIR",
        help="write an HTML page with precision-recall curves and the images with most errors",
    )
    add_tiles(parser)
    add_suppression(parser)
    add_device(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Runs the command. Raises the errors of `evaluate`."""
    rename = dict(arguments.map)
    if len(rename) < len(arguments.map):
        raise ValueError("--map is given twice for one category; a category has one label")
    if arguments.report is not None:
        make_folder(arguments.report)
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Display(quiet=arguments.quiet))
        progress.update("load the model")
        detector = stack.enter_context(
            Detector(arguments.model, device=arguments.device, suppression=suppression_of(arguments))
        )
        result = evaluate(
            detector,
            arguments.images,
            arguments.annotations,
            score_threshold=arguments.score,
            classes=arguments.classes,
            rename=rename,
            batch=arguments.batch,
            tiles=tiles_of(arguments),
            counted=arguments.counted,
            report=arguments.report,
            progress=progress,
        )
    text = text_stream(arguments.json)
    print_text(_summary(result), file=text)
    write_json(arguments.json, json.dumps(result.to_dict(), indent=1) + "\n")
    if arguments.report is not None:
        print_text(f"wrote {arguments.report / PAGE}", file=text)


def _renaming(text: str) -> tuple[str, str]:
    category, separator, label = (part.strip() for part in text.partition("="))
    if not (category and separator and label):
        raise argparse.ArgumentTypeError(f"expected CATEGORY=LABEL such as pedestrian=person, got {text!r}")
    return category, label


def _summary(result: Evaluation) -> str:
    def shown(value: float | None) -> str:
        return "    -" if value is None else f"{value:.3f}"

    lines = [f"{result.images} images"]
    lines += [f"  {name:6s} {shown(value)}" for name, value in result.metrics.items()]
    lines.append(f"  {'class':20s} {'AP':>5s} {'AP50':>6s} {'APs':>6s} {'APm':>6s} {'APl':>6s} {'boxes':>6s}")
    for name, item in result.per_class.items():
        sizes = " ".join(f" {shown(size.AP)}" for size in result.per_class_and_size[name].values())
        lines.append(f"  {name:20s} {shown(item.AP)}  {shown(item.AP50)} {sizes} {item.boxes:6d}")
    if result.best_f1 is not None:
        point = result.best_f1
        lines.append(
            f"at IoU 0.50, F1 is best ({point.f1:.3f}) with scores above {point.score:.3f}: "
            f"precision {point.precision:.3f}, recall {point.recall:.3f}"
        )
    if result.left_out:
        lines.append(f"not evaluated, as the model has no such class: {', '.join(result.left_out)}")
    return "\n".join(lines)
