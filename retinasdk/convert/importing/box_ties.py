"""Tells boxes that differ by a rule from boxes that differ because two numbers are equal up to float rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from retinasdk._util.box_matching import Boxes, ious

if TYPE_CHECKING:
    import numpy.typing as npt

_SCORE = 1e-5  # Scores this close to a limit may be on either side of it.
# torchvision's graphs move each class to coordinates of its own before NMS, up to 100,000 pixels away, where float32
# has steps of 0.008 pixels. That changes the IoU of small boxes in the third digit.
_IOU = 1e-3
_SAME_IOU = 0.9


class Ties:
    """Where the result of one picture hangs on the last digits of a number.

    Args:
        candidates: All boxes before NMS, in the pixels of the results.
        score_limits: Scores at which a candidate passes or not: the threshold, and the last of each level's top-k.
        iou_threshold: IoU above which NMS removes a box.
        max_detections: Maximum number of boxes.
    """

    def __init__(
        self, candidates: Boxes, score_limits: list[float], *, iou_threshold: float, max_detections: int
    ) -> None:
        self._candidates = candidates
        self._limits = np.array(score_limits)
        self._iou = iou_threshold
        self._max = max_detections

    def explain(
        self, expected: Boxes, found: Boxes, missing: npt.NDArray[np.bool_], extra: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Says which boxes without a partner differ only by a tie, or in consequence of one.

        Args:
            expected: The results of one implementation.
            found: The results of the other.
            missing: (n,) bool: which of `expected` have no partner.
            extra: (m,) bool: which of `found` have no partner.

        Returns:
            Two masks like `missing` and `extra`.
        """
        alone = Boxes(
            np.concatenate([expected.xyxy[missing], found.xyxy[extra]]),
            np.concatenate([expected.scores[missing], found.scores[extra]]),
            np.concatenate([expected.class_ids[missing], found.class_ids[extra]]),
        )
        is_tied = np.array([self._is_tied(alone, index) for index in range(len(alone))], np.bool_)
        while True:
            more = is_tied | self._follow(alone, is_tied, (expected, found))
            if (more == is_tied).all():
                break
            is_tied = more
        count = int(missing.sum())
        result = missing.copy(), extra.copy()
        result[0][missing], result[1][extra] = is_tied[:count], is_tied[count:]
        return result

    def _is_tied(self, boxes: Boxes, index: int) -> bool:
        score, box = boxes.scores[index], boxes.xyxy[index]
        if (np.abs(self._limits - score) <= _SCORE).any():
            return True
        others = self._candidates
        overlap = ious(box, others.xyxy)
        # The same candidate, where the other implementation may have put it elsewhere.
        is_same = (overlap > _SAME_IOU) & (np.abs(others.scores - score) <= _SCORE)
        rivals = (others.class_ids == boxes.class_ids[index]) & ~is_same & (others.scores >= score - _SCORE)
        is_near = np.abs(overlap - self._iou) <= _IOU
        is_rank = (np.abs(others.scores - score) <= _SCORE) & (overlap > self._iou)
        return bool((rivals & (is_near | is_rank)).any())

    def _follow(
        self, alone: Boxes, is_tied: npt.NDArray[np.bool_], results: tuple[Boxes, Boxes]
    ) -> npt.NDArray[np.bool_]:
        """Returns which boxes follow from the tied ones: a neighbor that is no longer suppressed, the last in rank."""
        follows = np.zeros(len(alone), np.bool_)
        for index in np.flatnonzero(is_tied):
            overlap = ious(alone.xyxy[index], alone.xyxy)
            follows |= (overlap > self._iou) & (alone.class_ids == alone.class_ids[index])
        expected, found = results
        if len(expected) == len(found) == self._max:  # Each tie moves one box over the end of both lists.
            for ordered in (np.sort(expected.scores), np.sort(found.scores)):
                last = ordered[min(len(ordered) - 1, int(is_tied.sum()))]
                is_last = (alone.scores <= last + _SCORE) if is_tied.any() else np.abs(alone.scores - last) <= _SCORE
                follows |= is_last
        return follows
