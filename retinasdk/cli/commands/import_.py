"""`retinasdk import`: converts a RetinaNet ONNX file that a framework exported."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from retinasdk import import_onnx
from retinasdk.cli.arguments import add_command, add_labels
from retinasdk.cli.file_arguments import Input, Output, add_overwrite, model_files, with_spec
from retinasdk.cli.import_options import add_rules, rules_of
from retinasdk.cli.option_names import in_option_names
from retinasdk.cli.output import print_text
from retinasdk.cli.progress import Display
from retinasdk.convert.flavours import list_flavours


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "import",
        description="Converts a RetinaNet ONNX file, as a framework exported it, to a model for retinasdk. Finds the "
        "heads in the graph, removes the post-processing behind them, and writes the framework's rules into a model "
        "spec. Prints what was found and how. Needs pip install 'retinasdk[onnx]'.",
        examples=[
            ("Convert a model, and find out by which rules", "retinasdk import theirs.onnx -o model.onnx"),
            (
                "Name the framework and the classes if the graph does not tell them",
                "retinasdk import theirs.onnx -o model.onnx --flavour mmdet \\\n    --labels bolt,nut,washer",
            ),
            (
                "Take anchors, thresholds and image sizes from the config of the training",
                "retinasdk import theirs.onnx -o model.onnx --config config.yaml",
            ),
        ],
    )
    source = parser.add_argument_group("Input")
    source.add_argument(
        "model",
        action=Input,
        files=model_files,
        type=Path,
        metavar="MODEL.onnx",
        help="the file as the framework exported it",
    )
    rules = parser.add_argument_group("Rules")
    rules.add_argument(
        "--flavour",
        choices=("auto", *list_flavours()),
        default="auto",
        metavar="NAME",
        help=f"the framework whose rules the model follows: {', '.join(list_flavours())}; auto recognizes it by the "
        "graph, or asks for this option; default: auto",
    )
    rules.add_argument(
        "--config",
        action=Input,
        type=Path,
        metavar="FILE",
        help="config of the training, for the rules that no option gives: config.yaml of detectron2, a .py file of "
        "mmdetection (not executed), or torchvision's arguments as JSON",
    )
    add_labels(
        rules,
        "class names in the order of the model's outputs, or a text file with one name per line; default: the "
        "framework's usual ones",
    )
    rules.add_argument(
        "--box-head", metavar="TENSOR", help="an output tensor of the box head, if the shapes are ambiguous"
    )
    rules.add_argument(
        "--force", action="store_true", help="use the given flavour and rules even if the graph contradicts them"
    )
    add_rules(parser)
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
    output.add_argument("--name", help="name of the model, for people")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Runs the command. Raises the errors of `import_onnx`."""
    with Display(quiet=arguments.quiet) as progress:
        report = import_onnx(
            arguments.model,
            arguments.out,
            flavour=arguments.flavour,
            config=arguments.config,
            labels=arguments.labels,
            name=arguments.name,
            box_head=arguments.box_head,
            force=arguments.force,
            progress=progress,
            **rules_of(arguments),
        )
    print_text(in_option_names(str(report), arguments))
