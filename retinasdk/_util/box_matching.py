"""Pairs two lists of boxes that should be equal, one to one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True)
class Boxes:
    """Boxes of one picture, in any order.

    Attributes:
        xyxy: (n, 4) float64, in pixels of the picture.
        scores: (n,) float64, 0 to 1.
        class_ids: (n,) int64.
    """

    xyxy: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    class_ids: npt.NDArray[np.int64]

    @classmethod
    def of(cls, xyxy: npt.ArrayLike, scores: npt.ArrayLike, class_ids: npt.ArrayLike) -> Boxes:
        """Takes anything that NumPy reads as (n, 4), (n,) and (n,)."""
        return cls(
            np.asarray(xyxy, np.float64).reshape(-1, 4),
            np.asarray(scores, np.float64).reshape(-1),
            np.asarray(class_ids, np.int64).reshape(-1),
        )

    def __len__(self) -> int:
        """Returns the number of boxes."""
        return len(self.scores)

    def take(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Boxes:
        """Returns the boxes of a mask or of indices."""
        return Boxes(self.xyxy[chosen], self.scores[chosen], self.class_ids[chosen])


def pair_equal(expected: Boxes, found: Boxes, *, pixels: float, score: float) -> npt.NDArray[np.int64]:
    """Pairs boxes of one class whose edges and scores are within the tolerances. No box is in two pairs.

    Expected boxes with higher scores choose first, and take the nearest box that is free.

    Args:
        expected: One list.
        found: The other list.
        pixels: Largest difference of an edge, in pixels.
        score: Largest difference of the scores.

    Returns:
        (p, 2) int64, indices into `expected` and `found`.
    """
    is_free = np.ones(len(found), np.bool_)
    pairs = []
    for index in np.argsort(-expected.scores, kind="stable").tolist() if len(found) else []:
        distance = np.abs(found.xyxy - expected.xyxy[index]).max(axis=1)
        difference = np.abs(found.scores - expected.scores[index])
        fits = is_free & (found.class_ids == expected.class_ids[index])
        fits &= (distance <= pixels) & (difference <= score)
        if fits.any():
            best = int(np.argmin(np.where(fits, distance / pixels + difference / score, np.inf)))
            is_free[best] = False
            pairs.append((index, best))
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def are_left(count: int, paired: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Returns (count,) bool: whether each box is in none of the pairs; `paired` is a column of the pairs."""
    left = np.ones(count, np.bool_)
    left[paired] = False
    return left


def ious(box: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns the IoU of one box (4,) with each of `others` (n, 4), as (n,)."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    common = np.clip(sides, 0, None).prod(axis=1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - common
    result: npt.NDArray[np.float64] = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return result
