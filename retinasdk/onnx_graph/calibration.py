"""Prepares calibration images for INT8 as inputs of a network."""

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
    """Returns the images of a folder, or the given sequence of images.

    Raises:
        ValueError: If there are none.
    """
    if isinstance(images, (str, os.PathLike)):
        found = list_images(images)
        if not found:
            raise ValueError(f"The folder {os.fspath(images)} has no images to calibrate with. Choose another one.")
        return found
    if len(images) == 0:
        raise ValueError("Calibration needs at least one image, but got none. Pass images like those to come.")
    return images


def check_finite(model: Any) -> None:
    """Checks that all weights of a model are finite.

    Args:
        model: The `onnx.ModelProto`.

    Raises:
        ModelError: If a weight is NaN or infinite.
    """
    to_array = require("onnx", "quantizing a model").numpy_helper.to_array
    for tensor in model.graph.initializer:
        if not np.isfinite(to_array(tensor)).all():
            raise ModelError(f"The weight {tensor.name!r} has values that are NaN or infinite. Export the model again.")


def network_inputs(
    images: Iterable[ImageInput], spec: ModelSpec, *, batch: int = 1
) -> Iterator[npt.NDArray[np.float32]]:
    """Preprocesses images one after the other, as a `Detector` does.

    Args:
        images: The images, in any form that a `Detector` takes.
        spec: The spec of the model.
        batch: Number of images in each input. Copies of the image fill it.

    Yields:
        The network input of each image, (batch, 3, height, width) float32.

    Raises:
        ImageError: If an item cannot be read as an image.
    """
    for image in images:
        pixels = as_rgb(image)
        transform = Transform.plan(pixels.shape[:2], spec)
        yield preprocess([pixels] * batch, [transform] * batch, spec).tensor
