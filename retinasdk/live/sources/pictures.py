"""Sources of still images: folders, image files with several frames, and arrays of a Python iterator."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from retinasdk._util.lazy import require
from retinasdk.cuda.device_frame import DeviceFrame
from retinasdk.errors import ImageError
from retinasdk.images import SUFFIXES, as_rgb, list_images
from retinasdk.live.errors import CorruptFrameError, StreamError
from retinasdk.live.sources.base import RawFrame

_DEFAULT_STEP_S = 0.1  # For frames without a duration, as in browsers.


class Folder:
    """The images of a folder, sorted by name. They may have different sizes.

    Subfolders are not read. An image that cannot be decoded is counted as a failed frame.

    Args:
        path: The folder.

    Raises:
        ImageError: If the folder does not exist or contains no images.
    """

    live = False
    on_demand = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        self._paths = list_images(path)
        if not self._paths:
            raise ImageError(f"{self.name}: the folder contains no images ({', '.join(SUFFIXES)})")
        self._next = 0

    def open(self) -> None:
        """Starts with the first image. See `Source.open`."""
        self._next = 0

    def read(self) -> RawFrame | None:
        """Reads the next image. See `Source.read`."""
        if self._next == len(self._paths):
            return None
        path = self._paths[self._next]
        self._next += 1
        try:
            image = as_rgb(path)
        except ImageError as error:
            raise CorruptFrameError(str(error)) from error
        return RawFrame(lambda: image, progress=self._next / len(self._paths))

    def close(self) -> None:
        """Does nothing. See `Source.close`."""


class Animation:
    """The frames of one image file: animated GIF, WebP or PNG, TIFF with several pages, or a single image.

    Args:
        path: The file.
    """

    live = False
    on_demand = False

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        self._image: Any = None
        self._next = 0
        self._time_s = 0.0

    def open(self) -> None:
        """Opens the file. See `Source.open`."""
        try:
            self._image = require("PIL.Image", "reading image files").open(self.name)
        except Exception as error:  # Pillow may raise anything for malformed data.
            raise StreamError(
                "cannot be opened as an image: it is damaged, or not in the format that its name says; open it in an "
                "image viewer to check it"
            ) from error
        self._next, self._time_s = 0, 0.0

    def read(self) -> RawFrame | None:
        """Decodes the next frame. See `Source.read`."""
        count = getattr(self._image, "n_frames", 1)
        if self._next >= count:
            return None
        self._image.seek(self._next)
        image = as_rgb(self._image)
        self._next += 1
        raw = RawFrame(lambda: image, self._time_s, self._next / count)
        self._time_s += self._image.info.get("duration", 0) / 1000.0 or _DEFAULT_STEP_S
        return raw

    def close(self) -> None:
        """Closes the file. See `Source.close`."""
        if self._image is not None:
            self._image.close()
            self._image = None


class Arrays:
    """Arrays from a Python iterator, for example from the SDK of a camera.

    The iterator runs in the source's thread, and its `close` method, if it has one, is called there. Each array is
    copied, so the iterator may reuse its buffer. An array of another shape or type is counted as a failed frame. The
    iterator sets the pace: if it never waits, use the policy "all", because other policies keep a CPU core busy.

    Args:
        arrays: An iterable of (H, W, 3) uint8 RGB arrays, which may have different sizes, or of `DeviceFrame`s. These
            are not copied: their memory must stay unchanged until their `Frame` is gone.
        name: The name for messages and `Frame.source`. Default: "arrays".
    """

    live = False
    on_demand = False

    def __init__(self, arrays: Iterable[Any], name: str = "arrays") -> None:
        self.name = name
        self._arrays = iter(arrays)

    def open(self) -> None:
        """Does nothing. See `Source.open`."""

    def read(self) -> RawFrame | None:
        """Takes the next array. See `Source.read`."""
        try:
            array = next(self._arrays)
        except StopIteration:
            return None
        if isinstance(array, DeviceFrame):
            return RawFrame(lambda: array)
        try:
            image = as_rgb(array).copy()
        except (ImageError, TypeError, ValueError) as error:
            raise CorruptFrameError(str(error)) from error
        return RawFrame(lambda: image)

    def close(self) -> None:
        """Closes the iterator, if it can be closed. See `Source.close`."""
        close = getattr(self._arrays, "close", None)
        if callable(close):
            close()
