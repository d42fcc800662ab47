"""Anchors, box coding and assignment."""

from __future__ import annotations

import torch
from anchors import MAX_LOG_SCALE, AnchorRule, all_anchors, decode, encode, level_shapes, pairwise_iou
from assign import IGNORED, NEGATIVE, AssignRule, assign


def test_base_anchors_are_ratio_major_and_centred_in_the_cell() -> None:
    base = torch.tensor(AnchorRule().base(8), dtype=torch.float64)
    width, height = base[:, 2] - base[:, 0], base[:, 3] - base[:, 1]
    assert torch.allclose((base[:, :2] + base[:, 2:]) / 2, torch.full((9, 2), 4.0, dtype=torch.float64))
    assert torch.allclose(height / width, torch.tensor([0.5] * 3 + [1.0] * 3 + [2.0] * 3, dtype=torch.float64))
    assert torch.allclose((width * height).sqrt(), 32 * 2.0 ** (torch.arange(9, dtype=torch.float64) % 3 / 3))


def test_all_anchors_run_by_level_row_column_anchor() -> None:
    rule = AnchorRule()
    anchors = all_anchors(rule, 128, 256)
    shapes = level_shapes(128, 256)
    assert shapes == [(16, 32), (8, 16), (4, 8), (2, 4), (1, 2)]
    assert len(anchors) == sum(h * w for h, w in shapes) * 9
    row, column, anchor = 3, 5, 7
    expected = torch.tensor(rule.base(8)[anchor]) + torch.tensor([column * 8.0, row * 8.0] * 2)
    assert torch.allclose(anchors[(row * 32 + column) * 9 + anchor], expected)


def test_decode_undoes_encode_and_bounds_the_scale() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 20], [5, 5, 9, 9]])
    boxes = torch.tensor([[1.0, 2, 31, 12], [4, 4, 6, 12]])
    assert torch.allclose(decode(anchors, encode(anchors, boxes)), boxes, atol=1e-4)
    wide = decode(anchors[:1], torch.tensor([[0.0, 0, 50, 0]]))
    assert torch.isclose(wide[0, 2] - wide[0, 0], 10 * torch.tensor(MAX_LOG_SCALE).exp())


def test_iou_of_known_boxes() -> None:
    found = pairwise_iou(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2], [5, 5, 6, 6], [0, 0, 2, 2]]))
    assert torch.allclose(found, torch.tensor([[1 / 3, 0.0, 1.0]]))


def test_every_box_gets_an_anchor_and_crowds_are_ignored() -> None:
    anchors = all_anchors(AnchorRule(), 256, 256)
    boxes = torch.tensor([[20.0, 20, 26, 28], [60, 60, 130, 200]])
    crowd = torch.tensor([[160.0, 160, 256, 256]])
    target = assign(anchors, boxes, crowd, AssignRule())
    assert (target == 0).sum() >= 1
    overlaps = pairwise_iou(anchors, boxes)
    best, index = overlaps.max(1)
    assert (target[best >= 0.5] == index[best >= 0.5]).all()
    assert (target[(best >= 0.4) & (best < 0.5)] != NEGATIVE).all()
    inside = pairwise_iou(anchors, crowd)[:, 0] > 0.5
    assert (target[inside & (best < 0.4)] == IGNORED).all()
    assert (target == NEGATIVE).sum() > 0.8 * len(anchors)


def test_no_boxes_means_all_negative() -> None:
    empty = torch.zeros(0, 4)
    assert (assign(all_anchors(AnchorRule(), 128, 128), empty, empty, AssignRule()) == NEGATIVE).all()
