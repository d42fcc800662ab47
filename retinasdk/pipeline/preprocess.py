"""Preprocessing: from images to the network's input. The pixels are computed in csrc/cpu/preprocess_cpu.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from retinasdk import _native
from retinasdk.spec import ModelSpec

if TYPE_CHECKING:
    import numpy.typing as npt

_MOST_THREADS = 1024  # Of the native function.


@dataclass(frozen=True)
class Transform:
    """Describes how an image is placed in the network's input. Sizes are (height, width) in pixels.

    Attributes:
        original: Size of the original image.
        resized: Size after the resize rule of the spec.
        padded: Size of the network's input, which includes the padding at the right and at the bottom.
        scale: Factor from original to network pixels, the same for both axes. None if each axis uses the ratio of its
            own sizes.
        source_step: Distance between the source positions of neighboring pixels, on both axes. 0: the ratio of the
            sizes of each axis.
    """

    original: tuple[int, int]
    resized: tuple[int, int]
    padded: tuple[int, int]
    scale: float | None = None
    source_step: float = 0.0

    @classmethod
    def plan(cls, original: tuple[int, int], spec: ModelSpec) -> Transform:
        """Computes the transform that `spec` requires for an image of (height, width) `original` pixels."""
        resized = spec.resize.target(*original)
        scale = spec.resize.scale(*original) if spec.rescale == "uniform" else None
        step = 1.0 / spec.resize.scale(*original) if spec.resize.source_step == "scale" else 0.0
        return cls(original, resized, spec.padded(*resized), scale, step)

    def to_original(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Converts boxes from network-input pixels to pixels of the original image.

        Without `scale`, each axis is multiplied by one float32 ratio, as in torchvision's `resize_boxes`. With `scale`,
        the boxes are divided by it, as in ODTK and keras-retinanet.

        Args:
            boxes: (n, 4) float32 xyxy.

        Returns:
            (n, 4) float32 xyxy.
        """
        if self.scale is not None:
            divided: npt.NDArray[np.float32] = boxes / np.float32(self.scale)
            return divided
        ratio_y = np.float32(self.original[0]) / np.float32(self.resized[0])
        ratio_x = np.float32(self.original[1]) / np.float32(self.resized[1])
        return boxes * np.array([ratio_x, ratio_y, ratio_x, ratio_y], dtype=np.float32)

    def to_network(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Converts boxes from pixels of the original image to network-input pixels.

        Args:
            boxes: (n, 4) float32 xyxy.

        Returns:
            (n, 4) float32 xyxy.
        """
        if self.scale is not None:
            scaled: npt.NDArray[np.float32] = boxes * np.float32(self.scale)
            return scaled
        ratio_y = np.float32(self.resized[0]) / np.float32(self.original[0])
        ratio_x = np.float32(self.resized[1]) / np.float32(self.original[1])
        return boxes * np.array([ratio_x, ratio_y, ratio_x, ratio_y], dtype=np.float32)


@dataclass(frozen=True)
class Batch:
    """Holds the network's input for N images.

    Attributes:
        tensor: (N, 3, h, w) float32 in host memory: the resized, normalized and padded images.
        transforms: One transform for each image, all with the same padded size.
    """

    tensor: npt.NDArray[np.float32]
    transforms: tuple[Transform, ...]


def preprocess(
    images: Sequence[npt.NDArray[np.uint8]], transforms: Sequence[Transform], spec: ModelSpec, *, threads: int = 1
) -> Batch:
    """Resizes, normalizes and pads images into one batch.

    Args:
        images: RGB uint8 (H, W, 3) images.
        transforms: One transform for each image, all with the same padded size.
        spec: Spec of the model.
        threads: How many may work on one image. No image has more than 4, and small ones have fewer. The pixels do not
            depend on it.

    Returns:
        The batch, in the order of the images.
    """
    height, width = transforms[0].padded
    tensor = np.empty((len(images), 3, height, width), dtype=np.float32)
    for canvas, image, transform in zip(tensor, images, transforms, strict=True):
        _native.preprocess_into(
            image,
            canvas,
            resized=transform.resized,
            mean=spec.normalise.mean,
            std=spec.normalise.std,
            reverse_channels=spec.normalise.channels == "BGR",
            antialias=spec.resize.antialias,
            source_step=transform.source_step,
            eight_bit=spec.resize.eight_bit,
            threads=min(threads, _MOST_THREADS),
        )
    return Batch(tensor, tuple(transforms))
