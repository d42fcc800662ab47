"""From head outputs to detections: decode and NMS in csrc, then the sigmoid and original pixels in NumPy."""

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
    strides = []
    for level, logits, deltas in zip(spec.levels, heads.logits, heads.deltas, strict=True):
        rows, columns = logits.shape[2:]
        if logits.shape[1] != spec.anchors_per_cell * len(spec.labels):
            raise ModelError(
                f"output {level.logits} must have {spec.anchors_per_cell} anchors x {len(spec.labels)} classes = "
                f"{spec.anchors_per_cell * len(spec.labels)} channels, got {logits.shape}; does the spec fit the model?"
            )
        wanted = (logits.shape[0], spec.anchors_per_cell * 4, rows, columns)
        if deltas.shape != wanted:
            raise ModelError(
                f"output {level.deltas} must be {wanted}, got {deltas.shape}; does the spec fit the model?"
            )
        padded = transforms[0].padded
        if level.stride is None and (rows == 0 or columns == 0):
            raise ModelError(f"output {level.logits} has no cells: {logits.shape}; use a larger input")
        strides.append(level.stride or (float(padded[0] // rows), float(padded[1] // columns)))
    sizes = [_clip_size(transform, spec.clip) for transform in transforms]
    clamp_max = spec.box_coder.clamp_max
    return Candidates(
        *_native.decode(
            list(heads.logits),
            list(heads.deltas),
            [np.array(level.base_anchors, dtype=np.float32) for level in spec.levels],
            strides=strides,
            clip_sizes=np.array(sizes, dtype=np.float32),
            logit_threshold=logit(score_threshold),
            top_k=spec.top_k,
            coder_weights=spec.box_coder.weights,
            coder_clamp_max=math.inf if clamp_max is None else clamp_max,
            class_ids=list(class_ids),
        )
    )


def _clip_size(transform: Transform, rule: str) -> tuple[int, int]:
    return {"resized": transform.resized, "padded": transform.padded, "none": (-1, -1)}[rule]


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
    kept, counts = nms(candidates, iou_threshold=spec.nms_iou_threshold, max_detections=spec.max_detections)
    results = []
    for image, transform in enumerate(transforms):
        best = kept[image, : counts[image]]
        results.append(
            Detections(
                xyxy=transform.to_original(candidates.boxes[image, best]),
                scores=sigmoid(candidates.logits[image, best]),
                class_ids=candidates.class_ids[image, best],
                labels=spec.labels,
            )
        )
    return results
