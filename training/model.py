"""RetinaNet: EfficientNet-Lite0, a feature pyramid P3..P7 and two heads shared over its levels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from backbone import CHANNELS, EfficientNetLite0
from torch import Tensor, nn
from torch.nn import functional as F

LEVELS = 5


class PyramidNormConv(nn.Module):
    """A 3x3 convolution shared by the levels, one batch norm over all of them, ReLU.

    The norm's statistics are taken over the cells of all levels at once, so the levels share its constants
    in evaluation too and it folds into the shared weights. (A norm fed level by level would train on each
    level's own statistics and evaluate on a mixture of them.)
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels, momentum=0.03)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        maps = [self.conv(level) for level in levels]
        rows = torch.cat([m.permute(0, 2, 3, 1).reshape(-1, m.shape[1]) for m in maps])
        rows = F.relu(self.norm(rows.view(1, rows.shape[0], 1, rows.shape[1]).permute(0, 3, 1, 2)))
        parts = rows.permute(0, 2, 3, 1).reshape(-1, rows.shape[1]).split([m.numel() // m.shape[1] for m in maps])
        return [
            part.view(m.shape[0], m.shape[2], m.shape[3], m.shape[1]).permute(0, 3, 1, 2)
            for part, m in zip(parts, maps, strict=True)
        ]


def _norm_conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs, momentum=0.03),
    )


class FeaturePyramid(nn.Module):
    """C3, C4, C5 to P3..P7, each of `channels` channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(_norm_conv(c, channels, 1) for c in CHANNELS)
        self.output = nn.ModuleList(_norm_conv(channels, channels, 3) for _ in CHANNELS)
        self.p6 = _norm_conv(channels, channels, 3, stride=2)
        self.p7 = _norm_conv(channels, channels, 3, stride=2)

    def forward(self, taps: Sequence[Tensor]) -> list[Tensor]:
        c3, c4, c5 = (lateral(tap) for lateral, tap in zip(self.lateral, taps, strict=True))
        c4 = c4 + F.interpolate(c5, scale_factor=2.0, mode="nearest")
        c3 = c3 + F.interpolate(c4, scale_factor=2.0, mode="nearest")
        p3, p4, p5 = (F.relu(output(c)) for output, c in zip(self.output, (c3, c4, c5), strict=True))
        p6 = F.relu(self.p6(p5))
        p7 = F.relu(self.p7(p6))
        return [p3, p4, p5, p6, p7]


class RetinaNet(nn.Module):
    """Normalised images to raw logits and deltas of each level.

    `classes`: K. `anchors`: A, anchors of a cell. `channels`, `depth`: width of the pyramid and heads, and
    3x3 convolutions in each head before its last. `prior`: the score that every anchor starts with, so that
    the first steps are not spent on unlearning half a million false alarms.
    """

    def __init__(
        self,
        classes: int,
        *,
        anchors: int = 9,
        channels: int = 80,
        depth: int = 2,
        frozen_blocks: int = 3,
        prior: float = 0.01,
    ) -> None:
        super().__init__()
        self.classes, self.anchors = classes, anchors
        self.backbone = EfficientNetLite0(frozen_blocks)
        self.pyramid = FeaturePyramid(channels)
        self.class_tower = nn.ModuleList(PyramidNormConv(channels) for _ in range(depth))
        self.box_tower = nn.ModuleList(PyramidNormConv(channels) for _ in range(depth))
        self.class_conv = nn.Conv2d(channels, anchors * classes, 3, padding=1)
        self.box_conv = nn.Conv2d(channels, anchors * 4, 3, padding=1)
        for conv in (self.class_conv, self.box_conv):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)
        nn.init.constant_(self.class_conv.bias, -math.log((1 - prior) / prior))

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """images (N, 3, H, W) float32 -> five logits (N, A*K, h, w), five deltas (N, A*4, h, w)."""
        levels = self.pyramid(self.backbone(images))
        class_maps, box_maps = levels, levels
        for layer in self.class_tower:
            class_maps = layer(class_maps)
        for layer in self.box_tower:
            box_maps = layer(box_maps)
        return [self.class_conv(m) for m in class_maps], [self.box_conv(m) for m in box_maps]


def flatten_heads(maps: Sequence[Tensor], values: int) -> Tensor:
    """Maps (N, A*values, h, w) to (N, cells*A over all levels, values): the order of `anchors.all_anchors`."""
    return torch.cat([m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, values) for m in maps], dim=1)
