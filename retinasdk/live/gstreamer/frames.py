"""Pixels of mapped video frames: as RGB arrays, and drawn on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk import _native
from retinasdk.images import interleaved

if TYPE_CHECKING:
    import numpy.typing as npt

# Bytes of a pixel, and the positions of red, green and blue in them. Alpha is ignored.
PACKED = {
    "RGB": (3, (0, 1, 2)),
    "BGR": (3, (2, 1, 0)),
    **dict.fromkeys(("RGBx", "RGBA"), (4, (0, 1, 2))),
    **dict.fromkeys(("BGRx", "BGRA"), (4, (2, 1, 0))),
    **dict.fromkeys(("xRGB", "ARGB"), (4, (1, 2, 3))),
    **dict.fromkeys(("xBGR", "ABGR"), (4, (3, 2, 1))),
}
_IN_PAIRS = ((1, 0), (1, 1))
# Of 4:2:0: the type of a sample, and the planes of Cb and Cr, each with the position in its pairs if it has pairs.
_PLANAR: dict[str, tuple[type, tuple[tuple[int, int | None], tuple[int, int | None]]]] = {
    "NV12": (np.uint8, _IN_PAIRS),
    "NV21": (np.uint8, ((1, 1), (1, 0))),
    "P010_10LE": (np.uint16, _IN_PAIRS),
    "I420": (np.uint8, ((1, None), (2, None))),
    "YV12": (np.uint8, ((2, None), (1, None))),
}


@dataclass(frozen=True)
class Layout:
    """How a frame lies in memory.

    Attributes:
        format: GStreamer's name of the format.
        height: Height in pixels.
        width: Width in pixels.
        offsets: For each plane, the byte at which it starts.
        strides: For each plane, the bytes from one row to the next.
        matrix: "bt601", "bt709" or "bt2020", of YCbCr.
        full_range: Whether luma has the values 0 to 255 instead of 16 to 235, of YCbCr.
    """

    format: str
    height: int
    width: int
    offsets: Sequence[int]
    strides: Sequence[int]
    matrix: str = "bt601"
    full_range: bool = False

    def rgb(self, memory: Any) -> npt.NDArray[np.uint8]:
        """Returns the frame as (H, W, 3) uint8, RGB.

        RGB frames are not copied: the array is valid as long as the memory is mapped.

        Args:
            memory: The mapped memory, with Python's buffer interface.
        """
        if self.format in PACKED:
            size, positions = PACKED[self.format]
            pixels: npt.NDArray[np.uint8] = self._rows(memory, 0, self.height, self.width, np.uint8, size)
            if self.format == "RGB":
                return pixels
            red, green, blue = positions
            return interleaved(pixels[..., red], pixels[..., green], pixels[..., blue])
        luma = self._rows(memory, 0, self.height, self.width, self._sample)[..., 0]
        if self.format == "GRAY8":
            return interleaved(luma, luma, luma)
        return _native.yuv_to_rgb(luma, self._chroma(memory), matrix=self.matrix, full_range=self.full_range)

    def paint(self, memory: Any, rgb: npt.NDArray[np.uint8]) -> None:
        """Replaces the colors of a frame in one of the formats of `PACKED`.

        Args:
            memory: The mapped memory, writable.
            rgb: The pixels, (H, W, 3) uint8.
        """
        size, positions = PACKED[self.format]
        self._rows(memory, 0, self.height, self.width, np.uint8, size)[..., positions] = rgb

    @property
    def _sample(self) -> type:
        return _PLANAR[self.format][0] if self.format in _PLANAR else np.uint8

    def _chroma(self, memory: Any) -> npt.NDArray[Any]:
        """Returns (H / 2, W / 2, 2): Cb, then Cr."""
        height, width = self.height // 2, self.width // 2
        sample, places = _PLANAR[self.format]
        if places == _IN_PAIRS:
            return self._rows(memory, 1, height, width, sample, 2)
        planes = [
            self._rows(memory, plane, height, width, sample, 1 if position is None else 2)[..., position or 0]
            for plane, position in places
        ]
        pairs: npt.NDArray[Any] = np.stack(planes, axis=-1)
        return pairs

    def _rows(
        self, memory: Any, plane: int, height: int, width: int, sample: type, samples: int = 1
    ) -> npt.NDArray[Any]:
        """Returns the pixels of a plane, (height, width, samples), in place."""
        item = np.dtype(sample).itemsize
        strides = (self.strides[plane], samples * item, item)
        rows: npt.NDArray[Any] = np.ndarray((height, width, samples), sample, memory, self.offsets[plane], strides)
        return rows
