"""`retinasdk import`: a foreign RetinaNet in ONNX to heads-only ONNX and its spec."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from retinasdk import import_onnx
from retinasdk.cli.arguments import check_file, labels
from retinasdk.cli.import_options import add_rules, rules_of
from retinasdk.convert.flavours import list_flavours


def add_parser(commands: Any) -> None:
    """Adds the command."""
    importing = commands.add_parser("import", help="take over a RetinaNet that another framework exported")
    importing.add_argument("model", type=Path, metavar="MODEL.onnx", help="the file as the framework wrote it")
    importing.add_argument("-o", "--out", type=Path, required=True, metavar="OUT.onnx", help="the file to write")
    importing.add_argument(
        "--flavour",
        choices=("auto", *list_flavours()),
        default="auto",
        help="whose rules it follows (default: what the graph itself tells, else it is asked for)",
    )
    importing.add_argument("--labels", type=labels, metavar="A,B,C|FILE.txt", help="one name a class, in order")
    importing.add_argument("--name", help="of the model, for people")
    importing.add_argument("--box-head", metavar="TENSOR", help="a tensor of the box head, where shapes do not tell")
    importing.add_argument(
        "--force", action="store_true", help="insist on what you named where the graph contradicts it"
    )
    add_rules(importing)
    importing.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Does it. Raises the errors of `import_onnx`."""
    check_file(arguments.out)
    report = import_onnx(
        arguments.model,
        arguments.out,
        flavour=arguments.flavour,
        labels=arguments.labels,
        name=arguments.name,
        box_head=arguments.box_head,
        force=arguments.force,
        **rules_of(arguments),
    )
    print(report)
