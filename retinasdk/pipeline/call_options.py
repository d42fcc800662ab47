"""What a call of a `Detector` may be given besides images, checked: score thresholds and regions to ignore."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from retinasdk._util.labels import class_ids_of

if TYPE_CHECKING:
    import numpy.typing as npt

# One for all classes, or one for each class index.
Thresholds = float | tuple[float, ...]
# One for all labels, or by label.
ScoreThreshold = float | Mapping[str, float]

MAX_REGIONS = 64  # of a call: the GPU path has memory for so many


def checked_thresholds(given: ScoreThreshold, labels: Sequence[str], default: Thresholds) -> Thresholds:
    """default: of the labels that a mapping does not name. Raises `ValueError`."""
    if not isinstance(given, Mapping):
        return _checked_score(given)
    thresholds = list(default) if isinstance(default, tuple) else [default] * len(labels)
    for label, score in given.items():
        for class_id in class_ids_of([label], labels):
            thresholds[class_id] = _checked_score(score)
    return tuple(thresholds)


def _checked_score(value: object) -> float:
    if not isinstance(value, (int, float, np.floating)) or math.isnan(value) or not 0.0 <= value <= 1.0:
        raise ValueError(f"score_threshold must be a number from 0 to 1, got {value!r}")
    return float(value)


def checked_regions(given: Sequence[Sequence[float]]) -> npt.NDArray[np.float32]:
    """(n, 4) float32 xyxy. Raises `ValueError`."""
    how = "give a list of (x1, y1, x2, y2) in pixels of the image, with x1 < x2 and y1 < y2"
    try:
        regions = np.array(given, dtype=np.float32)
    except (TypeError, ValueError):
        raise ValueError(f"ignore must be a list of regions, got {given!r}; {how}") from None
    if regions.size == 0:
        return np.zeros((0, 4), np.float32)
    if regions.ndim != 2 or regions.shape[1] != 4 or not np.isfinite(regions).all():
        raise ValueError(f"ignore must be a list of regions of four numbers each, got {given!r}; {how}")
    if not (regions[:, 2:] > regions[:, :2]).all():
        raise ValueError(f"ignore has a region without area, got {given!r}; {how}")
    if len(regions) > MAX_REGIONS:
        raise ValueError(f"ignore may name {MAX_REGIONS} regions, got {len(regions)}; join some of them")
    return regions
