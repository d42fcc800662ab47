"""From images to the network's input: sizes and the way back here, pixels in csrc/preprocess_cpu.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from retinasdk import _native
from retinasdk.spec import ModelSpec

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True)
class Transform:
    """How an image became its part of the network's input; sizes are (height, width) in pixels.

    scale: of both axes, where boxes go back by it; None: by the ratio of the sizes on each axis.
    """

    original: tuple[int, int]
    resized: tuple[int, int]
    padded: tuple[int, int]
    scale: float | None = None

    @classmethod
    def plan(cls, original: tuple[int, int], spec: ModelSpec) -> Transform:
        """The transform that `spec` asks for, before any pixel is touched."""
        resized = spec.resize.target(*original)
        scale = spec.resize.scale(*original) if spec.rescale == "uniform" else None
        return cls(original, resized, spec.padded(*resized), scale)

    def to_original(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Boxes (n, 4) float32 xyxy from network-input pixels to pixels of the original image.

        One float32 ratio for each axis, as torchvision's `resize_boxes`; or one division, as ODTK and keras-retinanet.
        """
        if self.scale is not None:
            divided: npt.NDArray[np.float32] = boxes / np.float32(self.scale)
            return divided
        ratio_y = np.float32(self.original[0]) / np.float32(self.resized[0])
        ratio_x = np.float32(self.original[1]) / np.float32(self.resized[1])
        return boxes * np.array([ratio_x, ratio_y, ratio_x, ratio_y], dtype=np.float32)

    def to_network(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The other way round: boxes (n, 4) float32 xyxy from pixels of the original image to network-input pixels."""
        if self.scale is not None:
            scaled: npt.NDArray[np.float32] = boxes * np.float32(self.scale)
            return scaled
        ratio_y = np.float32(self.resized[0]) / np.float32(self.original[0])
        ratio_x = np.float32(self.resized[1]) / np.float32(self.original[1])
        return boxes * np.array([ratio_x, ratio_y, ratio_x, ratio_y], dtype=np.float32)


@dataclass(frozen=True)
class Batch:
    """tensor: (N, 3, h, w) float32, normalised, host; transforms: one for each image, all with the same padded size."""

    tensor: npt.NDArray[np.float32]
    transforms: tuple[Transform, ...]


def preprocess(images: Sequence[npt.NDArray[np.uint8]], transforms: Sequence[Transform], spec: ModelSpec) -> Batch:
    """Resizes, normalises and pads RGB uint8 (H, W, 3) images into one batch; their padded sizes must be equal."""
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
        )
    return Batch(tensor, tuple(transforms))
