"""The numbers of `verify`: how far two sets of head outputs are from each other, and which boxes belong together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from retinasdk.detections import Detections

if TYPE_CHECKING:
    import numpy.typing as npt

# Boxes whose edges are all so near are the same, whatever they overlap: of a few pixels' side they overlap by little.
_SAME_PLACE_PX = 0.5
_NOT_ALIKE = -1.0


class TensorTally:
    """Differences of one tensor, collected over images. tolerance: as part of the tensor's spread."""

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        self._elements = self._beyond = 0
        self.max_abs = self.max_relative = 0.0
        self.not_finite = 0

    def add(self, wanted: npt.NDArray[np.float32], got: npt.NDArray[np.float32]) -> None:
        """Compares two arrays of one shape. What is NaN or infinite on one side alone is counted, and not measured."""
        finite = np.isfinite(wanted) & np.isfinite(got)
        same = (wanted == got) | (np.isnan(wanted) & np.isnan(got))
        self.not_finite += int((~finite & ~same).sum())
        self._elements += wanted.size
        if not finite.any():
            return
        reference = wanted[finite].astype(np.float64)
        difference = np.abs(reference - got[finite])
        # A tensor of one value has no spread of its own: then float32's steps at that value stand for it.
        spread = max(float(reference.std()), float(np.spacing(np.float32(np.abs(reference).max()))))
        self._beyond += int((difference > self._tolerance * spread).sum())
        self.max_abs = max(self.max_abs, float(difference.max()))
        self.max_relative = max(self.max_relative, float(difference.max()) / spread)

    @property
    def share_beyond(self) -> float:
        """Part of all elements that differ by more than the tolerance."""
        return self._beyond / max(1, self._elements)


def pair_boxes(first: Detections, second: Detections, min_iou: float) -> npt.NDArray[np.int64]:
    """(p, 2) indices into both of boxes that belong together: one class, and an overlap of `min_iou` or one place.

    No box is in two pairs; the best of `first` choose first.
    """
    alike = _likeness(first, second)
    pairs: list[tuple[int, int]] = []
    for index in range(len(first) if len(second) else 0):
        best = int(alike[index].argmax())
        if alike[index, best] >= min_iou:
            pairs.append((index, best))
            alike[:, best] = _NOT_ALIKE
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def are_among(
    boxes: Detections, others: Detections, min_iou: float, max_score_difference: float
) -> npt.NDArray[np.bool_]:
    """(n,) whether each of `boxes` has one in `others` that it could be a pair with, of nearly its score."""
    # One at a time: thousands times thousands would not fit in memory.
    found = np.zeros(len(boxes), dtype=np.bool_)
    for index in range(len(boxes)):
        is_near = np.abs(boxes.scores[index] - others.scores) <= max_score_difference
        found[index] = bool((is_near & (_likeness(boxes[[index]], others)[0] >= min_iou)).any())
    return found


def _likeness(first: Detections, second: Detections) -> npt.NDArray[np.float64]:
    """(n, m) overlaps, 1 at the same place; `_NOT_ALIKE` between classes."""
    a, b = first.xyxy[:, None].astype(np.float64), second.xyxy[None].astype(np.float64)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    common = np.clip(sides, 0, None).prod(axis=-1)
    union = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1) - common
    alike: npt.NDArray[np.float64] = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    alike[np.abs(a - b).max(axis=-1) <= _SAME_PLACE_PX] = 1.0
    alike[first.class_ids[:, None] != second.class_ids[None]] = _NOT_ALIKE
    return alike
