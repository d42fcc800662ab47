"""The exported network is the trained one."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from export import export_onnx, largest_difference, make_spec
from fold import ExportedRetinaNet
from model import RetinaNet
from recipe import Recipe, load_recipe

from retinasdk import list_models
from retinasdk.spec import METADATA_KEY, ModelSpec

BUNDLED = {model.name: model.spec for model in list_models()}
_RECIPE = Recipe(name="tiny", dataset="none", classes=("a", "b"), steps=1, channels=16, depth=1)


@pytest.fixture(scope="module")
def model() -> RetinaNet:
    """A network of random weights whose norms have seen data, with three classes of which two are exported."""
    torch.manual_seed(0)
    model = RetinaNet(3, channels=16, depth=1)
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(2, 3, 128, 128) * 2 + 0.5)
    return model.eval()


def test_folding_changes_nothing(model: RetinaNet) -> None:
    images = torch.randn(1, 3, 128, 256)
    with torch.no_grad():
        logits, deltas = model(images)
        found = ExportedRetinaNet(model, 2)(images)
    chosen = [m.unflatten(1, (9, 3))[:, :, :2].flatten(1, 2) for m in logits]
    for a, b in zip(found, [*chosen, *deltas], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_onnx_file_agrees_holds_each_weight_once_and_its_spec(model: RetinaNet, tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    export_onnx(model, _RECIPE, path)
    assert largest_difference(model, _RECIPE, path) < 1e-3
    content = onnx.load(str(path))
    stored = sum(len(tensor.raw_data) for tensor in content.graph.initializer)
    weights = sum(p.numel() for p in ExportedRetinaNet(model, 2).parameters()) * 4
    assert stored <= weights + 4096
    metadata = {entry.key: entry.value for entry in content.metadata_props}
    spec = ModelSpec.load(path.with_suffix(".json"))
    assert ModelSpec.from_json(metadata[METADATA_KEY]) == spec
    assert spec.labels == ("a", "b")
    assert spec.anchors_per_cell == 9


def test_batch_norm_is_shared_by_the_levels(model: RetinaNet) -> None:
    # In training too: statistics over all levels, so equal inputs on two levels give equal outputs.
    layer = model.class_tower[0]
    layer.train()
    level = torch.randn(1, 16, 8, 8)
    first, second = layer([level, level.clone()])
    layer.eval()
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("name", ["people", "blood-cells", "tree-crowns"])
def test_a_recipe_gives_the_bundled_spec(name: str) -> None:
    """An export of a repeated training reports as the bundled model does."""
    assert make_spec(load_recipe(name)) == BUNDLED[name]
