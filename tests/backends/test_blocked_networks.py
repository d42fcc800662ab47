"""Whole networks with the operators of retinasdk: their heads are those that ONNX Runtime computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from conv_graphs import session
from paths import DATA
from random_retinanet import random_retinanet, save_random_retinanet

from retinasdk.backends import blocked_graph
from retinasdk.models import find_model, list_models

# Of those that find the best detections themselves, the order would change with the last bits of scores.
_SORTS = {"NonMaxSuppression", "TopK"}


def assert_heads_agree(path: Path, sizes: list[tuple[int, int, int]], tolerance: float = 1e-4) -> None:
    """The heads differ by less than a part of what each varies by, for each (batch, height, width)."""
    edited = blocked_graph.rewritten(path, input_size=sizes[0][1:])
    assert edited is not None
    ours, plain = session(edited), session(path.read_bytes())
    (image,) = plain.get_inputs()
    for size in sizes:
        shape = [size[0], *size[1:], 3] if image.shape[-1] == 3 else [size[0], 3, *size[1:]]
        shape = [given if isinstance(given, int) else side for given, side in zip(image.shape, shape, strict=True)]
        x = {image.name: np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
        for one, other in zip(ours.run(None, x), plain.run(None, x), strict=True):
            assert one.shape == other.shape
            varies = max(other.std(), 1e-2 * np.abs(other).max())  # Of a single cell, it may be next to nothing.
            assert np.abs(one - other).max() < tolerance * varies


@pytest.mark.parametrize("name", [model.name for model in list_models()])
def test_bundled_models(name: str) -> None:
    assert_heads_agree(find_model(name), [(2, 320, 416), (1, 96, 32), (3, 32, 128)])


def test_a_random_network_at_odd_sizes(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(random_retinanet("tiny")[0], str(path))
    assert_heads_agree(path, [(2, 97, 131), (1, 65, 33), (1, 1, 1), (1, 7, 300)])


@pytest.mark.heavy
def test_resnet50(tmp_path: Path) -> None:
    path = save_random_retinanet(tmp_path / "model.onnx", "resnet50", classes=20)
    assert_heads_agree(path, [(2, 416, 544), (1, 131, 97)])


@pytest.mark.parametrize(
    "framework", ["detectron2", "keras-hub", "mmdet", "mmrotate", "odtk", "odtk-rotated", "tf-models", "torchvision"]
)
def test_exports_of_all_frameworks(framework: str) -> None:
    compared = 0
    for path in sorted((DATA / "frameworks" / framework).glob("*.onnx")):
        kinds = {node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node}
        if compared < 3 and kinds.isdisjoint(_SORTS) and blocked_graph.rewritten(path) is not None:
            assert_heads_agree(path, [(1, 128, 160), (2, 96, 64)])
            compared += 1
    assert compared > 0
