"""Tests the conversion of NV12 and P010 frames to RGB: the standards, other converters, and the CUDA kernels."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cuda_parity import MEAN, STD
from emulated_cuda import emulated_native

from retinasdk import _native

Array = npt.NDArray[Any]

WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}  # Kr and Kb
RULES = list(itertools.product(WEIGHTS, [False, True]))
BITS = pytest.mark.parametrize("bits", [8, 10], ids=["NV12", "P010"])
ALL_RULES = pytest.mark.parametrize(("matrix", "full_range"), RULES)


def exact(luma: Array, chroma: Array, matrix: str, full_range: bool, bits: int) -> Array:
    """The formulas of ITU-R BT.601, BT.709 and BT.2020 in float64, for values of that many bits; not rounded."""
    red, blue = WEIGHTS[matrix]
    step, highest = 2 ** (bits - 8), 2**bits - 1
    y = luma / highest if full_range else (luma - 16.0 * step) / (219 * step)
    pairs = np.repeat(np.repeat(chroma - 128.0 * step, 2, axis=0), 2, axis=1)
    pairs /= highest if full_range else 224 * step
    r, b = y + 2 * (1 - red) * pairs[..., 1], y + 2 * (1 - blue) * pairs[..., 0]
    g = (y - red * r - blue * b) / (1 - red - blue)
    return np.asarray(np.clip(255 * np.stack([r, g, b], axis=2), 0, 255))


def frame_of(rgb: Array, matrix: str, full_range: bool, bits: int) -> tuple[Array, Array]:
    """The values of both planes for a picture of (H / 2, W / 2, 3) gray levels, each of its pixels 2 x 2 times."""
    red, blue = WEIGHTS[matrix]
    step, highest = 2 ** (bits - 8), 2**bits - 1
    r, g, b = np.moveaxis(rgb / 255, 2, 0)
    y = red * r + (1 - red - blue) * g + blue * b
    pairs = np.stack([(b - y) / (2 * (1 - blue)), (r - y) / (2 * (1 - red))], axis=2)
    luma = y * highest if full_range else y * 219 * step + 16 * step
    chroma = pairs * (highest if full_range else 224 * step) + 128 * step
    as_values = [np.clip(np.round(plane), 0, highest).astype(np.uint16) for plane in (luma, chroma)]
    return np.repeat(np.repeat(as_values[0], 2, axis=0), 2, axis=1), as_values[1]


def stored(values: Array, bits: int) -> Array:
    """As the format stores them: P010 in the upper bits."""
    return values.astype(np.uint8) if bits == 8 else values.astype(np.uint16) << 6


def noise(bits: int, height: int = 48, width: int = 64) -> tuple[Array, Array]:
    """Values of both planes, of which many have no color in RGB."""
    random = np.random.default_rng(bits)
    return random.integers(0, 2**bits, (height, width)), random.integers(0, 2**bits, (height // 2, width // 2, 2))


# -- the standards -----------------------------------------------------------------------------------------------------


@BITS
@ALL_RULES
def test_the_result_is_the_exact_one_rounded_once(matrix: str, full_range: bool, bits: int) -> None:
    luma, chroma = noise(bits, 256, 256)
    ours = _native.yuv_to_rgb(stored(luma, bits), stored(chroma, bits), matrix=matrix, full_range=full_range)
    assert np.abs(ours - exact(luma, chroma, matrix, full_range, bits)).max() < 0.501


@BITS
@ALL_RULES
def test_black_white_and_gray(matrix: str, full_range: bool, bits: int) -> None:
    wanted = np.array([[0, 255, 128, 1]]).T
    picture = np.repeat(wanted[..., None], 3, axis=2)
    luma, chroma = frame_of(picture, matrix, full_range, bits)
    ours = _native.yuv_to_rgb(stored(luma, bits), stored(chroma, bits), matrix=matrix, full_range=full_range)
    assert np.abs(ours[::2, ::2].astype(int) - picture).max() <= (0 if bits == 10 or full_range else 1)


def test_colors_of_a_wrong_matrix_are_visibly_wrong() -> None:
    """The reason why frames carry their matrix and range."""
    luma, chroma = (stored(plane, 8) for plane in frame_of(np.array([[[255, 0, 0]]]), "bt709", False, 8))
    assert _native.yuv_to_rgb(luma, chroma, matrix="bt709", full_range=False)[0, 0].tolist() == [255, 1, 0]
    assert _native.yuv_to_rgb(luma, chroma, matrix="bt601", full_range=False)[0, 0].tolist() == [233, 0, 2]


def test_the_lower_bits_of_p010_are_ignored() -> None:
    luma, chroma = (stored(plane, 10) for plane in noise(10))
    options: dict[str, Any] = {"matrix": "bt2020", "full_range": True}
    assert np.array_equal(
        _native.yuv_to_rgb(luma, chroma, **options), _native.yuv_to_rgb(luma | 63, chroma | 63, **options)
    )


# -- other converters --------------------------------------------------------------------------------------------------


@BITS
@ALL_RULES
def test_ffmpeg(matrix: str, full_range: bool, bits: int) -> None:
    """Equal up to one gray level to swscale without interpolated chroma and with its accurate arithmetic."""
    av = pytest.importorskip("av")
    reformatter = pytest.importorskip("av.video.reformatter")
    if not hasattr(reformatter.Interpolation, "ACCURATE_RND"):
        pytest.skip("this PyAV cannot ask swscale for its accurate arithmetic")
    random = np.random.default_rng(3)
    planes = frame_of(random.integers(0, 256, (32, 48, 3)), matrix, full_range, bits)
    luma, chroma = (stored(plane, bits) for plane in planes)
    frame = av.VideoFrame(luma.shape[1], luma.shape[0], "nv12" if bits == 8 else "p010le")
    for plane, values in zip(frame.planes, (luma, chroma), strict=True):
        rows = np.frombuffer(plane, np.uint8).reshape(values.shape[0], -1)
        content = values.reshape(values.shape[0], -1).view(np.uint8)
        rows[:, : content.shape[1]] = content
    frame.colorspace = {"bt601": 5, "bt709": 1, "bt2020": 9}[matrix]
    frame.color_range = 2 if full_range else 1
    kind = reformatter.Interpolation
    flags = kind.POINT | kind.ACCURATE_RND | kind.FULL_CHR_H_INT | kind.BITEXACT
    converted = reformatter.VideoReformatter().reformat(frame, format="rgb24", interpolation=flags, dst_color_range=2)
    ours = _native.yuv_to_rgb(luma, chroma, matrix=matrix, full_range=full_range)
    assert np.abs(converted.to_ndarray().astype(int) - ours).max() <= 1


def test_opencv() -> None:
    """OpenCV converts NV12 by BT.601 with video range."""
    cv2 = pytest.importorskip("cv2")
    random = np.random.default_rng(4)
    planes = frame_of(random.integers(0, 256, (32, 48, 3)), "bt601", False, 8)
    luma, chroma = (stored(plane, 8) for plane in planes)
    theirs = cv2.cvtColorTwoPlane(luma, chroma, cv2.COLOR_YUV2RGB_NV12)
    ours = _native.yuv_to_rgb(luma, chroma, matrix="bt601", full_range=False)
    assert np.abs(theirs.astype(int) - ours).max() <= 1


# -- the kernels -------------------------------------------------------------------------------------------------------


def preprocessed(luma: Array, chroma: Array, size: tuple[int, int], canvas: Array, **options: Any) -> Array:
    """The network's input by the emulated kernel. The planes are of bytes or words, (rows, values of a row)."""
    sizes = {"size": size, "resized": options.pop("resized"), "padded": canvas.shape[1:]}
    sizes["antialias"] = options.pop("antialias")
    scratch = np.empty(emulated_native().preprocess_scratch_bytes(**sizes), np.uint8)
    emulated_native().preprocess(
        format="nv12" if luma.itemsize == 1 else "p010",
        pixels=luma.ctypes.data,
        row_bytes=luma.strides[0],
        chroma=chroma.ctypes.data,
        chroma_row_bytes=chroma.strides[0],
        **sizes,
        **options,
        output=canvas.ctypes.data,
        dtype=canvas.dtype.name,
        scratch=scratch.ctypes.data,
        scratch_bytes=scratch.size,
        stream=0,
    )
    return canvas


