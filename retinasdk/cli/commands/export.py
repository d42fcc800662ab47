"""`retinasdk export`: a model of a training framework to heads-only ONNX and its spec."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from retinasdk.cli.arguments import check_file, labels
from retinasdk.convert.export_torch import ARCHITECTURES, DEFAULT_OPSET, OPSETS, export_torchvision, load_torchvision

_FRAMEWORK = "torchvision:"


def add_parser(commands: Any) -> None:
    """Adds the command."""
    export = commands.add_parser("export", help="write a torchvision model as ONNX with its spec (needs torch)")
    export.add_argument(
        "model", type=_architecture, metavar=f"{_FRAMEWORK}NAME", help=f"NAME: {', '.join(ARCHITECTURES)}"
    )
    export.add_argument("-o", "--out", type=Path, required=True, metavar="FILE.onnx", help="the file to write")
    export.add_argument(
        "--weights", default="DEFAULT", metavar="DEFAULT|FILE.pth", help="torchvision's own, or a checkpoint's"
    )
    export.add_argument("--num-classes", type=int, metavar="N", help="of the head (default: as the weights have)")
    export.add_argument("--labels", type=labels, metavar="A,B,C|FILE.txt", help="one name a class, in order")
    export.add_argument("--opset", type=int, choices=OPSETS, default=DEFAULT_OPSET, help="(default: %(default)s)")
    export.add_argument("--norm-eps", type=float, help="epsilon of batch norms (0 where fine-tuned from COCO, v1)")
    export.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Does it. Raises the errors of `load_torchvision` and `export_torchvision`."""
    check_file(arguments.out)
    model = load_torchvision(
        arguments.model, weights=arguments.weights, classes=arguments.num_classes, norm_eps=arguments.norm_eps
    )
    made = export_torchvision(model, arguments.out, labels=arguments.labels, opset=arguments.opset)
    size = made.path.stat().st_size / 1e6
    print(
        f"wrote {made.path} ({size:.1f} MB, opset {arguments.opset}) and {made.path.with_suffix('.json').name}\n"
        f"  {len(made.spec.labels)} classes; heads within {made.largest_difference:.1e} of torch's, as a part of their "
        "spread"
    )


def _architecture(text: str) -> str:
    name = text.removeprefix(_FRAMEWORK)
    if name == text or name not in ARCHITECTURES:
        raise argparse.ArgumentTypeError(
            f"{_FRAMEWORK}NAME is wanted, NAME one of {', '.join(ARCHITECTURES)}; got {text!r}"
        )
    return name
