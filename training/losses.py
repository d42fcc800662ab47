"""Focal loss and GIoU loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def focal_loss(logits: Tensor, targets: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Sum of the sigmoid focal loss, -alpha_t (1 - p_t)^gamma log(p_t).

    logits, targets: same shape, float32; targets are 0 or 1. `alpha` weighs the ones, 1 - alpha the zeros.
    gamma = 0 leaves the alpha-balanced cross entropy.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    if gamma > 0:
        p = torch.sigmoid(logits)
        miss = p + targets - 2 * p * targets  # 1 - p_t
        weight = weight * (miss * miss if gamma == 2 else miss.clamp(min=1e-12) ** gamma)
    return (cross_entropy * weight).sum()


def giou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """Sum of 1 - GIoU of boxes (n, 4) and targets (n, 4), xyxy."""
    inter = (torch.minimum(boxes[:, 2:], targets[:, 2:]) - torch.maximum(boxes[:, :2], targets[:, :2])).clamp(min=0)
    hull = torch.maximum(boxes[:, 2:], targets[:, 2:]) - torch.minimum(boxes[:, :2], targets[:, :2])
    overlap, hull_area = inter.prod(-1), hull.prod(-1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(-1) + (targets[:, 2:] - targets[:, :2]).prod(-1) - overlap
    iou = overlap / union.clamp(min=1e-7)
    return (1 - iou + (hull_area - union) / hull_area.clamp(min=1e-7)).sum()
