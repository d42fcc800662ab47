"""Data types that pass between the stages of the pipeline: head outputs, candidates and kept boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True)
class HeadOutputs:
    """Holds the raw outputs of both heads for N images, one array for each feature level.

    The arrays are C-contiguous and in host memory. A is the number of anchors of a cell, K the number of classes.

    Attributes:
        logits: (N, A * K, h, w) float32: classification outputs before the sigmoid.
        deltas: (N, A * D, h, w) float32: encoded bounding-box deltas, see `BoxCoder.deltas`.
    """

    logits: tuple[npt.NDArray[np.float32], ...]
    deltas: tuple[npt.NDArray[np.float32], ...]


@dataclass(frozen=True)
class Candidates:
    """Holds the decoded boxes of N images before suppression, at most C for each image, in host memory.

    Only the first `counts[i]` entries of image i are valid. They are ordered by level, best first inside a level.

    Attributes:
        boxes: (N, C, 4) float32 xyxy in network-input pixels. For rotated boxes (N, C, 6), see
            csrc/include/retinasdk/rotated_box_coder.h.
        logits: (N, C) float32: classification outputs before the sigmoid.
        class_ids: (N, C) int32: class indices.
        counts: (N,) int32: number of valid entries of each image.
    """

    boxes: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Kept:
    """Holds the boxes of one image that remain after suppression, best first, in host memory.

    Attributes:
        boxes: (n, 4) float32 xyxy in network-input pixels, or in pixels of the original image after
            `postprocess.to_original`. Rotated boxes are (n, 6), and (n, 5) after it.
        scores: (n,) float32: confidence scores, 0 to 1.
        class_ids: (n,) int32: class indices.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int32]
