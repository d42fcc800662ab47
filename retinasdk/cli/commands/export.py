"""`retinasdk export`: exports a RetinaNet of torchvision or DeepForest from PyTorch to ONNX."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from retinasdk.cli.arguments import add_command, add_labels
from retinasdk.cli.file_arguments import Input, Output, add_overwrite, with_spec
from retinasdk.cli.import_options import add_rules, rules_of
from retinasdk.cli.option_names import in_option_names
from retinasdk.cli.output import print_text
from retinasdk.cli.progress import Display
from retinasdk.convert.export_source import export_source
from retinasdk.convert.export_torch import DEFAULT_OPSET, OPSETS
from retinasdk.convert.torchvision_checkpoint import ARCHITECTURES


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "export",
        description="Exports a RetinaNet of torchvision or DeepForest from PyTorch to ONNX, with its model spec. "
        "Prints where each rule comes from. A checkpoint often holds weights only: then anchors, image size and "
        "thresholds are asked for. In Python, retinasdk.export_torchvision(model, ...) reads them from the model. "
        "Needs pip install 'retinasdk[export]'.",
        examples=[
            ("Export torchvision's COCO model", "retinasdk export torchvision:retinanet_resnet50_fpn_v2 -o coco.onnx"),
            (
                "Export a checkpoint that you trained with torchvision's defaults except the image size",
                "retinasdk export mine.pth -o mine.onnx --labels background,bolt,nut \\\n"
                "    --torchvision-defaults --resize shortest:640,1024",
            ),
            ("Export a DeepForest checkpoint", "retinasdk export deepforest:trees.ckpt -o trees.onnx"),
        ],
    )
    source = parser.add_argument_group("Input")
    source.add_argument(
        "source",
        action=Input,
        files=_source_files,
        metavar="SOURCE",
        help=f"torchvision:NAME with a NAME of {', '.join(ARCHITECTURES)}, and optionally the name of its weights, as "
        "in torchvision:NAME:COCO_V1; a checkpoint file of such a model; or deepforest: with a checkpoint, a folder "
        "with config.json and model.safetensors, or a name to download, as in deepforest:weecology/deepforest-tree",
    )
    source.add_argument(
        "--weights",
        action=Input,
        metavar="DEFAULT|FILE.pth",
        help="for torchvision:NAME: a checkpoint file, or DEFAULT to download torchvision's COCO weights; default: "
        "DEFAULT",
    )
    source.add_argument(
        "--num-classes",
        type=int,
        metavar="N",
        help="number of classes, with the background; default: as many as the weights have",
    )
    source.add_argument(
        "--trusted",
        action="store_true",
        help="the checkpoint may run code while it is read, as one with a whole model does; only for your own files",
    )
    rules = parser.add_argument_group("Rules")
    rules.add_argument(
        "--torchvision-defaults",
        action="store_true",
        help="the model was trained with torchvision's default for every rule that the checkpoint does not hold and "
        "that is not given here",
    )
    rules.add_argument(
        "--norm-eps",
        type=float,
        help="epsilon of the batch norms; 0 for models fine-tuned from torchvision's v1 COCO weights; default: 0 for "
        "these weights, else 1e-5",
    )
    left_out = ("strides", "box_weights", "box_means", "pad_multiple")
    add_rules(parser, default="what the checkpoint contains", leave_out=left_out)
    output = parser.add_argument_group("Output")
    output.add_argument(
        "-o",
        "--out",
        action=Output,
        files=with_spec,
        type=Path,
        required=True,
        metavar="FILE.onnx",
        help="model to write; its spec is written beside it as FILE.json",
    )
    add_labels(
        output,
        "class names in order, with the background first for torchvision, or a text file with one name per line; "
        "default: DeepForest's own, COCO's for 91 classes, else 'class 0' and so on",
    )
    add_overwrite(output)
    output.add_argument("--name", help="name of the model, for people")
    output.add_argument(
        "--opset", type=int, choices=OPSETS, default=DEFAULT_OPSET, help="ONNX opset version; default: %(default)s"
    )
    parser.set_defaults(run=run)


def _source_files(value: str, _: argparse.Namespace) -> list[Path]:
    """Returns the files of a checkpoint, which may be a folder, with or without "deepforest:" before its name."""
    path = Path(value.removeprefix("deepforest:"))
    return [path, path / "config.json", path / "model.safetensors"]


def run(arguments: argparse.Namespace) -> None:
    """Runs the command. Raises the errors of `export_source`."""
    rules = rules_of(arguments)
    rules.pop("strides", None)  # torchvision computes them from the size of the input, whatever a file of anchors says.
    with Display(quiet=arguments.quiet) as progress:
        report = export_source(
            arguments.source,
            arguments.out,
            weights=arguments.weights,
            labels=arguments.labels,
            name=arguments.name,
            classes=arguments.num_classes,
            norm_eps=arguments.norm_eps,
            torchvision_defaults=arguments.torchvision_defaults,
            trusted=arguments.trusted,
            opset=arguments.opset,
            progress=progress,
            **rules,
        )
    print_text(in_option_names(str(report), arguments))
