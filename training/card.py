"""The model card of an exported model: its test scores, measured by the SDK itself, put into ``cards/<name>.md``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from data import annotation_file
from evaluate import PostProcess, load_checkpoint
from evaluate import evaluate as evaluate_checkpoint
from recipe import HERE, Recipe, data_root, load_recipe, runs_dir

from retinasdk import Detector
from retinasdk.evaluation.evaluate import METRICS, evaluate
from retinasdk.evaluation.results import Evaluation


def _score_table(found: Evaluation) -> str:
    def text(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    lines = ["| " + " | ".join(METRICS) + " |", "|" + "---|" * len(METRICS)]
    lines += ["| " + " | ".join(text(found.metrics[name]) for name in METRICS) + " |", ""]
    lines += ["| class | boxes | AP | AP50 |", "|---|---|---|---|"]
    for name, result in found.per_class.items():
        lines.append(f"| {name} | {result.boxes} | {text(result.AP)} | {text(result.AP50)} |")
    return "\n".join(lines)


def _dense_text(name: str, top_k: int, counted: int) -> str:
    model, recipe, _ = load_checkpoint(runs_dir() / name / "last.pt")
    post = PostProcess(threshold=0.01, top_k=top_k, most=counted)
    scores = evaluate_checkpoint(model, recipe, "test", post=post, counted=counted).summary
    return (
        f"With {counted:,} detections counted instead of 100, AP is {scores['AP']:.3f}, AP50 {scores['AP50']:.3f} and "
        f"the recall (AR) {scores['AR100']:.3f}."
    )


def _run_text(recipe: Recipe, step: int, seconds: float) -> str:
    return (
        f"{step:,} steps of {recipe.batch} samples ({step * recipe.batch:,} samples of "
        f"{recipe.canvas} x {recipe.canvas} pixels) in {seconds / 60:.0f} minutes on two processor cores, no GPU"
    )


def write_card(name: str, models: Path) -> Evaluation:
    """Score ``<models>/<name>.onnx`` on the test split and write ``<models>/<name>.md``."""
    recipe = load_recipe(name)
    images = data_root() / recipe.dataset / "images"
    found = evaluate(Detector(str(models / f"{name}.onnx")), images, annotation_file(recipe.dataset, "test"))
    filled = (HERE / "cards" / f"{name}.md").read_text()
    filled = filled.replace("@SCORES@", _score_table(found))
    if "@RUN@" in filled:  # not where a model is the mean of several runs
        state = torch.load(runs_dir() / name / "last.pt", map_location="cpu", weights_only=True)
        filled = filled.replace("@RUN@", _run_text(recipe, int(state["step"]), float(state["seconds"])))
    filled = filled.replace("@IMAGES@", str(found.images))
    if "@ALL@" in filled:
        filled = filled.replace("@ALL@", _dense_text(name, recipe.top_k, recipe.max_detections))
    (models / f"{name}.md").write_text(filled)
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--models", type=Path, default=HERE.parent / "retinasdk" / "models")
    arguments = parser.parse_args()
    print(json.dumps(write_card(arguments.name, arguments.models).to_dict()))


if __name__ == "__main__":
    main()
