"""`retinasdk doctor`: what is on this machine, what works and what is missing."""

from __future__ import annotations

import argparse
from typing import Any

from retinasdk.doctor import diagnose as doctor


def add_parser(commands: Any) -> None:
    """Adds the command."""
    check = commands.add_parser("doctor", help="tell what is installed, what works, and what is missing")
    check.add_argument("--json", action="store_true", help="print JSON instead of a table")
    check.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints it; 1 where something is broken."""
    return doctor.main(as_json=arguments.json)
