"""Generates test images, for commands that run without an image of the user."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


def seeded_picture(height: int, width: int, seed: int) -> npt.NDArray[np.uint8]:
    """Generates an image with edges and texture of every size, as photos have.

    It consists of layers of random patches, each layer finer and fainter than the one before.

    Args:
        height: Height in pixels.
        width: Width in pixels.
        seed: Seed of the random numbers. Equal seeds give equal images.

    Returns:
        (height, width, 3) uint8, RGB.
    """
    generator = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3))
    for cell in (160, 64, 24, 8, 2):
        rows, columns = -(-height // cell), -(-width // cell)
        patches = generator.uniform(-1, 1, (rows, columns, 3)) * cell**0.25
        picture += np.repeat(np.repeat(patches, cell, axis=0), cell, axis=1)[:height, :width]
    low, high = picture.min(), picture.max()
    return np.asarray((picture - low) / (high - low) * 255, dtype=np.uint8)
