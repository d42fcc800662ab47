"""`retinasdk eval`: COCO average precision."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from retinasdk import Detector
from retinasdk._util.files import write_atomically
from retinasdk.cli.arguments import (
    add_model,
    add_suppression,
    add_tiles,
    check_file,
    make_folder,
    names,
    progress,
    suppression_of,
    tiles_of,
)
from retinasdk.evaluation.evaluate import DEFAULT_BATCH, DEFAULT_COUNTED, DEFAULT_SCORE_THRESHOLD, evaluate
from retinasdk.evaluation.report import PAGE
from retinasdk.evaluation.results import Evaluation


def add_parser(commands: Any) -> None:
    """Adds the command."""
    score = commands.add_parser("eval", help="COCO average precision on annotated images")
    add_model(score)
    score.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of the images")
    score.add_argument("--annotations", type=Path, required=True, metavar="COCO.json", help="boxes in COCO's format")
    score.add_argument("--classes", type=names, help="score only these labels of the model, e.g. person,chair")
    score.add_argument(
        "--map",
        type=_renaming,
        action="append",
        default=[],
        metavar="CATEGORY=LABEL",
        help="the model's label for a category that is called otherwise; again for more",
    )
    score.add_argument(
        "--score", type=float, default=DEFAULT_SCORE_THRESHOLD, help="count scores above this (%(default)s)"
    )
    score.add_argument("--batch", type=int, default=DEFAULT_BATCH, help="images in memory at a time (%(default)s)")
    add_tiles(score)
    score.add_argument(
        "--counted",
        type=int,
        default=DEFAULT_COUNTED,
        metavar="N",
        help="the best N detections of an image and class count (%(default)s, as COCO has it)",
    )
    score.add_argument("--json", type=Path, metavar="FILE", help="write the numbers as JSON")
    score.add_argument("--report", type=Path, metavar="DIR", help="write a page with curves and the worst images")
    add_suppression(score)
    score.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Does it. Raises the errors of `evaluate`."""
    rename = dict(arguments.map)
    if len(rename) < len(arguments.map):
        raise ValueError("--map gives one category twice; each category becomes one label")
    if arguments.json is not None:
        check_file(arguments.json)
    if arguments.report is not None:
        make_folder(arguments.report)
    with Detector(arguments.model, device=arguments.device, suppression=suppression_of(arguments)) as detector:
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
            progress=progress("eval", "batch"),
        )
    print(_summary(result))
    if arguments.json is not None:
        write_atomically(arguments.json, (json.dumps(result.to_dict(), indent=1) + "\n").encode())
        print(f"wrote {arguments.json}")
    if arguments.report is not None:
        print(f"wrote {arguments.report / PAGE}")


def _renaming(text: str) -> tuple[str, str]:
    category, separator, label = (part.strip() for part in text.partition("="))
    if not (category and separator and label):
        raise argparse.ArgumentTypeError(f"a category and a label are wanted, such as other=person; got {text!r}")
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
        lines.append(f"left out, since the model does not know them: {', '.join(result.left_out)}")
    return "\n".join(lines)
