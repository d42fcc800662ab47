"""Image messages of ROS 2 to RGB arrays: every encoding of `sensor_msgs/image_encodings.hpp` that has colors or grays.

Note [Encodings]

- Rows may be longer than their pixels (`step`). Values of 16 bits may be big-endian (`is_bigendian`); their upper 8
  bits are used, as `retinasdk.images` does with grayscale files.
- Y'CbCr is converted with the matrix of ITU-R BT.601 and video range (16..235), which the messages cannot state. It is
  what `cv_bridge` assumes too. Chroma is not interpolated, see Note [Color arithmetic] in csrc/math/color_math.h.
- Bayer patterns are demosaiced bilinearly by OpenCV, as `image_proc` does.
- Encodings such as 8UC3 or 16UC1 do not say what their channels mean (16UC1 usually is depth), so they are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk._util.lazy import require
from retinasdk.errors import ImageError, RetinaSdkError
from retinasdk.images import as_rgb, interleaved

if TYPE_CHECKING:
    import numpy.typing as npt

# Channels per pixel, and the positions of red, green and blue in them.
_CHANNELS = {
    "rgb": (3, [0, 1, 2]),
    "bgr": (3, [2, 1, 0]),
    "rgba": (4, [0, 1, 2]),
    "bgra": (4, [2, 1, 0]),
    "mono": (1, [0, 0, 0]),
}
# ROS names a pattern by the first two pixels of the first two rows, OpenCV by the second two pixels of the second row.
_BAYER = {"bayer_rggb": "BG", "bayer_bggr": "RG", "bayer_gbrg": "GR", "bayer_grbg": "GB"}
# The positions of luma and chroma in a row of bytes: two pixels share Cb and Cr.
_YUYV, _UYVY = (0, 1), (1, 0)
_PACKED = {"yuyv": _YUYV, "yuv422_yuy2": _YUYV, "uyvy": _UYVY, "yuv422": _UYVY}
_PLANAR = ("nv12", "nv21", "nv24")

ENCODINGS = (
    *(f"{name}{bits}" for bits in (8, 16) for name in (*_CHANNELS, *_BAYER)),
    *_PACKED,
    *_PLANAR,
)


def picture_of(message: Any) -> npt.NDArray[np.uint8]:
    """Returns the pixels of an image message.

    Args:
        message: A `sensor_msgs/msg/Image` with one of the encodings rgb8, bgr8, rgba8, bgra8 (alpha is ignored), mono8,
            the same with 16 bits, bayer_rggb8 and the other patterns with 8 or 16 bits (they need OpenCV), yuv422,
            yuv422_yuy2, uyvy, yuyv, nv12, nv21 or nv24; or a `sensor_msgs/msg/CompressedImage`, which Pillow decodes.

    Returns:
        (H, W, 3) uint8, RGB, a copy.

    Raises:
        ImageError: If the encoding is not supported, or the data does not match the size in the message.
        MissingDependencyError: If the image is a Bayer pattern and OpenCV is not installed.
    """
    compressed = hasattr(message, "format")
    if not compressed and message.encoding not in ENCODINGS:
        raise ImageError(
            f"image encoding {message.encoding!r} is not supported; publish one of {', '.join(ENCODINGS)}, or a "
            "CompressedImage"
        )
    try:
        return as_rgb(bytes(message.data)) if compressed else _uncompressed(message)
    except RetinaSdkError:
        raise
    except Exception as error:  # Pillow, OpenCV and NumPy raise many kinds of errors for malformed data.
        raise ImageError(f"the image message cannot be decoded: {error}; check that its data is complete") from error


def _uncompressed(message: Any) -> npt.NDArray[np.uint8]:
    if message.encoding in _PACKED:
        return _from_packed(message)
    if message.encoding in _PLANAR:
        return _from_planes(message)
    bits = 16 if message.encoding.endswith("16") else 8
    name = message.encoding.removesuffix(str(bits))
    return _from_bayer(message, name, bits) if name in _BAYER else _from_channels(message, name, bits)


def _rows(message: Any, row_bytes: int, count: int) -> npt.NDArray[np.uint8]:
    """Returns (count, step) uint8: all rows with their padding, which must have at least `row_bytes` bytes each."""
    data = np.asarray(message.data, np.uint8)
    if data.size != count * message.step or message.step < row_bytes:
        raise ImageError(
            f"the image message cannot be decoded: {message.width} x {message.height} pixels in {message.encoding} "
            f"with {message.step} bytes per row ('step') do not fit {data.size} bytes; check that its data is complete"
        )
    return data.reshape(count, message.step)


def _from_channels(message: Any, name: str, bits: int) -> npt.NDArray[np.uint8]:
    channels, positions = _CHANNELS[name]
    row_bytes = message.width * channels * bits // 8
    values = _rows(message, row_bytes, message.height)[:, :row_bytes]
    if bits == 16:
        values = values[:, 0 if message.is_bigendian else 1 :: 2]  # The upper bytes.
    pixels = values.reshape(message.height, message.width, channels)
    red, green, blue = (pixels[..., position] for position in positions)
    return as_rgb(interleaved(red, green, blue))  # Refuses images without pixels.


def _from_bayer(message: Any, name: str, bits: int) -> npt.NDArray[np.uint8]:
    cv2 = require("cv2", f"an image in {message.encoding}", package="opencv-python-headless")
    _check(message, min(message.width, message.height) >= 3, "at least 3 x 3 pixels")
    row_bytes = message.width * bits // 8
    values = np.ascontiguousarray(_rows(message, row_bytes, message.height)[:, :row_bytes])
    code = getattr(cv2, f"COLOR_Bayer{_BAYER[name]}2RGB")
    if bits == 8:
        return as_rgb(cv2.cvtColor(values, code))
    samples = values.view(">u2" if message.is_bigendian else "<u2").astype(np.uint16)
    return as_rgb((cv2.cvtColor(samples, code) >> 8).astype(np.uint8))


def _from_packed(message: Any) -> npt.NDArray[np.uint8]:
    luma, chroma = _PACKED[message.encoding]
    height, width = message.height, message.width
    _check(message, min(height, width) >= 1 and width % 2 == 0, "an even width")
    values = _rows(message, 2 * width, height)[:, : 2 * width]
    return _from_yuv(values[:, luma::2], values[:, chroma::2].reshape(height, width // 2, 2))


def _from_planes(message: Any) -> npt.NDArray[np.uint8]:
    height, width = message.height, message.width
    if message.encoding == "nv24":
        _check(message, min(height, width) >= 1, "at least 1 x 1 pixels")
        rows = _rows(message, width, 3 * height)
        # A row of chroma is twice as long as one of luma, and so is its padding.
        pairs = rows[height:].reshape(height, 2 * message.step)[:, : 2 * width].reshape(height, width, 2)
        return _from_yuv(rows[:height, :width], pairs)
    _check(message, min(height, width) >= 1 and height % 2 == width % 2 == 0, "an even width and an even height")
    rows = _rows(message, width, height + height // 2)[:, :width]
    pairs = rows[height:].reshape(height // 2, width // 2, 2)
    return _from_yuv(rows[:height], pairs[..., ::-1] if message.encoding == "nv21" else pairs)


def _check(message: Any, is_met: bool, condition: str) -> None:
    if not is_met:
        raise ImageError(
            f"the image message cannot be decoded: images in {message.encoding} must have {condition}, got "
            f"{message.width} x {message.height}"
        )


def _from_yuv(luma: npt.NDArray[np.uint8], pairs: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Converts luma (H, W) and pairs of Cb and Cr, which each apply to 1 x 1, 1 x 2 or 2 x 2 (rows x columns) pixels.

    The native conversion knows pairs for 2 x 2 pixels. Where they apply to fewer, each pixel is converted twice or four
    times, which costs little beside detection and keeps a single arithmetic.
    """
    down, right = (2 * of_pairs // of_luma for of_pairs, of_luma in zip(pairs.shape, luma.shape, strict=False))
    repeated = np.empty((down * luma.shape[0], right * luma.shape[1]), np.uint8)
    for row in range(down):
        for column in range(right):
            repeated[row::down, column::right] = luma
    from retinasdk import _native  # Loaded when it is needed, as everywhere in this package.

    rgb = _native.yuv_to_rgb(repeated, np.ascontiguousarray(pairs), matrix="bt601", full_range=False)
    return as_rgb(rgb[::down, ::right])
