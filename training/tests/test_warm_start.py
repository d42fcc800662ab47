"""Going on from an exported model: the network computes what the file computes, and files can be averaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from export import export_onnx
from fold import ExportedRetinaNet
from model import RetinaNet
from recipe import Recipe
from soup import mean_model
from torch import Tensor
from warm_start import load_exported

_RECIPE = Recipe(name="tiny", dataset="none", classes=("a", "b"), steps=1, channels=16, depth=1)


def trained(seed: int, channels: int = 16) -> RetinaNet:
    torch.manual_seed(seed)
    model = RetinaNet(3, channels=channels, depth=1)
    with torch.no_grad():
        for name, value in model.backbone.named_parameters():
            if name.endswith("bias"):  # equal ones would be one in the file
                value.normal_(0, 0.1)
        for _ in range(3):
            model(torch.randn(2, 3, 128, 128) * 2 + 0.5)
    return model.eval()


def exported(seed: int, folder: Path) -> Path:
    path = folder / f"tiny{seed}.onnx"
    export_onnx(trained(seed), _RECIPE, path)
    return path


def outputs(path: Path, images: Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images.numpy()})


def batches() -> list[Tensor]:
    torch.manual_seed(5)
    return [torch.randn(2, 3, 128, 128) for _ in range(3)]


def test_the_network_computes_what_the_file_computes(tmp_path: Path) -> None:
    path = exported(1, tmp_path)
    model = RetinaNet(3, channels=16, depth=1)
    model.backbone.stem.scale.fill_(0.5)  # as ImageNet's norms have scales other than 1
    load_exported(model, path, batches())
    images = torch.randn(1, 3, 128, 256)
    with torch.no_grad():
        found = ExportedRetinaNet(model.eval(), 2)(images)
    for a, b in zip(found, outputs(path, images), strict=True):
        torch.testing.assert_close(a, torch.tensor(b), rtol=1e-4, atol=1e-4)


def test_norms_keep_the_scale_of_what_they_normalise(tmp_path: Path) -> None:
    """In training, too, on the same images: what the file computes is what the first step begins with."""
    path = exported(1, tmp_path)
    model = RetinaNet(3, channels=16, depth=1)
    load_exported(model, path, batches())
    with torch.no_grad():
        model.eval()
        wanted = model(torch.cat(batches()))[0]
        model.train()
        found = model(torch.cat(batches()))[0]
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)


def test_further_classes_begin_anew(tmp_path: Path) -> None:
    path = exported(1, tmp_path)
    model = RetinaNet(5, channels=16, depth=1)
    fresh = model.class_conv.bias.detach().clone().view(-1, 5)
    load_exported(model, path, batches())
    assert model.class_conv.bias is not None
    torch.testing.assert_close(model.class_conv.bias.detach().view(-1, 5)[:, 2:], fresh[:, 2:])
    images = torch.randn(1, 3, 128, 256)
    with torch.no_grad():
        found = ExportedRetinaNet(model.eval(), 2)(images)
    for a, b in zip(found, outputs(path, images), strict=True):
        torch.testing.assert_close(a, torch.tensor(b), rtol=1e-4, atol=1e-4)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    path = exported(1, tmp_path)
    with pytest.raises(ValueError, match="weights of an exported RetinaNet wanted"):
        load_exported(RetinaNet(3, channels=16, depth=2), path, batches())


def test_mean(tmp_path: Path) -> None:
    paths = [exported(1, tmp_path), exported(2, tmp_path)]
    weights = [{t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer} for path in paths]
    for tensor in mean_model(paths).graph.initializer:
        wanted = (weights[0][tensor.name] + weights[1][tensor.name]) / 2
        np.testing.assert_allclose(onnx.numpy_helper.to_array(tensor), wanted, rtol=1e-6, atol=1e-7)


def test_only_one_architecture_has_a_mean(tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    export_onnx(trained(1, channels=24), _RECIPE, other)
    with pytest.raises(ValueError, match="average one recipe's runs"):
        mean_model([exported(1, tmp_path), other])
