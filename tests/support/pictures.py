"""Generated pictures, and the labels of the tiny network that finds something in them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LABELS = ("person", "chair", "dog")

Image = npt.NDArray[np.uint8]


def blocks(height: int = 90, width: int = 120, seed: int = 0) -> Image:
    """A picture of random coloured blocks: enough for the random network to give scores from 0.1 to 0.7."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.kron(small, np.ones((height // 6 + 1, width // 6 + 1, 1), np.uint8))[:height, :width].copy()
