"""`retinasdk eval`: COCO average precision."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from retinasdk import Detector
from retinasdk._files import write_atomically
from retinasdk.commands._shared import add_model, check_file, progress
from retinasdk.evaluate import DEFAULT_SCORE_THRESHOLD, Evaluation, evaluate


def add_parser(commands: Any) -> None:
    """Adds the command."""
    score = commands.add_parser("eval", help="COCO average precision on annotated images")
    add_model(score)
    score.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of the images")
    score.add_argument("--annotations", type=Path, required=True, metavar="COCO.json", help="boxes in COCO's format")
    score.add_argument(
        "--score", type=float, default=DEFAULT_SCORE_THRESHOLD, help="count scores above this (%(default)s)"
    )
    score.add_argument("--json", type=Path, metavar="FILE", help="write the numbers as JSON")
    score.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Does it. Raises the errors of `evaluate`."""
    if arguments.json is not None:
        check_file(arguments.json)
    with Detector(arguments.model, device=arguments.device) as detector:
        result = evaluate(
            detector,
            arguments.images,
            arguments.annotations,
            score_threshold=arguments.score,
            progress=progress("eval", "batch"),
        )
    print(_report(result))
    if arguments.json is not None:
        write_atomically(arguments.json, (json.dumps(result.to_dict(), indent=1) + "\n").encode())
        print(f"wrote {arguments.json}")


def _report(result: Evaluation) -> str:
    def shown(value: float | None) -> str:
        return "    -" if value is None else f"{value:.3f}"

    lines = [f"{result.images} images"]
    lines += [f"  {name:6s} {shown(value)}" for name, value in result.metrics.items()]
    lines.append(f"  {'class':20s} {'AP':>5s} {'AP50':>6s} {'boxes':>6s}")
    for name, item in result.per_class.items():
        lines.append(f"  {name:20s} {shown(item.AP)}  {shown(item.AP50)} {item.boxes:6d}")
    if result.left_out:
        lines.append(f"left out, since the model does not know them: {', '.join(result.left_out)}")
    return "\n".join(lines)
