"""Rotated boxes: from the values of the kernels to pixels of the original image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from retinasdk.pipeline.preprocess import Transform

if TYPE_CHECKING:
    import numpy.typing as npt


def to_xywhr(boxes: npt.NDArray[np.float32], transform: Transform) -> npt.NDArray[np.float32]:
    """Converts rotated boxes of the kernels to pixels of the original image.

    Each axis of the image scales one side of the box, and the angle stays, see `ModelSpec.rescale`.

    Args:
        boxes: (n, 6) float32: center x, center y, width, height, sine and cosine of the angle, in network-input pixels.
            The sine and the cosine may have a common factor. The sides of a box outside of the image may be negative.
        transform: The transform of the image.

    Returns:
        (n, 5) float32: center x, center y, width, height, angle in radians from -pi to pi, clockwise.
    """
    placed = transform.to_original(np.ascontiguousarray(boxes[:, :4]))
    angles = np.arctan2(boxes[:, 4].astype(np.float64), boxes[:, 5].astype(np.float64)).astype(np.float32)
    return np.concatenate([placed[:, :2], np.abs(placed[:, 2:]), angles[:, None]], axis=1)
