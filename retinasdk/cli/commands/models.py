"""`retinasdk models`: the bundled models with their cards."""

from __future__ import annotations

import argparse
from typing import Any

from retinasdk import list_models


def add_parser(commands: Any) -> None:
    """Adds the command."""
    models = commands.add_parser("models", help="list the bundled models with their cards")
    models.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Prints them."""
    for model in list_models():
        size = model.path.stat().st_size / 1e6
        print(f"{model.name}  ({', '.join(model.spec.labels)}; {size:.1f} MB)\n")
        print("\n".join(f"  {line}".rstrip() for line in model.card.strip().splitlines()), end="\n\n")
