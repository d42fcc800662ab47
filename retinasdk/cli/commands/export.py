"""`retinasdk export`: exports a torchvision RetinaNet from PyTorch to ONNX."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from retinasdk.cli.arguments import add_command, labels
from retinasdk.cli.output import check_file
from retinasdk.convert.export_torch import ARCHITECTURES, DEFAULT_OPSET, OPSETS, export_torchvision, load_torchvision

_FRAMEWORK = "torchvision:"


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "export",
        description="Exports a torchvision RetinaNet from PyTorch to ONNX, with its model spec. A checkpoint file "
        "holds weights only: if your model was built with its own anchors, thresholds or image sizes, export it "
        "in Python with retinasdk.export_torchvision(model, ...), which reads them from the model. Needs pip install "
        "'retinasdk[export]'.",
        examples=[
            ("Export torchvision's COCO model", "retinasdk export torchvision:retinanet_resnet50_fpn_v2 -o model.onnx"),
            (
                "Export a model that you trained, with its class names",
                "retinasdk export torchvision:retinanet_resnet50_fpn_v2 -o mine.onnx \\\n"
                "    --weights mine.pth --labels background,bolt,nut",
            ),
        ],
    )
    source = parser.add_argument_group("Input")
    source.add_argument(
        "model", type=_architecture, metavar=f"{_FRAMEWORK}NAME", help=f"NAME is one of {', '.join(ARCHITECTURES)}"
    )
    source.add_argument(
        "--weights",
        default="DEFAULT",
        metavar="DEFAULT|FILE.pth",
        help="a checkpoint file, or DEFAULT to download torchvision's COCO weights; default: DEFAULT",
    )
    source.add_argument(
        "--num-classes",
        type=int,
        metavar="N",
        help="number of classes, with the background; default: as many as the weights have",
    )
    source.add_argument(
        "--norm-eps",
        type=float,
        help="epsilon of the batch norms; 0 for models fine-tuned from torchvision's v1 COCO weights; default: 0 for "
        "these weights, else 1e-5",
    )
    output = parser.add_argument_group("Output")
    output.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        metavar="FILE.onnx",
        help="model to write; its spec is written beside it as FILE.json",
    )
    output.add_argument(
        "--labels",
        type=labels,
        metavar="A,B|FILE.txt",
        help="class names in order, the background first (torchvision's class 0), or a text file with one name per "
        "line; default: COCO's for 91 classes, else 'class 0' and so on",
    )
    output.add_argument(
        "--opset", type=int, choices=OPSETS, default=DEFAULT_OPSET, help="ONNX opset version; default: %(default)s"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Runs the command. Raises the errors of `load_torchvision` and `export_torchvision`."""
    check_file(arguments.out)
    model = load_torchvision(
        arguments.model, weights=arguments.weights, classes=arguments.num_classes, norm_eps=arguments.norm_eps
    )
    made = export_torchvision(model, arguments.out, labels=arguments.labels, opset=arguments.opset)
    size = made.path.stat().st_size / 1e6
    print(
        f"wrote {made.path} ({size:.1f} MB, opset {arguments.opset}) and {made.path.with_suffix('.json').name}\n"
        f"  {len(made.spec.labels)} classes; head outputs differ from PyTorch's by at most "
        f"{made.largest_difference:.1e} of their standard deviation"
    )


def _architecture(text: str) -> str:
    name = text.removeprefix(_FRAMEWORK)
    if name == text or name not in ARCHITECTURES:
        raise argparse.ArgumentTypeError(
            f"expected {_FRAMEWORK}NAME with a NAME of {', '.join(ARCHITECTURES)}; got {text!r}"
        )
    return name
