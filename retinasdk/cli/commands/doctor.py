"""`retinasdk doctor`: shows what works on this machine and what is missing."""

from __future__ import annotations

import argparse
from typing import Any

from retinasdk.cli.arguments import add_command
from retinasdk.cli.file_arguments import Input, model_files
from retinasdk.doctor import diagnose as doctor
from retinasdk.models import find_model


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "doctor",
        description="Shows whether retinasdk can detect objects on this machine, and which device '--device auto' uses "
        "and why. Then lists the required packages, what the GPU needs, the optional packages, and how to install or "
        "repair them. With a model, says which convolutions it uses on the CPU and why, and measures it if necessary. "
        "The exit status is 1 if something is installed but broken.",
        examples=[
            ("Check an installation", "retinasdk doctor"),
            ("See how fast the convolutions for a model are", "retinasdk doctor --model model.onnx"),
            ("Save every detail for a bug report", "retinasdk doctor --json > doctor.json"),
        ],
        takes_long=False,
    )
    parser.add_argument_group("Model").add_argument(
        "--model",
        action=Input,
        files=model_files,
        metavar="MODEL",
        help="ONNX file, or name of a bundled model; default: none",
    )
    parser.add_argument_group("Output").add_argument(
        "--json", action="store_true", help="print all details as JSON instead of text"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command.

    Returns:
        The exit status: 1 if something is broken, else 0.

    Raises:
        ModelError: If there is no such model.
    """
    model = None if arguments.model is None else find_model(arguments.model)
    return doctor.main(as_json=arguments.json, model=model)
