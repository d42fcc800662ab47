"""What passes between the stages of the pipeline: head outputs, candidates, kept boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True)
class HeadOutputs:
    """Raw outputs of both heads for N images, one entry for each level, C-contiguous, on the host.

    logits: (N, A * K, h, w) float32, before the sigmoid; deltas: (N, A * 4, h, w) float32.
    """

    logits: tuple[npt.NDArray[np.float32], ...]
    deltas: tuple[npt.NDArray[np.float32], ...]


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

    boxes (n, 4) float32 xyxy in network-input pixels; scores (n,) float32, 0 to 1; class_ids (n,) int32.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int32]
