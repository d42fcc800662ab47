"""The exported form of a trained RetinaNet: plain convolutions, raw heads, exported classes only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from backbone import FrozenNormConv
from model import PyramidNormConv, RetinaNet
from torch import Tensor, nn
from torch.nn import functional as F


def fold_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """One convolution that does what `conv` and then `norm`, in evaluation, do."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return _conv(
        conv.weight * scale[:, None, None, None],
        norm.bias - norm.running_mean * scale,
        conv.stride[0],
        int(conv.padding[0]),
        conv.groups,
    )


def _conv(weight: Tensor, bias: Tensor, stride: int, padding: int, groups: int) -> nn.Conv2d:
    outputs, inputs, kernel, _ = weight.shape
    folded = nn.Conv2d(inputs * groups, outputs, kernel, stride, padding, groups=groups)
    folded.weight.data, folded.bias.data = weight.detach().clone(), bias.detach().clone()  # type: ignore[union-attr]
    return folded


def _fold_frozen(conv: FrozenNormConv) -> nn.Conv2d:
    return _conv(conv.weight * conv.scale, conv.bias, conv.stride, conv.padding, conv.groups)


def _fold_shared(layer: PyramidNormConv) -> nn.Conv2d:
    return fold_norm(layer.conv, layer.norm)


def _fold_sequential(layer: nn.Module) -> nn.Conv2d:
    conv, norm = layer.children()
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    return fold_norm(conv, norm)


class ExportedRetinaNet(nn.Module):
    """As `RetinaNet` in evaluation; the outputs are five logits and then five deltas.

    `classes`: so many of the head's first classes remain.
    """

    def __init__(self, model: RetinaNet, classes: int) -> None:
        super().__init__()
        backbone, pyramid = model.backbone, model.pyramid
        self.stem = _fold_frozen(backbone.stem)
        self.blocks = nn.ModuleList()
        self.taps, self.residual = backbone.taps, [block.residual for block in backbone.blocks]
        for block in backbone.blocks:
            steps = [block.depthwise, block.project] if block.expand is None else [*block.children()]
            self.blocks.append(nn.ModuleList(_fold_frozen(conv) for conv in steps))
        self.lateral = nn.ModuleList(_fold_sequential(layer) for layer in pyramid.lateral)
        self.output = nn.ModuleList(_fold_sequential(layer) for layer in pyramid.output)
        self.p6, self.p7 = _fold_sequential(pyramid.p6), _fold_sequential(pyramid.p7)
        self.class_tower = nn.ModuleList(_fold_shared(layer) for layer in model.class_tower)
        self.box_tower = nn.ModuleList(_fold_shared(layer) for layer in model.box_tower)
        # Channel a * K + k: the first `classes` of each anchor's K channels.
        rows = torch.arange(model.anchors * model.classes).view(model.anchors, model.classes)[:, :classes].flatten()
        assert model.class_conv.bias is not None
        self.class_conv = _conv(model.class_conv.weight[rows], model.class_conv.bias[rows], 1, 1, 1)
        self.box_conv = model.box_conv

    def forward(self, images: Tensor) -> list[Tensor]:
        """images (N, 3, H, W) float32, normalised; H and W multiples of 128."""
        x = F.relu6(self.stem(images))
        taps = []
        for index, block in enumerate(self.blocks):
            *hidden, project = block  # type: ignore[misc]
            y = x
            for conv in hidden:
                y = F.relu6(conv(y))
            y = project(y)
            x = x + y if self.residual[index] else y
            if index in self.taps:
                taps.append(x)
        c3, c4, c5 = (lateral(tap) for lateral, tap in zip(self.lateral, taps, strict=True))
        c4 = c4 + F.interpolate(c5, scale_factor=2.0, mode="nearest")
        c3 = c3 + F.interpolate(c4, scale_factor=2.0, mode="nearest")
        levels = [F.relu(output(c)) for output, c in zip(self.output, (c3, c4, c5), strict=True)]
        levels.append(F.relu(self.p6(levels[2])))
        levels.append(F.relu(self.p7(levels[3])))
        return self._head(levels, self.class_tower, self.class_conv) + self._head(levels, self.box_tower, self.box_conv)

    @staticmethod
    def _head(levels: Sequence[Tensor], tower: nn.ModuleList, last: nn.Module) -> list[Tensor]:
        outputs = []
        for level in levels:
            x = level
            for layer in tower:
                x = F.relu(layer(x))
            outputs.append(last(x))
        return outputs
