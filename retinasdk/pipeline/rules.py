"""What the spec and a call's options say of decoding and suppression, as arguments that both devices' kernels take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk.errors import ModelError
from retinasdk.pipeline.call_options import Thresholds
from retinasdk.pipeline.preprocess import Transform
from retinasdk.pipeline.suppression import AS_FRAMEWORK
from retinasdk.spec import ModelSpec

if TYPE_CHECKING:
    import numpy.typing as npt


def logit(score: float) -> float:
    """Inverse of the sigmoid: the logit above which scores are above `score`."""
    if score <= 0.0:
        return -math.inf
    return math.log(score) - math.log1p(-score) if score < 1.0 else math.inf


def lowest_threshold(score_threshold: Thresholds, class_ids: Sequence[int]) -> float:
    """Of the classes that are asked for; empty: of all."""
    if not isinstance(score_threshold, tuple):
        return score_threshold
    return min(score_threshold[index] for index in class_ids or range(len(score_threshold)))


def logit_thresholds(score_thresholds: Sequence[float]) -> npt.NDArray[np.float32]:
    """(K,) float32: the logits of a score for each class."""
    return np.array([logit(score) for score in score_thresholds], dtype=np.float32)


def each_class(score_threshold: Thresholds, spec: ModelSpec) -> tuple[float, ...]:
    """A score for each class."""
    return score_threshold if isinstance(score_threshold, tuple) else (score_threshold,) * len(spec.labels)


def ignored_regions(ignore: npt.NDArray[np.float32], transforms: Sequence[Transform]) -> npt.NDArray[np.float32]:
    """(N, R, 4) float32 in network-input pixels of regions (R, 4) in pixels of each original image."""
    return np.stack([transform.to_network(ignore) for transform in transforms])


def decode_rules(spec: ModelSpec) -> dict[str, Any]:
    """What the spec alone says of decoding, as arguments that both devices take."""
    coder = spec.box_coder
    return {
        "top_k": spec.top_k,
        "coder_kind": coder.kind,
        "coder_weights": coder.weights,
        "coder_means": coder.means,
        "coder_clamp_max": math.inf if coder.clamp_max is None else coder.clamp_max,
        "coder_clamp_min": -math.inf if coder.clamp_min is None else coder.clamp_min,
        "inclusive_pixels": spec.inclusive_pixels,
        "or_equal": spec.score_comparison == ">=",
        "drop_empty": spec.drop_empty == "before_nms",
    }


def nms_rules(spec: ModelSpec) -> dict[str, Any]:
    """What the spec alone says of NMS, but for how many are kept, as arguments that both devices take."""
    return AS_FRAMEWORK.op(spec)[1]


def level_strides(
    shapes: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], spec: ModelSpec, padded: tuple[int, int]
) -> list[tuple[float, float]]:
    """(y, x) stride of each level for a network input of (height, width) `padded`.

    shapes: of each level's logits and deltas. Raises `ModelError` where they do not fit the spec.
    """
    strides = []
    for level, (logits, deltas) in zip(spec.levels, shapes, strict=True):
        rows, columns = logits[2:]
        if logits[1] != spec.anchors_per_cell * len(spec.labels):
            raise ModelError(
                f"output {level.logits} must have {spec.anchors_per_cell} anchors x {len(spec.labels)} classes = "
                f"{spec.anchors_per_cell * len(spec.labels)} channels, got {logits}; does the spec fit the model?"
            )
        wanted = (logits[0], spec.anchors_per_cell * 4, rows, columns)
        if deltas != wanted:
            raise ModelError(f"output {level.deltas} must be {wanted}, got {deltas}; does the spec fit the model?")
        if level.stride is None and (rows == 0 or columns == 0):
            raise ModelError(f"output {level.logits} has no cells: {logits}; use a larger input")
        strides.append(level.stride or (float(padded[0] // rows), float(padded[1] // columns)))
    return strides


def base_anchors(spec: ModelSpec) -> list[npt.NDArray[np.float32]]:
    """(A, 4) float32 of each level."""
    return [np.array(level.base_anchors, dtype=np.float32) for level in spec.levels]


def clip_sizes(transforms: Sequence[Transform], spec: ModelSpec) -> npt.NDArray[np.float32]:
    """(N, 2) float32: the largest y and x of each image's boxes before NMS; -1: no limit."""
    if spec.clip not in ("resized", "padded"):
        return np.full((len(transforms), 2), -1, dtype=np.float32)
    sizes = [transform.resized if spec.clip == "resized" else transform.padded for transform in transforms]
    return np.array([clip_limit(size, spec) for size in sizes], dtype=np.float32)


def clip_limit(size: tuple[int, int], spec: ModelSpec) -> tuple[int, int]:
    """The largest y and x of boxes that are clipped to (height, width) `size`."""
    return size if spec.clip_limit == "edge" else (size[0] - 1, size[1] - 1)
