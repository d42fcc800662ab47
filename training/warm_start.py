"""A network with the weights of an exported model, so that training goes on from a bundled one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
import torch
from backbone import FrozenNormConv
from fold import ExportedRetinaNet
from model import PyramidNormConv, RetinaNet
from torch import Tensor, nn


@torch.no_grad()
def load_exported(model: RetinaNet, path: Path, images: Sequence[Tensor]) -> None:
    """Give `model` the weights of the ONNX file that `ExportedRetinaNet` wrote of the same architecture.

    The file's classes are the head's first ones; the rows of further ones keep their start.
    images: normalised batches (N, 3, H, W) float32. The file's norms are folded away; their statistics are measured
    anew on these, and scale and shift set so that in evaluation the network computes what the file computes.
    """
    weights = {t.name: torch.tensor(onnx.numpy_helper.to_array(t)) for t in onnx.load(path).graph.initializer}
    missing = set(dict(ExportedRetinaNet(model, 1).named_parameters())) - set(weights)
    if missing:
        raise ValueError(f"{path}: weights of an exported RetinaNet wanted, {sorted(missing)[:3]} are missing")
    for prefix, layer in _backbone_layers(model):
        layer.weight.copy_(weights[f"{prefix}.weight"] / layer.scale)
        layer.bias.copy_(weights[f"{prefix}.bias"])
    norms = {}
    for prefix, conv, norm in _norm_layers(model):
        conv.weight.copy_(weights[f"{prefix}.weight"])
        _set_norm(norm, torch.zeros_like(norm.bias), torch.ones_like(norm.bias) - norm.eps, weights[f"{prefix}.bias"])
        norms[prefix] = norm
    classes = len(weights["class_conv.bias"]) // model.anchors
    rows = torch.arange(model.anchors * model.classes).view(model.anchors, model.classes)[:, :classes].flatten()
    assert model.class_conv.bias is not None
    model.class_conv.weight[rows] = weights["class_conv.weight"]
    model.class_conv.bias[rows] = weights["class_conv.bias"]
    model.box_conv.load_state_dict({k: weights[f"box_conv.{k}"] for k in ("weight", "bias")})
    for prefix, (mean, variance) in _measure(model, norms, images).items():
        norm = norms[prefix]
        _set_norm(norm, mean, variance, norm.bias + mean)


def _set_norm(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, bias: Tensor) -> None:
    """Statistics, and a scale that undoes their variance."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_(torch.sqrt(variance + norm.eps))
    norm.bias.copy_(bias)


def _measure(
    model: RetinaNet, norms: dict[str, nn.BatchNorm2d], images: Sequence[Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and variance of each norm's input, by channel, over all images."""
    sums = {prefix: torch.zeros(3, norm.num_features, dtype=torch.float64) for prefix, norm in norms.items()}

    def watch(prefix: str) -> object:
        def note(_: nn.Module, inputs: tuple[Tensor]) -> None:
            x = inputs[0].double()
            count = torch.full((x.shape[1],), x.numel() / x.shape[1], dtype=torch.float64)
            sums[prefix] += torch.stack([count, x.sum((0, 2, 3)), x.square().sum((0, 2, 3))])

        return note

    handles = [norm.register_forward_pre_hook(watch(prefix)) for prefix, norm in norms.items()]
    was_training = model.training
    model.eval()
    for batch in images:
        model(batch)
    model.train(was_training)
    for handle in handles:
        handle.remove()
    found = {}
    for prefix, (count, total, squares) in sums.items():
        mean = total / count
        found[prefix] = (mean.float(), (squares / count - mean.square()).clamp(min=0).float())
    return found


def _backbone_layers(model: RetinaNet) -> Iterator[tuple[str, FrozenNormConv]]:
    """The exported name and the layer of each convolution whose norm is frozen."""
    yield "stem", model.backbone.stem
    for index, block in enumerate(model.backbone.blocks):
        steps = [block.depthwise, block.project] if block.expand is None else [*block.children()]
        for position, layer in enumerate(steps):
            yield f"blocks.{index}.{position}", layer


def _norm_layers(model: RetinaNet) -> Iterator[tuple[str, nn.Conv2d, nn.BatchNorm2d]]:
    """The exported name, convolution and norm of each layer with a norm that trains."""
    pyramid = model.pyramid
    sequential = [(f"lateral.{i}", m) for i, m in enumerate(pyramid.lateral)]
    sequential += [(f"output.{i}", m) for i, m in enumerate(pyramid.output)]
    sequential += [("p6", pyramid.p6), ("p7", pyramid.p7)]
    for prefix, layer in sequential:
        conv, norm = layer.children()
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        yield prefix, conv, norm
    for name, tower in (("class_tower", model.class_tower), ("box_tower", model.box_tower)):
        for index, layer in enumerate(tower):
            assert isinstance(layer, PyramidNormConv)
            yield f"{name}.{index}", layer.conv, layer.norm
