"""Measures how far two sets of head outputs differ, and pairs the boxes of two sets of detections."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from retinasdk.detections import Detections

if TYPE_CHECKING:
    import numpy.typing as npt

# Boxes whose edges are all this close are the same, whatever their IoU: boxes of a few pixels overlap by little.
_SAME_PLACE_PX = 0.5
_NOT_ALIKE = -1.0


class TensorTally:
    """Collects the differences of one tensor over images.

    Args:
        tolerance: A larger difference counts as beyond, as a fraction of the tensor's spread (standard deviation).
    """

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        self._elements = self._beyond = 0
        self.max_abs = self.max_relative = 0.0
        self.not_finite = 0

    def add(self, wanted: npt.NDArray[np.float32], got: npt.NDArray[np.float32]) -> None:
        """Compares two arrays of one shape. Elements that are NaN or infinite in only one are counted, not measured."""
        finite = np.isfinite(wanted) & np.isfinite(got)
        same = (wanted == got) | (np.isnan(wanted) & np.isnan(got))
        self.not_finite += int((~finite & ~same).sum())
        self._elements += wanted.size
        if not finite.any():
            return
        reference = wanted[finite].astype(np.float64)
        difference = np.abs(reference - got[finite])
        # A constant tensor has no spread: float32's resolution at that value is used instead.
        spread = max(float(reference.std()), float(np.spacing(np.float32(np.abs(reference).max()))))
        self._beyond += int((difference > self._tolerance * spread).sum())
        self.max_abs = max(self.max_abs, float(difference.max()))
        self.max_relative = max(self.max_relative, float(difference.max()) / spread)

    @property
    def share_beyond(self) -> float:
        """Fraction of all elements that differ by more than the tolerance, 0 to 1."""
        return self._beyond / max(1, self._elements)


def pair_boxes(first: Detections, second: Detections, min_iou: float) -> npt.NDArray[np.int64]:
    """Pairs boxes of the same class that overlap by at least `min_iou`, or whose edges are within half a pixel.

    No box is in two pairs. Boxes of `first` with higher scores choose first.

    Returns:
        (p, 2) int64, indices into `first` and `second`.
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
    """Returns (n,) bool: whether each of `boxes` has a counterpart of nearly the same score in `others`."""
    # One by one: a matrix of thousands by thousands would not fit in memory.
    found = np.zeros(len(boxes), dtype=np.bool_)
    for index in range(len(boxes)):
        is_near = np.abs(boxes.scores[index] - others.scores) <= max_score_difference
        found[index] = bool((is_near & (_likeness(boxes[index : index + 1], others)[0] >= min_iou)).any())
    return found


def _likeness(first: Detections, second: Detections) -> npt.NDArray[np.float64]:
    """Returns (n, m) IoUs; 1 for boxes at the same place, `_NOT_ALIKE` for boxes of different classes."""
    a, b = first.xyxy[:, None].astype(np.float64), second.xyxy[None].astype(np.float64)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    common = np.clip(sides, 0, None).prod(axis=-1)
    union = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1) - common
    alike: npt.NDArray[np.float64] = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    alike[np.abs(a - b).max(axis=-1) <= _SAME_PLACE_PX] = 1.0
    alike[first.class_ids[:, None] != second.class_ids[None]] = _NOT_ALIKE
    return alike
