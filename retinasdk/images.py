"""From what a caller has (a path, a Pillow image, an array) to RGB uint8 (H, W, 3) on the host.

Conversions, all by Pillow: EXIF orientation is applied; grey, palette and CMYK become RGB; transparency lies over
white; 16-bit grey keeps its upper 8 bits. Refused: floating-point images, and images over `MAX_PIXELS`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from retinasdk._util.lazy import require
from retinasdk.errors import ImageError

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import Image

ImageInput: TypeAlias = "str | os.PathLike[str] | Image.Image | npt.NDArray[np.uint8]"

MAX_PIXELS = 178_956_970  # where Pillow too refuses a file; 537 MB as RGB
MAX_SIDE = 1 << 16
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def as_rgb(image: ImageInput) -> npt.NDArray[np.uint8]:
    """RGB uint8 (H, W, 3) of a path, a Pillow image or such an array (given back as it is, never copied).

    Raises `ImageError` for files and Pillow images that cannot be read or converted, `TypeError` and `ValueError` for
    arrays of another dtype or shape.
    """
    if isinstance(image, np.ndarray):
        return _checked_array(image)
    if isinstance(image, (str, os.PathLike)):
        return _read(os.fspath(image))
    if hasattr(image, "convert") and hasattr(image, "getexif"):
        return _from_pillow(image, "image")
    if hasattr(image, "__array__"):
        return _checked_array(np.asarray(image))
    raise TypeError(
        "image must be a path, a PIL image or an RGB uint8 array (H, W, 3), "
        f"got {type(image).__module__}.{type(image).__qualname__}; read it with PIL.Image.open, or give its path"
    )


def _checked_array(image: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        hint = "pass RGB with channels last"
        if image.dtype.kind == "f":
            hint = "multiply values of 0..1 by 255 and convert with .astype('uint8')"
        elif image.dtype == np.uint8 and image.ndim == 2:
            hint = "stack a grey image to three channels: np.repeat(image[..., None], 3, axis=2)"
        elif image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 4:
            hint = "drop the alpha channel: image[..., :3]"
        raise ValueError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}; {hint}")
    height, width = image.shape[:2]
    _check_size(height, width, "image")
    # Rows may be any distance apart (a crop is fine), pixels may not. copy() and not ascontiguousarray(), which leaves
    # odd strides of axes of length 1 alone.
    return image if image.strides[1:] == (3, 1) else image.copy(order="C")


def _check_size(height: int, width: int, name: str) -> None:
    if height < 1 or width < 1:
        raise ImageError(f"{name}: wanted at least 1 x 1 pixels, got {width} x {height}")
    if height * width > MAX_PIXELS or max(height, width) > MAX_SIDE:
        raise ImageError(
            f"{name}: wanted at most {MAX_PIXELS:,} pixels and {MAX_SIDE:,} a side, got {width} x {height}; "
            "cut it into parts"
        )


def _read(path: str) -> npt.NDArray[np.uint8]:
    pillow = require("PIL.Image", "reading image files")
    if not os.path.exists(path):
        raise ImageError(f"{path}: no such file; give the path of an image ({', '.join(SUFFIXES)})")
    if os.path.isdir(path):
        raise ImageError(f"{path}: wanted an image file, got a folder; list its files with retinasdk.list_images")
    try:
        with pillow.open(path) as image:
            return _from_pillow(image, path)
    except ImageError:
        raise
    except MemoryError:
        raise
    except pillow.DecompressionBombError as error:
        raise ImageError(f"{path}: wanted at most {MAX_PIXELS:,} pixels; {error}; cut it into parts") from error
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others.
    except Exception as error:
        raise ImageError(f"{path}: cannot be read as an image: {error}; is it complete, and an image?") from error


def _from_pillow(image: Any, name: str) -> npt.NDArray[np.uint8]:
    _check_size(image.height, image.width, name)
    operations = require("PIL.ImageOps", "reading image files")
    try:
        upright = operations.exif_transpose(image)
        return np.array(_rgb(upright, name), dtype=np.uint8)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"{name}: cannot be decoded: {error}; is the file complete?") from error


def _rgb(image: Any, name: str) -> Any:
    if image.mode.startswith("I;16"):
        # Pillow's own conversion would clip everything above 255 to white.
        high_byte = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(high_byte[..., None], 3, axis=2)
    if image.mode in ("F", "I"):
        raise ImageError(
            f"{name}: wanted 8 or 16 bits a channel, got Pillow mode {image.mode!r}; "
            "scale it to 0..255 and convert it to uint8"
        )
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        pillow = require("PIL.Image", "reading image files")
        rgba = image.convert("RGBA")
        white = pillow.new("RGBA", rgba.size, (255, 255, 255, 255))
        return pillow.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def list_images(folder: str | os.PathLike[str]) -> list[str]:
    """Paths of the image files directly inside `folder`, sorted by name."""
    with os.scandir(folder) as entries:
        names = [entry.path for entry in entries if entry.is_file() and entry.name.lower().endswith(SUFFIXES)]
    return sorted(names)
