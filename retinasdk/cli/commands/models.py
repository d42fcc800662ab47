"""`retinasdk models`: lists the bundled models, or prints the card of one."""

from __future__ import annotations

import argparse
import difflib
import re
from typing import Any

from retinasdk import BundledModel, ModelError, ModelSpec, list_models
from retinasdk.cli.arguments import add_command
from retinasdk.cli.output import print_text

_COLUMNS = ("name", "finds", "input", "AP", "size", "threshold")


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "models",
        description="Lists the models that come with retinasdk: the classes that they find, the size that images are "
        "resized to, their COCO average precision (AP) on their test images, the size of the file, and the default "
        "score threshold. With a name, prints the card of this model: data, accuracy, limits and license.",
        examples=[
            ("List the models", "retinasdk models"),
            ("Read about one of them before using it", "retinasdk models people"),
        ],
        takes_long=False,
    )
    parser.add_argument_group("Input").add_argument(
        "name", nargs="?", metavar="NAME", help="the model whose card is printed; default: a table of all models"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Runs the command.

    Raises:
        ModelError: No bundled model has this name.
    """
    models = {model.name: model for model in list_models()}
    if arguments.name is None:
        print_text(_table(list(models.values())))
    elif arguments.name in models:
        print_text(models[arguments.name].card.strip())
    else:
        near = difflib.get_close_matches(arguments.name, models, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ModelError(
            f"no bundled model is called {arguments.name!r}{hint}; the bundled models are {', '.join(models)}"
        )


def _table(models: list[BundledModel]) -> str:
    rows = [
        _COLUMNS,
        *(
            (
                model.name,
                ", ".join(label for label in model.spec.labels if label),
                _input_size(model.spec),
                _average_precision(model.card),
                f"{model.path.stat().st_size / 1e6:.1f} MB",
                f"{model.spec.score_threshold:g}",
            )
            for model in models
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:{width}s}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "", "'retinasdk models NAME' prints the card of a model."])


def _input_size(spec: ModelSpec) -> str:
    rule, sides = spec.resize.rule, spec.resize.size
    if rule == "longest":
        return f"longest side {sides[0]} px"
    if rule == "shortest":
        return f"shortest side {sides[0]} px, at most {sides[1]}"
    return f"as it is, up to {sides[0]} px" if rule == "native" else f"{sides[0]} x {sides[1]} px"


def _average_precision(card: str) -> str:
    """Returns the AP in the first table of a card, whose first column it is."""
    found = re.search(r"^\| AP \|.*\n\|[-|]+\n\| ([0-9.]+) \|", card, re.MULTILINE)
    return found[1] if found else "-"
