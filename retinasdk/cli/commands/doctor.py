"""`retinasdk doctor`: shows what works on this machine and what is missing."""

from __future__ import annotations

import argparse
from typing import Any

from retinasdk.cli.arguments import add_command
from retinasdk.doctor import diagnose as doctor


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "doctor",
        description="Shows whether retinasdk can detect objects on this machine, and which device '--device auto' uses "
        "and why. Then lists the required packages, what the GPU needs, the optional packages, and how to install or "
        "repair them. The exit status is 1 if something is installed but broken.",
        examples=[
            ("Check an installation", "retinasdk doctor"),
            ("Save every detail for a bug report", "retinasdk doctor --json > doctor.json"),
        ],
        takes_long=False,
    )
    parser.add_argument_group("Output").add_argument(
        "--json", action="store_true", help="print all details as JSON instead of text"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command.

    Returns:
        The exit status: 1 if something is broken, else 0.
    """
    return doctor.main(as_json=arguments.json)
