"""Images to calibrate INT8 with, as a network takes them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk._util.lazy import require
from retinasdk.errors import ModelError
from retinasdk.images import ImageInput, as_rgb, list_images
from retinasdk.pipeline.preprocess import Transform, preprocess
from retinasdk.spec import ModelSpec

if TYPE_CHECKING:
    import numpy.typing as npt


def calibration_images(images: str | os.PathLike[str] | Sequence[ImageInput]) -> Sequence[ImageInput]:
    """The images of a folder, or those given. Raises `ValueError` where there are none."""
    if isinstance(images, (str, os.PathLike)):
        found = list_images(images)
        if not found:
            raise ValueError(f"{os.fspath(images)}: wanted a folder with images to calibrate with, found none in it")
        return found
    if len(images) == 0:
        raise ValueError("calibration wants at least one image, got none; give images like those to come")
    return images


def check_finite(model: Any) -> None:
    """Raises `ModelError` where a weight is not."""
    to_array = require("onnx", "quantizing a model").numpy_helper.to_array
    for tensor in model.graph.initializer:
        if not np.isfinite(to_array(tensor)).all():
            raise ModelError(f"wanted finite weights to quantize, got NaN or infinity in {tensor.name!r}; export again")


def network_inputs(
    images: Iterable[ImageInput], spec: ModelSpec, *, batch: int = 1
) -> Iterator[npt.NDArray[np.float32]]:
    """(batch, 3, h, w) float32 of one image after the other, as a `Detector` would make it; copies fill the batch."""
    for image in images:
        pixels = as_rgb(image)
        transform = Transform.plan(pixels.shape[:2], spec)
        yield preprocess([pixels] * batch, [transform] * batch, spec).tensor
