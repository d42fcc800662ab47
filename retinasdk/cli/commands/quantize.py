"""`retinasdk quantize`: an ONNX network in 8 bits, for the CPU."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from retinasdk import quantize_onnx
from retinasdk.cli.arguments import check_file, progress
from retinasdk.quantization.quantizer import DEFAULT_MAX_AP_DROP, DEFAULT_MIN_AGREEMENT, DEFAULT_SWEEP_IMAGES


def add_parser(commands: Any) -> None:
    """Adds the command."""
    quantize = commands.add_parser("quantize", help="write a network in 8 bits, for the CPU")
    quantize.add_argument("model", metavar="MODEL", help="a bundled name or an ONNX file in float32")
    quantize.add_argument("-o", "--out", type=Path, required=True, metavar="OUT.onnx", help="the file to write")
    quantize.add_argument(
        "--images",
        type=Path,
        required=True,
        metavar="DIR",
        help="images like those to come, which ranges are taken from",
    )
    quantize.add_argument(
        "--annotations", type=Path, metavar="COCO.json", help="boxes in images of DIR: AP is measured before and after"
    )
    quantize.add_argument(
        "--max-ap-drop",
        type=float,
        default=DEFAULT_MAX_AP_DROP,
        metavar="POINTS",
        help="with annotations: write nothing if AP falls by more points of 100 (default: %(default)s)",
    )
    quantize.add_argument(
        "--min-agreement",
        type=float,
        default=DEFAULT_MIN_AGREEMENT,
        metavar="PART",
        help="without: write nothing if fewer detections have a counterpart in float32's (default: %(default)s)",
    )
    quantize.add_argument(
        "--sweep-images",
        type=int,
        default=DEFAULT_SWEEP_IMAGES,
        metavar="N",
        help="images on which each layer is quantized alone: more take longer (default: %(default)s)",
    )
    quantize.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Does it. Raises the errors of `quantize_onnx`."""
    check_file(arguments.out)

    def shown(items: Sequence[Any], title: str) -> Iterable[Any]:
        return progress(title, "layer" if title == "sweep" else "batch" if title.startswith("AP") else "image")(items)

    report = quantize_onnx(
        arguments.model,
        arguments.out,
        arguments.images,
        annotations=arguments.annotations,
        max_ap_drop=arguments.max_ap_drop,
        min_agreement=arguments.min_agreement,
        sweep_images=arguments.sweep_images,
        progress=shown,
    )
    print(report)
