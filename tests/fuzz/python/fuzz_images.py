"""Fuzzes image files, as paths of a folder, bytes and messages of ROS hold them.

The limit on pixels is lowered, because a canvas of the largest size takes the memory that its pixels cost, and that
would hide what takes more.
"""

from __future__ import annotations

import io
import warnings

import harness
import numpy as np

with harness.instrumented(__name__ == "__main__", "PIL"):
    from PIL import Image

    from retinasdk import images
    from retinasdk.errors import ImageError

Image.init()
LARGEST = 4_000_000  # pixels


def one_input(data: bytes) -> None:
    usual = images.MAX_PIXELS, Image.MAX_IMAGE_PIXELS
    images.MAX_PIXELS, Image.MAX_IMAGE_PIXELS = LARGEST, LARGEST
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of what is strange in a file, and so do its readers of EXIF.
            with harness.documented(ImageError):
                _check(images.as_rgb(data))
            with harness.documented(ImageError), io.BytesIO(data) as file:
                _check(images.as_rgb(file))
    finally:
        images.MAX_PIXELS, Image.MAX_IMAGE_PIXELS = usual


def _check(pixels: np.ndarray) -> None:  # type: ignore[type-arg]
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise harness.FindingError(f"an image is {pixels.shape} {pixels.dtype}")


if __name__ == "__main__":
    harness.fuzz(one_input)
