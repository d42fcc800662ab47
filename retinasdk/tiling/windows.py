"""Reads large images part by part: rows of an array, or of a file that is never decoded as a whole.

A file of more than `WHOLE_PIXELS` pixels is read in windows if rasterio (GDAL; the extra [large]) is installed and the
format allows it: upright TIFF and PNG of 8-bit RGB or grayscale, without transparency. The pixels are the same as those
of images.py, which decodes all other files as a whole, within its limits. JPEG, also inside TIFF, is read in windows
only beyond these limits, because GDAL interpolates its colors differently from Pillow.

Reading in windows needs memory for two bands of rows, each of rows x width x 3 bytes, and for GDAL's cache: 32 MB, or
two rows of the file's blocks if that is more.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import struct
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from retinasdk._util.lazy import require
from retinasdk.cuda.device_frame import DeviceFrame
from retinasdk.errors import ImageError
from retinasdk.images import MAX_PIXELS, as_rgb, interleaved

if TYPE_CHECKING:
    import numpy.typing as npt

WHOLE_PIXELS = 1 << 25  # 33.5 million, 100 MB as RGB
MAX_SIDE = 1 << 20
_CACHE_BYTES = 32 << 20  # GDAL's cache, unless two rows of the file's blocks need more.
_MAX_BLOCK_BYTES = 512 << 20  # About the limit of images.py for a whole image.
_ROWS_AT_ONCE = 64
# By the first bytes of a file: GDAL's driver, and Pillow's class, which reads the header of an image of any size.
_FORMATS = {
    b"II*\0": ("GTiff", "PIL.TiffImagePlugin", "TiffImageFile"),
    b"MM\0*": ("GTiff", "PIL.TiffImagePlugin", "TiffImageFile"),
    b"II+\0": ("GTiff", "PIL.TiffImagePlugin", "TiffImageFile"),
    b"MM\0+": ("GTiff", "PIL.TiffImagePlugin", "TiffImageFile"),
    b"\xff\xd8\xff": ("JPEG", "PIL.JpegImagePlugin", "JpegImageFile"),
    b"\x89PNG": ("PNG", "PIL.PngImagePlugin", "PngImageFile"),
}
_ORIENTATION = 0x0112  # The EXIF tag. 1 means upright.


class Windows(Protocol):
    """An image that is read in parts.

    Attributes:
        size: (height, width) of the image in pixels.
    """

    size: tuple[int, int]

    def rows(self, top: int, bottom: int) -> Any:
        """Returns a band of rows. Calls must be in ascending order of `top` and of `bottom`.

        Args:
            top: First row, from 0.
            bottom: Row behind the last one.

        Returns:
            RGB uint8 (bottom - top, W, 3), which can be sliced and must not be changed.
        """

    def whole(self, size: tuple[int, int]) -> Any:
        """Returns the whole image, at its own size or reduced by averaging, whichever needs less memory.

        Args:
            size: (height, width) in pixels of a reduced image.

        Returns:
            RGB uint8 (H, W, 3), which must not be changed.
        """


@contextlib.contextmanager
def open_windows(image: Any, read: Callable[[Any], Any]) -> Iterator[Windows]:
    """Opens an image to read it in parts.

    Args:
        image: Anything that a detector accepts as an image.
        read: Reads an image that is not read in windows: `Backend.read`.

    Yields:
        The image.

    Raises:
        ImageError: If the image cannot be read.
        TypeError: If it is not an image.
        ValueError: If an array has an unsupported dtype or shape.
        MissingDependencyError: If a file is too large to be decoded as a whole and rasterio is not installed.
    """
    if isinstance(image, (str, os.PathLike)):
        path = os.fspath(image)
        driver = _driver(path)
        if driver is not None:
            with _open_file(path, driver) as windows:
                yield windows
            return
    yield ArrayWindows(image if isinstance(image, np.ndarray) else read(image))


class ArrayWindows:
    """Reads parts of an array on the host or on the GPU. A memory map of any size is read part by part.

    Attributes:
        size: (height, width) of the image in pixels.
    """

    def __init__(self, image: Any) -> None:
        # An image on the GPU is wrapped; its owner can be sliced.
        self._pixels = getattr(image, "owner", image)
        shape = tuple(image.shape)
        if isinstance(self._pixels, np.ndarray):
            as_rgb(self._pixels[:1, :1])  # Raises if the dtype or the number of channels is wrong.
        if max(shape[:2]) > MAX_SIDE or min(shape[:2]) < 1:
            raise ImageError(f"image must have 1 to {MAX_SIDE:,} pixels on each side, got {shape[1]} x {shape[0]}")
        self.size: tuple[int, int] = (shape[0], shape[1])

    def rows(self, top: int, bottom: int) -> Any:
        """Returns the rows from `top` to before `bottom`, as a view.

        Raises:
            ValueError: If the image is a `DeviceFrame`, which cannot be cut.
        """
        if isinstance(self._pixels, DeviceFrame):
            raise ValueError(
                "a frame in NV12 or P010 cannot be cut into tiles on the GPU; leave tiles out, or copy the frame to "
                "the CPU with DeviceFrame.to_rgb()"
            )
        return self._pixels[top:bottom]

    def whole(self, size: tuple[int, int]) -> Any:
        """Returns the image itself; `size` is not used, because the pixels are in memory already."""
        return self._pixels


class FileWindows:
    """Reads parts of a file with GDAL. At most two bands of rows are in memory: the previous one and the new one.

    Attributes:
        size: (height, width) of the image in pixels.
    """

    def __init__(self, dataset: Any, path: str) -> None:
        self.size: tuple[int, int] = (dataset.height, dataset.width)
        self._dataset, self._path = dataset, path
        self._top, self._band = 0, np.empty((0, dataset.width, 3), np.uint8)
        self._window = require("rasterio.windows", "reading an image in windows").Window

    def rows(self, top: int, bottom: int) -> npt.NDArray[np.uint8]:
        """Returns a band of rows as RGB uint8 (bottom - top, W, 3).

        Rows of the previous band are copied from it: for a PNG, GDAL would read the file again from its start.
        """
        band = np.empty((bottom - top, self.size[1], 3), np.uint8)
        known = self._band[max(0, top - self._top) : bottom - self._top]
        band[: len(known)] = known
        for start in range(top + len(known), bottom, _ROWS_AT_ONCE):
            stop = min(start + _ROWS_AT_ONCE, bottom)
            band[start - top : stop - top] = self._read(window=self._window(0, start, self.size[1], stop - start))
        self._top, self._band = top, band
        return band

    def whole(self, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """Returns the whole image, reduced by averaging to `size` if that is smaller."""
        if size[0] >= self.size[0] or size[1] >= self.size[1]:
            return self._read()
        average = require("rasterio.enums", "reading an image in windows").Resampling.average
        return self._read(out_shape=(self._dataset.count, *size), resampling=average)

    def _read(self, **options: Any) -> npt.NDArray[np.uint8]:
        try:
            bands: npt.NDArray[np.uint8] = self._dataset.read(**options)
        except Exception as error:  # GDAL raises errors of many types.
            raise ImageError(f"{self._path}: cannot be decoded: {error}; check that the file is complete") from error
        red, green, blue = (bands[0],) * 3 if len(bands) == 1 else bands
        return interleaved(red, green, blue)


def _driver(path: str) -> str | None:
    """Returns GDAL's driver for a large file that can be read in windows, or None if it is decoded as a whole.

    Raises:
        MissingDependencyError: If it is too large to be decoded as a whole and rasterio is not installed.
    """
    if not os.path.isfile(path):  # Opening a pipe would wait for ever.
        return None
    try:
        with open(path, "rb") as file:
            beginning = file.read(4)
        driver, module, plugin = next(kind for magic, kind in _FORMATS.items() if beginning.startswith(magic))
        image_class = getattr(require(module, "reading image files"), plugin)
        with warnings.catch_warnings():  # The code that decodes the file warns.
            warnings.simplefilter("ignore")
            with image_class(path) as header:
                width, height = header.size
                is_plain = header.mode in ("RGB", "L") and "transparency" not in header.info
                # The method of the base class, because the one of PNG decodes the picture to find EXIF data behind it.
                is_upright = require("PIL.Image", "reading image files").Image.getexif(header).get(_ORIENTATION, 1) == 1
                is_upright &= driver != "PNG" or not _has_text_behind_pixels(path)
                is_jpeg = driver == "JPEG" or header.info.get("compression") == "jpeg"
    except Exception:  # Pillow's parsers raise many types; images.py reports the problem.
        return None
    if width * height <= WHOLE_PIXELS or max(width, height) > MAX_SIDE or not (is_plain and is_upright):
        return None
    if width * height <= MAX_PIXELS and (is_jpeg or importlib.util.find_spec("rasterio") is None):
        return None
    require("rasterio", f"reading {path} of {width} x {height} pixels in windows")
    return driver


def _has_text_behind_pixels(path: str) -> bool:
    """Returns whether a PNG file has text or EXIF data behind its pixels, which may rotate the picture."""
    with open(path, "rb") as file:
        file.seek(8)
        kind, pixels_seen = b"", False
        while kind != b"IEND" and len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            pixels_seen |= kind == b"IDAT"
            if pixels_seen and kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
                return True
            file.seek(length + 4, os.SEEK_CUR)
    return False


@contextlib.contextmanager
def _open_file(path: str, driver: str) -> Iterator[FileWindows]:
    rasterio = require("rasterio", "reading an image in windows")
    with contextlib.ExitStack() as stack:
        try:
            with warnings.catch_warnings():  # rasterio warns about images without map coordinates.
                warnings.simplefilter("ignore")
                dataset = stack.enter_context(rasterio.open(path, driver=driver))
            block_bytes = max(rows for rows, _ in dataset.block_shapes) * dataset.width * dataset.count
        except Exception as error:
            raise ImageError(
                f"{path}: cannot be read as an image: {error}; check that it is an image and that it is complete"
            ) from error
        if block_bytes > _MAX_BLOCK_BYTES:
            raise ImageError(
                f"{path}: a strip or a row of blocks has {block_bytes >> 20} MB, and at most "
                f"{_MAX_BLOCK_BYTES >> 20} MB are supported; write the file in tiles: "
                f"gdal_translate -co TILED=YES {path} tiled.tif"
            )
        stack.enter_context(rasterio.Env(GDAL_CACHEMAX=max(_CACHE_BYTES, 2 * block_bytes)))
        yield FileWindows(dataset, path)
