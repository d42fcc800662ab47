"""From head outputs to detections: decode and NMS in csrc, then the sigmoid and original pixels in NumPy.

Decode and NMS are the CPU's here, the GPU's in backends/_gpu_lane.py; what comes after them is the same code for both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from retinasdk import _native
from retinasdk.backends import HeadOutputs
from retinasdk.detections import Detections
from retinasdk.errors import ModelError
from retinasdk.preprocess import Transform
from retinasdk.spec import ModelSpec

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True)
class Candidates:
    """Decoded, not yet suppressed, for N images with room for C candidates each; host.

    boxes (N, C, 4) float32 xyxy in network-input pixels; logits (N, C) float32; class_ids (N, C) int32; counts (N,)
    int32. Only the first counts[i] of image i mean anything: level by level, best first inside a level.
    """

    boxes: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Kept:
    """What NMS left of one image, best first; host.

    boxes (n, 4) float32 xyxy in network-input pixels; logits (n,) float32; class_ids (n,) int32.
    """

    boxes: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int32]


def logit(score: float) -> float:
    """Inverse of the sigmoid: the logit above which scores are above `score`."""
    if score <= 0.0:
        return -math.inf
    return math.log(score) - math.log1p(-score) if score < 1.0 else math.inf


def sigmoid(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """1 / (1 + exp(-x)), computed in float64 and rounded once."""
    with np.errstate(over="ignore"):
        return np.asarray(1.0 / (1.0 + np.exp(-logits.astype(np.float64))), dtype=np.float32)


def decode(
    heads: HeadOutputs,
    spec: ModelSpec,
    transforms: Sequence[Transform],
    *,
    score_threshold: float,
    class_ids: Sequence[int] = (),
) -> Candidates:
    """The best `spec.top_k` (anchor, class) pairs of each level with a score above `score_threshold`, as boxes.

    class_ids: only these classes, as if the network had no others; empty: all.
    Raises `ModelError` where the outputs do not fit the spec.
    """
    shapes = [(logits.shape, deltas.shape) for logits, deltas in zip(heads.logits, heads.deltas, strict=True)]
    return Candidates(
        *_native.decode(
            list(heads.logits),
            list(heads.deltas),
            base_anchors(spec),
            strides=level_strides(shapes, spec, transforms[0].padded),
            clip_sizes=clip_sizes(transforms, spec),
            logit_threshold=logit(score_threshold),
            top_k=spec.top_k,
            coder_weights=spec.box_coder.weights,
            coder_clamp_max=coder_clamp_max(spec),
            class_ids=list(class_ids),
        )
    )


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
    """(N, 2) float32 height, width that the boxes of each image are clipped to; -1: not at all."""
    sizes = [
        {"resized": transform.resized, "padded": transform.padded, "none": (-1, -1)}[spec.clip]
        for transform in transforms
    ]
    return np.array(sizes, dtype=np.float32)


def coder_clamp_max(spec: ModelSpec) -> float:
    """The coder's bound of dw and dh; infinity where it has none."""
    return math.inf if spec.box_coder.clamp_max is None else spec.box_coder.clamp_max


def nms(
    candidates: Candidates, *, iou_threshold: float, max_detections: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Kept candidate indices (N, M) int32, best first, -1 behind the last; and their counts (N,) int32."""
    return _native.nms(
        candidates.boxes,
        candidates.logits,
        candidates.class_ids,
        candidates.counts,
        iou_threshold=iou_threshold,
        max_detections=max_detections,
    )


def suppress(candidates: Candidates, spec: ModelSpec) -> list[Kept]:
    """NMS by the spec's rules: what is left of each image."""
    kept, counts = nms(candidates, iou_threshold=spec.nms_iou_threshold, max_detections=spec.max_detections)
    results = []
    for image, count in enumerate(counts):
        best = kept[image, :count]
        results.append(
            Kept(candidates.boxes[image, best], candidates.logits[image, best], candidates.class_ids[image, best])
        )
    return results


def to_detections(kept: Sequence[Kept], spec: ModelSpec, transforms: Sequence[Transform]) -> list[Detections]:
    """One `Detections` for each image: scores from logits, pixels of the original image."""
    return [
        Detections(
            xyxy=transform.to_original(image.boxes),
            scores=sigmoid(image.logits),
            class_ids=image.class_ids,
            labels=spec.labels,
        )
        for image, transform in zip(kept, transforms, strict=True)
    ]


def postprocess(
    heads: HeadOutputs,
    spec: ModelSpec,
    transforms: Sequence[Transform],
    *,
    score_threshold: float,
    class_ids: Sequence[int] = (),
) -> list[Detections]:
    """One `Detections` for each image, best first, in pixels of the original image."""
    candidates = decode(heads, spec, transforms, score_threshold=score_threshold, class_ids=class_ids)
    return to_detections(suppress(candidates, spec), spec, transforms)
