"""What focusing does: blood cells with gamma 0, 0.5, 1 and 2, the same few steps each; a table and a plot."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from evaluate import evaluate, load_checkpoint
from recipe import HERE, load_recipe, runs_dir
from train import train

# gamma and the alpha that goes with it: the best alpha that the focal loss paper found for each gamma (its table 1b).
# Gamma 0 is the alpha-balanced cross entropy.
_SETTINGS = ((0.0, 0.75), (0.5, 0.5), (1.0, 0.25), (2.0, 0.25))


@dataclass(frozen=True)
class Row:
    """Test scores of one setting. `per_class`: AP of each class."""

    gamma: float
    alpha: float
    summary: dict[str, float]
    per_class: dict[str, float]


def run_study(steps: int) -> list[Row]:
    """Train (or find trained) each setting and score it on the test split."""
    rows = []
    for gamma, alpha in _SETTINGS:
        base = load_recipe("blood-cells")
        # The training split only, so that the rows differ in nothing but the loss.
        recipe = replace(base, name=f"gamma-{gamma:g}", gamma=gamma, alpha=alpha, steps=steps, late_splits=(), ema=0.98)
        folder = runs_dir() / recipe.name
        train(recipe, folder)
        torch.set_num_threads(2)
        model, recipe, _ = load_checkpoint(folder / "last.pt")
        scores = evaluate(model, recipe, "test")
        rows.append(Row(gamma, alpha, scores.summary, {k: v["AP"] for k, v in scores.per_class.items()}))
        (runs_dir() / "study.json").write_text(json.dumps([vars(row) for row in rows], indent=1))
        print(table(rows), flush=True)
    return rows


def table(rows: list[Row]) -> str:
    """The study as a Markdown table."""
    classes = list(rows[0].per_class)
    lines = ["| gamma | alpha | AP | AP50 | AP75 | " + " | ".join(f"AP {c}" for c in classes) + " |"]
    lines.append("|" + "---|" * (5 + len(classes)))
    for row in rows:
        numbers = [row.summary["AP"], row.summary["AP50"], row.summary["AP75"], *row.per_class.values()]
        lines.append(f"| {row.gamma:g} | {row.alpha:g} | " + " | ".join(f"{n:.3f}" for n in numbers) + " |")
    return "\n".join(lines)


def plot(rows: list[Row], path: Path) -> None:
    """AP50 and AP against gamma."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(4.5, 3.0), dpi=100)
    for name, mark in (("AP50", "o-"), ("AP", "s-")):
        axes.plot([row.gamma for row in rows], [row.summary[name] for row in rows], mark, label=name)
    axes.set(xlabel="gamma", ylabel="blood cells, test split", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=150, help="steps of each setting")
    arguments = parser.parse_args()
    rows = run_study(arguments.steps)
    plot(rows, HERE / "study.png")


if __name__ == "__main__":
    main()
