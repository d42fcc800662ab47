"""Anchors and box coding, as the SDK decodes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

STRIDES = (8, 16, 32, 64, 128)
MAX_LOG_SCALE = math.log(1000.0 / 16.0)
"""Bound on dw and dh before `exp`, as in Faster R-CNN."""


@dataclass(frozen=True)
class AnchorRule:
    """The anchors of a cell: every ratio with every size, ratio-major.

    `scale`: side of the smallest square anchor of a level, in strides. `octaves`: sizes of a level as
    powers of two over it. `ratios`: height over width; the area does not depend on the ratio.
    """

    scale: float = 4.0
    octaves: tuple[float, ...] = (0.0, 1.0 / 3.0, 2.0 / 3.0)
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)

    @property
    def per_cell(self) -> int:
        return len(self.octaves) * len(self.ratios)

    def base(self, stride: int) -> list[tuple[float, float, float, float]]:
        """Anchors of cell (0, 0), xyxy in pixels of the network's input; their centre is (stride / 2, stride / 2)."""
        boxes = []
        for ratio in self.ratios:
            for octave in self.octaves:
                size = stride * self.scale * 2.0**octave
                width, height = size / math.sqrt(ratio), size * math.sqrt(ratio)
                centre = stride / 2
                boxes.append((centre - width / 2, centre - height / 2, centre + width / 2, centre + height / 2))
        return boxes


def level_shapes(height: int, width: int) -> list[tuple[int, int]]:
    """Cells (h, w) of each level for an input whose sides are multiples of 32."""
    return [(math.ceil(height / s), math.ceil(width / s)) for s in STRIDES]


def all_anchors(rule: AnchorRule, height: int, width: int) -> Tensor:
    """Anchors (sum of h*w*A, 4) float32, xyxy in input pixels: by level, row, column, anchor of the cell."""
    boxes = []
    for stride, (rows, columns) in zip(STRIDES, level_shapes(height, width), strict=True):
        base = torch.tensor(rule.base(stride))
        y, x = torch.meshgrid(torch.arange(rows) * stride, torch.arange(columns) * stride, indexing="ij")
        shift = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
        boxes.append((base + shift).reshape(-1, 4))
    return torch.cat(boxes).float()


def decode(anchors: Tensor, deltas: Tensor) -> Tensor:
    """Boxes (..., 4) xyxy of deltas (..., 4) dx, dy, dw, dh relative to anchors (..., 4) xyxy."""
    size = anchors[..., 2:] - anchors[..., :2]
    centre = anchors[..., :2] + size / 2 + deltas[..., :2] * size
    half = size * torch.exp(deltas[..., 2:].clamp(max=MAX_LOG_SCALE)) / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def encode(anchors: Tensor, boxes: Tensor) -> Tensor:
    """The deltas that `decode` turns into `boxes`."""
    size = anchors[..., 2:] - anchors[..., :2]
    box_size = boxes[..., 2:] - boxes[..., :2]
    shift = (boxes[..., :2] + box_size / 2 - anchors[..., :2] - size / 2) / size
    return torch.cat([shift, torch.log(box_size / size)], dim=-1)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU (len(a), len(b)) of boxes xyxy."""
    inter = _intersections(a, b)
    return (inter / (_area(a) + _area(b)[:, None] - inter).clamp(min=1e-9)).T


def covered(a: Tensor, b: Tensor) -> Tensor:
    """Share (len(a), len(b)) of each box of `a` that lies in each of `b`."""
    return (_intersections(a, b) / _area(a).clamp(min=1e-9)).T


def _intersections(a: Tensor, b: Tensor) -> Tensor:
    """Shared areas (len(b), len(a)). Anchors come as `a`: the long axis last is several times as fast."""
    ax0, ay0, ax1, ay1 = a.T.contiguous()
    bx0, by0, bx1, by1 = b.T[:, :, None]
    width = (torch.minimum(ax1, bx1) - torch.maximum(ax0, bx0)).clamp_(min=0)
    return width * (torch.minimum(ay1, by1) - torch.maximum(ay0, by0)).clamp_(min=0)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def best_overlaps(rule: AnchorRule, sizes: Sequence[tuple[float, float]], side: int = 512) -> Tensor:
    """Best IoU of each box (width, height) with any anchor when centred at random: how well a rule fits a data set."""
    generator = torch.Generator().manual_seed(0)
    wh = torch.tensor(sizes)
    centre = torch.rand(len(sizes), 2, generator=generator) * side / 2 + side / 4
    boxes = torch.cat([centre - wh / 2, centre + wh / 2], dim=1)
    return pairwise_iou(all_anchors(rule, side, side), boxes).max(0).values
