"""Image folders, animated GIF (also WebP, PNG, TIFF of many pages) by Pillow, and arrays from anywhere."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from retinasdk._util.lazy import require
from retinasdk.errors import ImageError
from retinasdk.images import as_rgb, list_images
from retinasdk.live.errors import CorruptFrameError
from retinasdk.live.sources.base import RawFrame

_DEFAULT_STEP_S = 0.1  # of a GIF that names no duration, as browsers have it


class Folder:
    """The images of a folder, sorted by name, of any sizes. A file that cannot be read is a corrupt frame."""

    live = False
    on_demand = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        self._paths = list_images(path)
        if not self._paths:
            raise ImageError(f"{self.name}: wanted a folder with images, found none in it")
        self._rest: Iterator[str] = iter(())

    def open(self) -> None:
        self._rest = iter(self._paths)

    def read(self) -> RawFrame | None:
        path = next(self._rest, None)
        if path is None:
            return None
        try:
            image = as_rgb(path)
        except ImageError as error:
            raise CorruptFrameError(str(error)) from error
        return RawFrame(lambda: image)

    def close(self) -> None:
        self._rest = iter(())


class Animation:
    """The frames of one image file."""

    live = False
    on_demand = False

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        self._image: Any = None
        self._next = 0
        self._time_s = 0.0

    def open(self) -> None:
        self._image = require("PIL.Image", "reading image files").open(self.name)
        self._next, self._time_s = 0, 0.0

    def read(self) -> RawFrame | None:
        if self._next >= getattr(self._image, "n_frames", 1):
            return None
        self._image.seek(self._next)
        image = as_rgb(self._image)
        shot = RawFrame(lambda: image, self._time_s)
        self._time_s += self._image.info.get("duration", 0) / 1000.0 or _DEFAULT_STEP_S
        self._next += 1
        return shot

    def close(self) -> None:
        if self._image is not None:
            self._image.close()
            self._image = None


class Arrays:
    """RGB uint8 (H, W, 3) arrays, of any sizes, from a Python iterator: a camera's own SDK, say.

    Each is copied, so that the iterator may use its buffer again. An array of another kind is a corrupt frame. The
    iterator runs in the stream's thread, and is closed there if it can be. It sets the pace: one that never waits keeps
    a core busy under policies that drop frames; "all" is for it.
    """

    live = False
    on_demand = False

    def __init__(self, arrays: Iterable[Any], name: str = "arrays") -> None:
        self.name = name
        self._arrays = iter(arrays)

    def open(self) -> None:
        pass

    def read(self) -> RawFrame | None:
        try:
            array = next(self._arrays)
        except StopIteration:
            return None
        try:
            image = as_rgb(array).copy()
        except (ImageError, TypeError, ValueError) as error:
            raise CorruptFrameError(str(error)) from error
        return RawFrame(lambda: image)

    def close(self) -> None:
        close = getattr(self._arrays, "close", None)
        if callable(close):
            close()