@BITS
@ALL_RULES
@pytest.mark.parametrize("spare", [0, 6], ids=["tight rows", "spare bytes in a row"])
def test_a_frame_gives_the_network_input_of_its_rgb(matrix: str, full_range: bool, bits: int, spare: int) -> None:
    height, width = 24, 32
    luma, chroma = (stored(plane, bits) for plane in noise(bits, height, width + spare))
    chroma = chroma.reshape(height // 2, width + spare)
    pairs = chroma[:, :width].reshape(height // 2, width // 2, 2)
    rgb = _native.yuv_to_rgb(luma[:, :width], pairs, matrix=matrix, full_range=full_range)
    for resized, antialias, eight_bit in (
        ((24, 32), False, False),
        ((40, 53), False, True),
        ((11, 17), True, False),
        ((11, 17), True, True),
    ):
        options: dict[str, Any] = {
            "resized": resized,
            "antialias": antialias,
            "eight_bit": eight_bit,
            "mean": MEAN,
            "std": STD,
            "reverse_channels": antialias,
        }
        wanted = np.empty((3, 48, 64), np.float32)
        _native.preprocess_into(rgb, wanted, **options)
        for dtype in (np.float32, np.float16):
            canvas = np.empty(wanted.shape, dtype)
            preprocessed(luma, chroma, (height, width), canvas, matrix=matrix, full_range=full_range, **options)
            assert canvas.tobytes() == wanted.astype(dtype).tobytes()


# -- arguments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("luma", "chroma", "options", "message"),
    [
        (np.zeros((4, 6), np.uint8), np.zeros((2, 3, 2), np.uint16), {}, "both uint8 or both uint16"),
        (np.zeros((4, 6), np.uint8), np.zeros((2, 2, 2), np.uint8), {}, r"chroma \(H / 2, W / 2, 2\)"),
        (np.zeros((4, 6, 1), np.uint8), np.zeros((2, 3, 2), np.uint8), {}, r"luma must be \(H, W\)"),
        (np.zeros((4, 12), np.uint8)[:, ::2], np.zeros((2, 3, 2), np.uint8), {}, "contiguous rows"),
        (np.zeros((5, 6), np.uint8), np.zeros((2, 3, 2), np.uint8), {}, "even height and width, got 5 x 6"),
        (np.zeros((4, 6), np.uint8), np.zeros((2, 3, 2), np.uint8), {"matrix": "bt470"}, "'bt2020', got 'bt470'"),
    ],
)
def test_wrong_frames(luma: Array, chroma: Array, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _native.yuv_to_rgb(luma, chroma, **{"matrix": "bt601", "full_range": False, **options})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (23, 32)}, "NV12 and P010 images must have an even height and width, got 23 x 32"),
        ({"size": (24, 31)}, "must have an even height and width, got 24 x 31"),
        ({"format": "yuyv"}, "'nv12' or 'p010', got 'yuyv'"),
        ({"matrix": "bt470"}, "matrix must be 'bt601', 'bt709' or 'bt2020', got 'bt470'"),
        ({"format": "p010", "row_bytes": 65}, "row distances of P010 images must be even"),
        ({"format": "p010", "chroma_row_bytes": 65}, "row distances of P010 images must be even"),
        ({"format": "p010", "pixels": 257}, "addresses and row distances of P010 images must be even"),
        ({"format": "p010", "chroma": 257}, "addresses and row distances of P010 images must be even"),
    ],
)
def test_wrong_arguments_of_the_kernel(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "format": "nv12", "pixels": 256, "row_bytes": 64, "chroma": 256, "chroma_row_bytes": 64, "size": (24, 32),
        "resized": (24, 32), "padded": (24, 32), "antialias": False, "mean": MEAN, "std": STD,
        "reverse_channels": False, "output": 256, "dtype": "float32", "scratch": 256, "scratch_bytes": 1 << 20,
        "stream": 0,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        emulated_native().preprocess(**{**arguments, **changes})
