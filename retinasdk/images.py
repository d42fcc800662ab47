"""Reads images: from a path, file bytes, a file object, a Pillow image or an array to RGB uint8 (H, W, 3).

Pillow decodes files. EXIF orientation is applied, grey, palette and CMYK images become RGB, transparent pixels are
blended with white, and 16-bit grey keeps its upper 8 bits. Floating-point images and images over `MAX_PIXELS`
are rejected.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeAlias

import numpy as np

from retinasdk._util.lazy import require
from retinasdk.errors import ImageError

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import Image

    from retinasdk import DeviceFrame

ImageInput: TypeAlias = (
    "str | os.PathLike[str] | bytes | BinaryIO | Image.Image | npt.NDArray[np.uint8 | np.uint16] | DeviceFrame"
)
ChannelOrder: TypeAlias = Literal["rgb", "bgr"]

MAX_PIXELS = 178_956_970  # Also the limit at which Pillow rejects a file; 537 MB as RGB.
MAX_SIDE = 1 << 16
_BAND_PIXELS = 1 << 20  # Converted at a time.
_PROGRAMS = ("EPS", "WMF")  # By Pillow's names of formats.
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_CONVERSIONS = {  # Advice on arrays of these types.
    "uint16": "convert values of 0..65535 with (image >> 8).astype('uint8')",
    "bool": "multiply it by 255 and convert it with .astype('uint8')",
}
VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv")


def check_channel_order(channel_order: object) -> None:
    """Raises `ValueError` if the channel order is not "rgb" or "bgr"."""
    if channel_order not in ("rgb", "bgr"):
        raise ValueError(f'channel_order must be "rgb" or "bgr", got {channel_order!r}')


def as_rgb(
    image: ImageInput, *, channel_order: ChannelOrder = "rgb", keep_reversed: bool = False
) -> npt.NDArray[np.uint8]:
    """Reads or converts an image to RGB uint8 (H, W, 3).

    Args:
        image: A path; the bytes of an image file; a binary, seekable file object, read from its start; a Pillow image;
            a `DeviceFrame`, which is copied from the GPU; or an array: uint8 (H, W, 3), or grey (H, W) of uint8 or
            uint16 (of which the upper 8 bits are used).
        channel_order: Channel order of NumPy arrays: "rgb", or "bgr" as in OpenCV. Not used for files and Pillow
            images, which define their own.
        keep_reversed: Whether an array that has BGR in memory may be returned as a view, with a channel stride of -1.
            By default it is copied.

    Returns:
        The pixels. An RGB array whose pixels are contiguous is returned as it is, without a copy.

    Raises:
        ImageError: If a file or a Pillow image cannot be read or converted.
        TypeError: If it is not an image.
        ValueError: If an array has another dtype or shape.
    """
    if isinstance(image, np.ndarray):
        in_order = image[..., ::-1] if channel_order == "bgr" and image.ndim == 3 else image
        return _checked_array(in_order, keep_reversed=keep_reversed)
    if isinstance(image, (str, os.PathLike)):
        return _read(os.fspath(image))
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _open(io.BytesIO(image), "image bytes")
    if hasattr(image, "convert") and hasattr(image, "getexif"):
        return _from_pillow(image, "image")
    if hasattr(image, "to_rgb"):  # A DeviceFrame. Detectors take it without this copy.
        return image.to_rgb()
    if hasattr(image, "__array__"):
        return _checked_array(np.asarray(image))
    if hasattr(image, "read") and hasattr(image, "seek"):
        image.seek(0)
        return _open(image, str(getattr(image, "name", "image file object")))
    raise TypeError(
        "image must be a path, a PIL image or an RGB uint8 array (H, W, 3), or the bytes or binary file object of an "
        f"image file; got {type(image).__module__}.{type(image).__qualname__}"
    )


def _checked_array(image: npt.NDArray[Any], *, keep_reversed: bool = False) -> npt.NDArray[np.uint8]:
    if image.ndim == 2 and image.dtype in (np.uint8, np.uint16):
        _check_size(image.shape[0], image.shape[1], "image")
        grey = image if image.dtype == np.uint8 else (image >> 8).astype(np.uint8)
        return interleaved(grey, grey, grey)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        hint = "pass RGB with channels last"
        if image.dtype.kind == "f" and image.size <= 3 * MAX_PIXELS:  # A view of one value can have any size.
            # Values of 0..1 and of 0..255 need different advice.
            is_unit = not image.size or not float(np.fmax.reduce(image, axis=None)) > 1.0
            hint = "convert values of 0..255 with image.round().astype('uint8')"
            if is_unit:
                hint = "multiply values of 0..1 by 255 and convert with .astype('uint8')"
        elif image.dtype != np.uint8 and image.ndim == 3 and image.shape[2] == 3:
            hint = _CONVERSIONS.get(image.dtype.name, "convert values of 0..255 with image.astype('uint8')")
        elif image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 1:
            hint = "pass a grey image as (H, W): image[..., 0]"
        elif image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 4:
            hint = "drop the alpha channel: image[..., :3]"
        elif image.dtype == np.uint8 and image.ndim == 3 and image.shape[0] == 3:
            hint = "pass RGB with channels last: image.transpose(1, 2, 0)"
        raise ValueError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}; {hint}")
    height, width = image.shape[:2]
    _check_size(height, width, "image")
    # Rows may have any stride, for example in a crop, but pixels must be contiguous.
    strides = image.strides[1:]
    if strides == (3, 1) or (keep_reversed and strides == (3, -1)):
        return image
    return interleaved(image[..., 0], image[..., 1], image[..., 2])


def interleaved(
    red: npt.NDArray[np.uint8], green: npt.NDArray[np.uint8], blue: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """Copies three channels of (H, W) uint8 into one array (H, W, 3).

    NumPy takes 3 to 8 times as long if it copies pixels whose channels are not in the order of the result.
    """
    pixels = np.empty((*red.shape, 3), np.uint8)
    for index, channel in enumerate((red, green, blue)):
        pixels[..., index] = channel
    return pixels


def _check_size(height: int, width: int, name: str) -> None:
    if height < 1 or width < 1:
        raise ImageError(f"{name} must have at least 1 x 1 pixels, got {width} x {height}")
    if height * width > MAX_PIXELS or max(height, width) > MAX_SIDE:
        raise ImageError(
            f"{name} must have at most {MAX_PIXELS:,} pixels and at most {MAX_SIDE:,} on each side, "
            f"got {width} x {height}; cut it into parts, or detect with tiles=640"
        )


def _read(path: str) -> npt.NDArray[np.uint8]:
    if not os.path.exists(path):
        raise ImageError(f"{path}: no such file; give the path of an image file ({', '.join(SUFFIXES)})")
    if os.path.isdir(path):
        raise ImageError(f"{path} is a folder, not an image file; list its images with retinasdk.list_images({path!r})")
    if not os.path.isfile(path):  # Reading one would wait for ever.
        raise ImageError(f"{path} is a pipe or a device, not an image file; read its bytes and pass these")
    if os.path.splitext(path)[1].lower() in VIDEO_SUFFIXES:
        raise ImageError(
            f"{path} is a video, not an image; use retinasdk.stream({path!r}, detector), or: retinasdk live {path}"
        )
    return _open(path, path)


def _check_format(image: Any, name: str) -> None:
    """Raises `ImageError` for an image, opened by Pillow, whose pixels only another program could make.

    Pillow starts Ghostscript for EPS, whatever the name of the file is: EPS is a program.
    """
    if image.format in _PROGRAMS:
        raise ImageError(
            f"{name} is a drawing ({image.format}), which another program would have to draw; convert it to PNG first"
        )


def _open(file: Any, path: str) -> npt.NDArray[np.uint8]:
    """Decodes an image file, given by path or as a file object. `path` is its name in error messages."""
    pillow = require("PIL.Image", "reading image files")
    try:
        with pillow.open(file) as image:
            return _from_pillow(image, path, is_ours=True)
    except ImageError:
        raise
    except MemoryError:
        raise
    except pillow.DecompressionBombError as error:
        raise ImageError(
            f"{path} must have at most {MAX_PIXELS:,} pixels: {error}; cut it into parts, or detect with tiles=640"
        ) from error
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others.
    except Exception as error:
        raise ImageError(
            f"{path}: cannot be read as an image: {error}; check that it is an image and that it is complete"
        ) from error


def _from_pillow(image: Any, name: str, *, is_ours: bool = False) -> npt.NDArray[np.uint8]:
    """Converts a Pillow image to RGB uint8 (H, W, 3), band by band.

    Note [Memory of a picture]: Pillow keeps 4 bytes for each pixel of most modes, and the result has 3. A conversion of
    the whole image would add up to four more copies of 4 bytes: a small file of one color can have the largest size.
    """
    _check_format(image, name)
    _check_size(image.height, image.width, name)
    operations = require("PIL.ImageOps", "reading image files")
    try:
        if is_ours:
            operations.exif_transpose(image, in_place=True)
        else:
            image = operations.exif_transpose(image)
        width, height = image.size
        pixels = np.empty((height, width, 3), np.uint8)
        rows = max(1, _BAND_PIXELS // width)
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            band = image if rows >= height else image.crop((0, top, width, bottom))
            pixels[top:bottom] = _rgb(band, name)
        return pixels
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        raise ImageError(f"{name}: cannot be decoded: {error}; check that the file is complete") from error


def _rgb(image: Any, name: str) -> npt.NDArray[np.uint8]:
    if image.mode.startswith("I;16"):
        # Pillow's own conversion would clip everything above 255 to white.
        high_byte = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return interleaved(high_byte, high_byte, high_byte)
    if image.mode in ("F", "I"):
        raise ImageError(
            f"{name} must have 8 or 16 bits per channel, got Pillow mode {image.mode!r}; "
            "scale it to 0..255 and convert it to uint8"
        )
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        pillow = require("PIL.Image", "reading image files")
        rgba = image.convert("RGBA")
        white = pillow.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = pillow.alpha_composite(white, rgba)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def list_images(folder: str | os.PathLike[str]) -> list[str]:
    """Returns the paths of the image files directly inside a folder, sorted by name."""
    with os.scandir(folder) as entries:
        names = [entry.path for entry in entries if entry.is_file() and entry.name.lower().endswith(SUFFIXES)]
    return sorted(names)
