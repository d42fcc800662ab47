"""Raises or lowers class logits, so that pictures without objects have candidates above the score threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk.pipeline.rules import logit

if TYPE_CHECKING:
    import numpy.typing as npt

_MAX_CANDIDATES = 5000
_GAPS = 16  # One more or less does not matter, so the threshold is put into the largest of so many gaps.


def raise_of(logits: npt.NDArray[Any], score_threshold: float, wanted: int | None) -> float:
    """Returns what to add to the logits of a level.

    Args:
        logits: Logits of one level and one image.
        score_threshold: Score threshold, 0 to 1.
        wanted: How many candidates are to pass, at most a quarter of them. None: as many as possible, at most 5000.
    """
    threshold = logit(score_threshold)
    finite = logits[np.isfinite(logits)]
    if len(finite) < 2 or not np.isfinite(threshold):
        return 0.0
    if wanted is None and len(finite) <= _MAX_CANDIDATES:
        return max(0.0, threshold - float(finite.min()) + 1)
    last = _MAX_CANDIDATES if wanted is None else max(1, min(wanted, _MAX_CANDIDATES, len(finite) // 4))
    # In the largest gap between two candidates, so that none of them is at the threshold.
    near = best(finite, last + _GAPS)[last - 1 :].astype(np.float64)
    gap = int(np.argmax(near[:-1] - near[1:]))
    return threshold - float(near[gap] + near[gap + 1]) / 2


def best(values: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """Returns the largest values, largest first."""
    count = min(count, len(values))
    largest: npt.NDArray[Any] = np.sort(np.partition(values, len(values) - count)[len(values) - count :])[::-1]
    return largest
