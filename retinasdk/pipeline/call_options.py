"""Checks the options of a `Detector` and its calls: keyword names, score thresholds and regions to ignore."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import numpy as np

from retinasdk._util.labels import class_ids_of

if TYPE_CHECKING:
    import numpy.typing as npt

# One for all classes, or one for each class index.
Thresholds = float | tuple[float, ...]
# One for all labels, or by label.
ScoreThreshold = float | Mapping[str, float]

MAX_REGIONS = 64  # of a call: the GPU path has memory for so many


_P = ParamSpec("_P")
_R = TypeVar("_R")

_SCORE = "the score threshold is called score_threshold"
_IOU = (
    "the IoU limit of NMS belongs to the model: give Detector(..., spec=detector.spec.replace(nms_iou_threshold=0.5)), "
    "or choose another rule with suppression=retinasdk.Suppression(...)"
)
_SIZE = "the input size is fixed by the model's spec (ModelSpec.resize); for large images give tiles=640"
_MOST = "the number of detections is limited by the model's spec (ModelSpec.max_detections)"
# Names of other packages, and what they are called here.
_ELSEWHERE = {
    **dict.fromkeys(("conf", "confidence", "threshold", "score", "score_thr", "conf_thres"), _SCORE),
    **dict.fromkeys(("iou", "iou_threshold", "iou_thres", "nms", "nms_threshold"), _IOU),
    **dict.fromkeys(("imgsz", "size", "image_size"), _SIZE),
    **dict.fromkeys(("max_det", "max_detections", "top_k"), _MOST),
    "agnostic_nms": "give Detector(..., suppression=retinasdk.Suppression(across_classes=True))",
    "half": "give Detector(..., precision='fp16'), on the GPU",
    "bgr": "give channel_order='bgr'",
    "batch_size": "give a list of images, or Detector.predict(images, batch=...)",
    "labels": "give classes=[...] to detect only some classes; a model's own labels belong to its spec",
    "weights": "the model is the first argument: Detector('model.onnx')",
}


def explains_keywords(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Makes a function say in its `TypeError` what an unknown keyword argument is called here."""
    known = tuple(inspect.signature(function).parameters)

    @functools.wraps(function)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        for name in kwargs:
            if name not in known:
                advice = _ELSEWHERE.get(name, f"known are {', '.join(known[1:])}")
                raise TypeError(f"{function.__qualname__}() got an unexpected keyword argument {name!r}; {advice}")
        return function(*args, **kwargs)

    return checked


def checked_thresholds(given: ScoreThreshold, labels: Sequence[str], default: Thresholds) -> Thresholds:
    """Checks score thresholds; labels that a mapping does not name get `default`.

    Returns:
        One threshold for all classes, or one for each class index.

    Raises:
        ValueError: If a label is unknown or a threshold is not a number from 0 to 1.
    """
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
    """Returns the regions as (n, 4) float32 xyxy, or raises `ValueError`."""
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
