"""Every encoding of image messages, against formulas in float64, and against OpenCV where it is installed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from retinasdk import ImageError
from retinasdk.live.ros import picture_of
from retinasdk.live.ros_images import ENCODINGS

HEIGHT, WIDTH = 10, 14
Bytes = npt.NDArray[np.uint8]


def message(encoding: str, rows: Bytes, *, size: tuple[int, int] = (HEIGHT, WIDTH), is_bigendian: int = 0) -> Any:
    """An Image as rclpy or rosbags gives it. The rows may be longer than their pixels."""
    return SimpleNamespace(
        encoding=encoding,
        height=size[0],
        width=size[1],
        step=rows.shape[1],
        is_bigendian=is_bigendian,
        data=np.ascontiguousarray(rows).reshape(-1),
    )


def noise(*shape: int, low: int = 0, high: int = 256) -> Bytes:
    return np.random.default_rng(7).integers(low, high, shape, dtype=np.uint8)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("name", ["rgb", "bgr", "rgba", "bgra", "mono"])
def test_channels_of_8_bits(name: str, padding: int) -> None:
    rgb = noise(HEIGHT, WIDTH, 3)
    alpha = noise(HEIGHT, WIDTH, 1)
    planes = {"r": rgb[..., 0], "g": rgb[..., 1], "b": rgb[..., 2], "a": alpha[..., 0]}
    pixels = rgb[..., :1] if name == "mono" else np.stack([planes[letter] for letter in name], axis=2)
    rows = np.concatenate([pixels.reshape(HEIGHT, -1), noise(HEIGHT, padding)], axis=1)
    wanted = np.repeat(rgb[..., :1], 3, axis=2) if name == "mono" else rgb
    np.testing.assert_array_equal(picture_of(message(f"{name}8", rows)), wanted)


@pytest.mark.parametrize("is_bigendian", [0, 1])
@pytest.mark.parametrize(("name", "order"), [("rgb", [0, 1, 2]), ("bgra", [2, 1, 0, 0]), ("mono", [0])])
def test_channels_of_16_bits(name: str, order: list[int], is_bigendian: int) -> None:
    values = np.random.default_rng(3).integers(0, 1 << 16, (HEIGHT, WIDTH, 3), dtype=np.uint16)
    stored = values[..., order].astype(">u2" if is_bigendian else "<u2")
    rows = np.concatenate([stored.reshape(HEIGHT, -1).view(np.uint8), noise(HEIGHT, 6)], axis=1)
    wanted = (values[..., [0, 0, 0] if name == "mono" else [0, 1, 2]] // 256).astype(np.uint8)
    np.testing.assert_array_equal(picture_of(message(f"{name}16", rows, is_bigendian=is_bigendian)), wanted)


def bt601(luma: Bytes, blue: Bytes, red: Bytes) -> npt.NDArray[np.float64]:
    """ITU-R BT.601 with video range, in float64."""
    y = (luma.astype(float) - 16) / 219
    b, r = (blue.astype(float) - 128) / 224, (red.astype(float) - 128) / 224
    green = y - (0.114 * 1.772 * b + 0.299 * 1.402 * r) / 0.587
    return np.clip(255 * np.stack([y + 1.402 * r, green, y + 1.772 * b], axis=2), 0, 255)


def yuv_rows(encoding: str, luma: Bytes, blue: Bytes, red: Bytes) -> Bytes:
    """Lays out samples as fourcc.org and Video4Linux describe the formats; chroma is already subsampled."""
    if encoding in ("nv12", "nv24"):
        return np.concatenate([luma.reshape(-1), np.stack([blue, red], axis=2).reshape(-1)]).reshape(-1, luma.shape[1])
    if encoding == "nv21":
        return np.concatenate([luma.reshape(-1), np.stack([red, blue], axis=2).reshape(-1)]).reshape(-1, luma.shape[1])
    first, second = luma[:, ::2], luma[:, 1::2]
    order = [first, blue, second, red] if encoding in ("yuyv", "yuv422_yuy2") else [blue, first, red, second]
    return np.stack(order, axis=2).reshape(len(luma), -1)


YUV = {
    **dict.fromkeys(("yuyv", "yuv422_yuy2", "uyvy", "yuv422"), (1, 2)),
    "nv12": (2, 2),
    "nv21": (2, 2),
    "nv24": (1, 1),
}


@pytest.mark.parametrize("encoding", YUV)
def test_yuv(encoding: str) -> None:
    down, right = YUV[encoding]
    luma = noise(HEIGHT, WIDTH)
    blue, red = noise(2, HEIGHT // down, WIDTH // right)
    rows = yuv_rows(encoding, luma, blue, red)
    full = [plane.repeat(down, axis=0).repeat(right, axis=1) for plane in (blue, red)]
    wanted = bt601(luma, *full)
    found = picture_of(message(encoding, rows))
    assert np.abs(found - wanted).max() < 0.502
    if encoding.startswith(("yu", "uy")):  # With padding, which the other formats have in both planes.
        padded = np.concatenate([rows, noise(HEIGHT, 3)], axis=1)
        np.testing.assert_array_equal(picture_of(message(encoding, padded)), found)
    else:
        per_row = 2 * WIDTH if encoding == "nv24" else WIDTH
        planes = [rows[:HEIGHT], rows[HEIGHT:].reshape(-1, per_row)]
        widths = (4, 8 if encoding == "nv24" else 4)
        padded_planes = [
            np.concatenate([plane, noise(len(plane), extra)], axis=1)
            for plane, extra in zip(planes, widths, strict=True)
        ]
        both = np.concatenate([plane.reshape(-1) for plane in padded_planes]).reshape(-1, WIDTH + 4)
        np.testing.assert_array_equal(picture_of(message(encoding, both)), found)


@pytest.mark.parametrize("encoding", [name for name in YUV if name != "nv24"])
def test_yuv_is_what_opencv_gives(encoding: str) -> None:
    """Within one level: OpenCV's coefficients have fewer digits. It clips luma below black first, so there is none."""
    cv2 = pytest.importorskip("cv2")
    down, right = YUV[encoding]
    luma = noise(HEIGHT, WIDTH, low=16, high=236)
    blue, red = noise(2, HEIGHT // down, WIDTH // right, low=16, high=241)
    rows = yuv_rows(encoding, luma, blue, red)
    names = {"nv12": "NV12", "nv21": "NV21", "yuyv": "YUY2", "yuv422_yuy2": "YUY2", "uyvy": "UYVY", "yuv422": "UYVY"}
    pixels = rows if encoding.startswith("nv") else rows.reshape(HEIGHT, WIDTH, 2)
    wanted = cv2.cvtColor(np.ascontiguousarray(pixels), getattr(cv2, f"COLOR_YUV2RGB_{names[encoding]}"))
    assert np.abs(picture_of(message(encoding, rows)).astype(int) - wanted).max() <= 1


def mosaic(rgb: npt.NDArray[Any], pattern: str) -> npt.NDArray[Any]:
    """What a sensor with this pattern of the first two pixels of the first two rows would read."""
    read = np.empty(rgb.shape[:2], rgb.dtype)
    for place, color in enumerate(pattern):
        y, x = divmod(place, 2)
        read[y::2, x::2] = rgb[y::2, x::2, "rgb".index(color)]
    return read


def bilinear(read: npt.NDArray[Any], pattern: str) -> npt.NDArray[np.float64]:
    """The mean of the nearest samples of each color, for all pixels but the border."""
    height, width = read.shape
    found = np.zeros((height, width, 3))
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            for index, color in enumerate("rgb"):
                near = [
                    (abs(dy) + abs(dx), float(read[y + dy, x + dx]))
                    for dy in (-1, 0, 1)
                    for dx in (-1, 0, 1)
                    if pattern[(y + dy) % 2 * 2 + (x + dx) % 2] == color
                ]
                nearest = min(distance for distance, _ in near)
                found[y, x, index] = np.mean([value for distance, value in near if distance == nearest])
    return found[1:-1, 1:-1]


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer(pattern: str, bits: int) -> None:
    pytest.importorskip("cv2", reason="needs OpenCV")
    rgb = np.random.default_rng(1).integers(0, 1 << bits, (HEIGHT, WIDTH, 3)).astype(f"u{bits // 8}")
    read = mosaic(rgb, pattern)
    wanted = bilinear(read, pattern) / (1 if bits == 8 else 256)
    for is_bigendian in (0, 1):
        stored = read.astype(f"{'>' if is_bigendian else '<'}u{bits // 8}").view(np.uint8).reshape(HEIGHT, -1)
        padded = np.concatenate([stored, noise(HEIGHT, 2)], axis=1)
        found = picture_of(message(f"bayer_{pattern}{bits}", padded, is_bigendian=is_bigendian))
        # 8 bits are rounded, 16 bits cut.
        assert np.abs(found[1:-1, 1:-1] - wanted).max() <= (0.5 if bits == 8 else 1.0)
    even = np.full((HEIGHT, WIDTH, 3), (200, 100, 30), f"u{bits // 8}") << (bits - 8)
    one = mosaic(even, pattern).astype(f"<u{bits // 8}").view(np.uint8).reshape(HEIGHT, -1)
    found = picture_of(message(f"bayer_{pattern}{bits}", one))
    np.testing.assert_array_equal(found, np.broadcast_to(np.uint8([200, 100, 30]), found.shape))


@pytest.mark.parametrize(
    ("encoding", "size", "step", "problem"),
    [
        ("yuyv", (4, 5), 10, "must have an even width, got 5 x 4"),
        ("nv12", (3, 4), 4, "must have an even width and an even height, got 4 x 3"),
        ("nv12", (0, 0), 4, "must have an even width and an even height, got 0 x 0"),
        ("nv24", (0, 4), 4, "must have at least 1 x 1 pixels"),
        ("yuyv", (4, 4), 7, "do not fit"),
        ("bgr16", (4, 4), 23, "do not fit"),
        ("8UC3", (4, 4), 12, "'8UC3' is not supported; publish one of rgb8"),
        ("16UC1", (4, 4), 8, "'16UC1' is not supported"),
    ],
)
def test_sizes_and_encodings_that_are_refused(encoding: str, size: tuple[int, int], step: int, problem: str) -> None:
    with pytest.raises(ImageError, match=problem):
        picture_of(message(encoding, np.zeros((size[0], step), np.uint8), size=size))


def test_a_small_bayer_image_is_refused() -> None:
    pytest.importorskip("cv2", reason="needs OpenCV")
    with pytest.raises(ImageError, match="must have at least 3 x 3 pixels, got 2 x 4"):
        picture_of(message("bayer_rggb8", np.zeros((4, 2), np.uint8), size=(4, 2)))


def test_the_encodings_are_those_of_ros() -> None:
    """All of sensor_msgs/image_encodings.hpp (5.5.1) that have colors or grays."""
    named = {f"{name}{bits}" for name in ("rgb", "rgba", "bgr", "bgra", "mono") for bits in (8, 16)}
    named |= {f"bayer_{pattern}{bits}" for pattern in ("rggb", "bggr", "gbrg", "grbg") for bits in (8, 16)}
    assert set(ENCODINGS) == named | set(YUV)
    assert len(ENCODINGS) == len(set(ENCODINGS))
