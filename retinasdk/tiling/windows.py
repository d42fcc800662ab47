"""Large images part by part: rows of an array, or of a file that is never decoded whole.

Files of more than `WHOLE_PIXELS` are read in windows where rasterio (GDAL; the extra [large]) is installed and their
format allows it: TIFF and PNG of 8-bit RGB or grey, upright, without transparency. The pixels are those of images.py,
which decodes all others whole, within its limits. JPEG, alone or in TIFF, is read in windows only beyond these limits:
GDAL interpolates its colours otherwise than Pillow.

In windows, memory holds two bands of rows, each (rows asked for) x width x 3 bytes, and GDAL's cache: 32 MB, or two
rows of the file's blocks.
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
from retinasdk.errors import ImageError
from retinasdk.images import MAX_PIXELS, as_rgb

if TYPE_CHECKING:
    import numpy.typing as npt

WHOLE_PIXELS = 1 << 25  # 33.5 million, 100 MB as RGB
MAX_SIDE = 1 << 20
_CACHE_BYTES = 32 << 20  # of GDAL while it reads; more where two rows of the file's blocks need it
_MAX_BLOCK_BYTES = 512 << 20  # as much as images.py takes as a whole
_ROWS_AT_ONCE = 64
# By how files begin: GDAL's driver, and Pillow's class, which reads the header and never refuses a size.
_FORMATS = {
    b"II*\0": ("GTiff", "PIL.TiffImagePlugin", "TiffImageFile"),
    b"MM\0*": ("GTiff", "PIL.TiffImagePlugin", "TiffImageFile"),
    b"II+\0": ("GTiff", "PIL.TiffImagePlugin", "TiffImageFile"),
    b"MM\0+": ("GTiff", "PIL.TiffImagePlugin", "TiffImageFile"),
    b"\xff\xd8\xff": ("JPEG", "PIL.JpegImagePlugin", "JpegImageFile"),
    b"\x89PNG": ("PNG", "PIL.PngImagePlugin", "PngImageFile"),
}
_ORIENTATION = 0x0112  # EXIF; 1: upright


class Windows(Protocol):
    """An image of (height, width) `size` pixels of which parts can be had."""

    size: tuple[int, int]

    def rows(self, top: int, bottom: int) -> Any:
        """RGB uint8 (bottom - top, W, 3), to be sliced; not to be written to. Neither number ever falls."""

    def whole(self, size: tuple[int, int]) -> Any:
        """All of it, at its own size or averaged down to (height, width) `size`, whichever takes less memory."""


@contextlib.contextmanager
def open_windows(image: Any, read: Callable[[Any], Any]) -> Iterator[Windows]:
    """What a detector takes as an image, part by part; read: how the detector's backend reads one.

    Raises as `images.as_rgb`, and `MissingDependencyError` for a file that is too large to be decoded whole.
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
    """An array, on the host or on the GPU, of any number of pixels: a memory map is read as it is looked at."""

    def __init__(self, image: Any) -> None:
        # An image on the GPU comes wrapped; its owner is what can be sliced.
        self._pixels = getattr(image, "owner", image)
        shape = tuple(image.shape)
        if isinstance(self._pixels, np.ndarray):
            as_rgb(self._pixels[:1, :1])  # its errors
        if max(shape[:2]) > MAX_SIDE or min(shape[:2]) < 1:
            raise ImageError(f"image: wanted 1 to {MAX_SIDE:,} pixels a side, got {shape[1]} x {shape[0]}")
        self.size: tuple[int, int] = (shape[0], shape[1])

    def rows(self, top: int, bottom: int) -> Any:
        return self._pixels[top:bottom]

    def whole(self, size: tuple[int, int]) -> Any:
        return self._pixels


