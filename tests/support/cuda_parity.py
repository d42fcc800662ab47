"""What a CUDA kernel gives against what the CPU's function gives: equal to the last bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from cases import DecodeCase, NmsCase
from cuda_ops import CudaOps

from retinasdk import _native

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
SIZES = [
    # image, resized, padded
    ((1, 1), (1, 1), (1, 1)),
    ((1, 1), (5, 3), (8, 4)),
    ((7, 1), (3, 9), (3, 32)),
    ((33, 31), (33, 31), (64, 32)),
    ((48, 64), (80, 106), (96, 128)),
    ((95, 71), (31, 40), (32, 64)),
    ((64, 64), (1, 1), (1, 1)),
    ((1000, 3), (1, 1), (2, 2)),
]


def assert_same_candidates(case: DecodeCase, ops: CudaOps) -> None:
    ours = ops.decode(case.logits, case.deltas, case.base_anchors, **case.options())
    theirs = _native.decode(case.logits, case.deltas, case.base_anchors, **case.options())
    np.testing.assert_array_equal(ours[3], theirs[3])
    for i, count in enumerate(theirs[3]):
        for mine, wanted, what in zip(ours, theirs, ("boxes", "logits", "class ids"), strict=False):
            assert mine[i, :count].tobytes() == wanted[i, :count].tobytes(), f"{what} of image {i}"


def halved(case: DecodeCase) -> DecodeCase:
    """Heads of which every number is a float16, so that both devices are fed alike."""
    with np.errstate(over="ignore"):
        logits = [array.astype(np.float16).astype(np.float32) for array in case.logits]
        deltas = [array.astype(np.float16).astype(np.float32) for array in case.deltas]
    return replace(case, logits=logits, deltas=deltas)


def assert_same_kept(batch: list[npt.NDArray[Any]], ops: CudaOps, **options: Any) -> None:
    kept, counts = ops.nms(*batch, **options)
    wanted, wanted_counts = _native.nms(*batch, **options)
    np.testing.assert_array_equal(counts, wanted_counts)
    np.testing.assert_array_equal(kept, wanted)


def one_image(case: NmsCase) -> list[npt.NDArray[Any]]:
    """The case's candidates with room for one more, since NumPy has no address for none."""
    arrays = [np.concatenate([array, array[:1] if len(array) else np.zeros((1, *array.shape[1:]), array.dtype)])[None]
              for array in (case.boxes, case.logits, case.class_ids)]  # fmt: skip
    return [*arrays, np.array([len(case.boxes)], dtype=np.int32)]


def as_batch(candidates: NmsCase) -> list[Any]:
    """Of one image, with room for one more, since NumPy has no address for none."""
    arrays = (candidates.boxes, candidates.logits, candidates.class_ids)
    padded = [np.concatenate([array, np.ones((1, *array.shape[1:]), array.dtype)])[None] for array in arrays]
    return [*padded, np.array([len(candidates.boxes)], np.int32)]


def assert_same_soft(batch: list[Any], ops: CudaOps, **options: Any) -> None:
    ours = ops.soft_nms(*batch, **options)
    for mine, wanted in zip(ours, _native.soft_nms(*batch, **options), strict=True):
        assert mine.tobytes() == wanted.tobytes()


def assert_same_fused(batch: list[Any], ops: CudaOps, **options: Any) -> None:
    ours = ops.fuse(*batch, **options)
    for mine, wanted in zip(ours, _native.fuse(*batch, **options), strict=True):
        assert mine.tobytes() == wanted.tobytes()
