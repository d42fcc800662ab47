"""Which anchor answers for which box."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from anchors import covered, pairwise_iou
from torch import Tensor

NEGATIVE = -1
IGNORED = -2


@dataclass(frozen=True)
class AssignRule:
    """RetinaNet's rule, with a floor for boxes that no anchor fits.

    An anchor is positive for its best box from IoU `positive`, negative below `negative`, ignored between.
    Then each box also takes its `best_k` best anchors of IoU `floor` or more (always its best one): small
    boxes reach IoU 0.5 with hardly any anchor, and would otherwise be learnt from one anchor each.
    """

    positive: float = 0.5
    negative: float = 0.4
    best_k: int = 6
    floor: float = 0.25


def assign(anchors: Tensor, boxes: Tensor, ignored: Tensor, rule: AssignRule) -> Tensor:
    """Index (len(anchors),) int64 of each anchor's box, or NEGATIVE or IGNORED.

    anchors (M, 4), boxes (n, 4), ignored (i, 4): xyxy in input pixels. A negative anchor that lies at least
    half in a box of `ignored` (a crowd, a box mostly cut off) is ignored.
    """
    target = torch.full((len(anchors),), NEGATIVE, dtype=torch.int64)
    if len(boxes):
        overlaps = pairwise_iou(anchors, boxes)
        best, index = overlaps.max(1)
        target[best >= rule.negative] = IGNORED
        target[best >= rule.positive] = index[best >= rule.positive]
        top, rows = (t.T for t in overlaps.T.topk(min(rule.best_k, len(anchors))))
        wanted = top >= rule.floor
        wanted[0] = True
        # Ascending IoU, so that an anchor wanted by several boxes ends with the one that it fits best.
        order = top[wanted].argsort()
        columns = torch.arange(len(boxes)).expand_as(rows)[wanted][order]
        anchor_rows = rows[wanted][order]
        # An anchor already positive for another box stays there unless this one fits it better.
        free = (target[anchor_rows] < 0) | (top[wanted][order] >= best[anchor_rows])
        for anchor, box in zip(anchor_rows[free].tolist(), columns[free].tolist(), strict=True):
            target[anchor] = box
    if len(ignored):
        inside = covered(anchors, ignored).max(1).values >= 0.5
        target[inside & (target == NEGATIVE)] = IGNORED
    return target