class FileWindows:
    """A file that GDAL reads. Two bands of rows are in memory at the most: the last one, and the one that is read."""

    def __init__(self, dataset: Any, path: str) -> None:
        self.size: tuple[int, int] = (dataset.height, dataset.width)
        self._dataset, self._path = dataset, path
        self._top, self._band = 0, np.empty((0, dataset.width, 3), np.uint8)
        self._window = require("rasterio.windows", "reading an image in windows").Window

    def rows(self, top: int, bottom: int) -> npt.NDArray[np.uint8]:
        """What the band before had already is copied from it: a PNG would be read again from its start."""
        band = np.empty((bottom - top, self.size[1], 3), np.uint8)
        known = self._band[max(0, top - self._top) : bottom - self._top]
        band[: len(known)] = known
        for start in range(top + len(known), bottom, _ROWS_AT_ONCE):
            stop = min(start + _ROWS_AT_ONCE, bottom)
            band[start - top : stop - top] = self._read(window=self._window(0, start, self.size[1], stop - start))
        self._top, self._band = top, band
        return band

    def whole(self, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        if size[0] >= self.size[0] or size[1] >= self.size[1]:
            return self._read()
        average = require("rasterio.enums", "reading an image in windows").Resampling.average
        return self._read(out_shape=(self._dataset.count, *size), resampling=average)

    def _read(self, **options: Any) -> npt.NDArray[np.uint8]:
        try:
            bands: npt.NDArray[np.uint8] = self._dataset.read(**options)
        except Exception as error:  # GDAL's
            raise ImageError(f"{self._path}: cannot be decoded: {error}; is the file complete?") from error
        return np.repeat(bands[0][..., None], 3, axis=2) if len(bands) == 1 else np.moveaxis(bands, 0, 2)


def _driver(path: str) -> str | None:
    """GDAL's driver for a large file that can be read in windows; None: read it whole.

    Raises `MissingDependencyError` for one that would be too large for that.
    """
    try:
        with open(path, "rb") as file:
            beginning = file.read(4)
        driver, module, plugin = next(kind for magic, kind in _FORMATS.items() if beginning.startswith(magic))
        image_class = getattr(require(module, "reading image files"), plugin)
        with warnings.catch_warnings():  # who decodes it in the end warns
            warnings.simplefilter("ignore")
            with image_class(path) as header:
                width, height = header.size
                is_plain = header.mode in ("RGB", "L") and "transparency" not in header.info
                # Of the base class: PNG's own would decode the picture, for what may stand behind it.
                is_upright = require("PIL.Image", "reading image files").Image.getexif(header).get(_ORIENTATION, 1) == 1
                is_upright &= driver != "PNG" or not _says_more_behind(path)
                is_jpeg = driver == "JPEG" or header.info.get("compression") == "jpeg"
    except Exception:  # of many kinds, from Pillow's parsers; images.py says what is wrong with it
        return None
    if width * height <= WHOLE_PIXELS or max(width, height) > MAX_SIDE or not (is_plain and is_upright):
        return None
    if width * height <= MAX_PIXELS and (is_jpeg or importlib.util.find_spec("rasterio") is None):
        return None
    require("rasterio", f"reading {path} of {width} x {height} pixels in windows")
    return driver


def _says_more_behind(path: str) -> bool:
    """Has a PNG file text or EXIF behind its pixels? It may turn the picture."""
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
            with warnings.catch_warnings():  # a photo that is no map is nothing to warn of
                warnings.simplefilter("ignore")
                dataset = stack.enter_context(rasterio.open(path, driver=driver))
            block_bytes = max(rows for rows, _ in dataset.block_shapes) * dataset.width * dataset.count
        except Exception as error:
            raise ImageError(f"{path}: cannot be read as an image: {error}; is it complete, and an image?") from error
        if block_bytes > _MAX_BLOCK_BYTES:
            raise ImageError(
                f"{path}: wanted strips or rows of blocks of at most {_MAX_BLOCK_BYTES >> 20} MB, got "
                f"{block_bytes >> 20} MB; write it anew in tiles, such as by gdal_translate -co TILED=YES"
            )
        stack.enter_context(rasterio.Env(GDAL_CACHEMAX=max(_CACHE_BYTES, 2 * block_bytes)))
        yield FileWindows(dataset, path)
