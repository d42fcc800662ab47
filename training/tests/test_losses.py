"""Losses against their formulas, written out in plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from losses import focal_loss, giou_loss


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_loss_is_the_papers_formula(gamma: float) -> None:
    logits, targets, alpha = [-3.0, -0.5, 0.0, 1.5, 4.0], [0.0, 1.0, 1.0, 0.0, 1.0], 0.25
    expected = 0.0
    for logit, target in zip(logits, targets, strict=True):
        p = 1 / (1 + math.exp(-logit))
        p_t, alpha_t = (p, alpha) if target else (1 - p, 1 - alpha)
        expected -= alpha_t * (1 - p_t) ** gamma * math.log(p_t)
    found = focal_loss(torch.tensor(logits), torch.tensor(targets), alpha=alpha, gamma=gamma)
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_loss_has_finite_gradients_where_scores_saturate(gamma: float) -> None:
    logits = torch.tensor([-200.0, 200.0, -200.0, 200.0], requires_grad=True)
    focal_loss(logits, torch.tensor([0.0, 1.0, 1.0, 0.0]), alpha=0.25, gamma=gamma).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_giou_loss_of_known_boxes() -> None:
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 1, 1], [0, 0, 2, 2]])
    targets = torch.tensor([[0.0, 0, 2, 2], [2, 0, 3, 1], [1, 0, 3, 2]])
    # Equal: 0. Apart by one width: IoU 0, hull 3, union 2. Half overlapping: IoU 1/3, hull equals union.
    assert giou_loss(boxes, targets).item() == pytest.approx(0 + (1 + 1 / 3) + (1 - 1 / 3), rel=1e-5)
