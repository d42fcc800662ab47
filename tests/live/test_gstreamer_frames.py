"""Pixels of GStreamer's frames, and the properties of the element, without GStreamer."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from retinasdk import _native
from retinasdk.live.gstreamer import register
from retinasdk.live.gstreamer.frames import PACKED, Layout
from retinasdk.live.gstreamer.options import classes_of, score_of, tiles_of
from retinasdk.tiling.grid import Tiles

HEIGHT, WIDTH = 6, 10
LUMA, CB, CR = (np.random.default_rng(3).integers(0, 256, shape, np.uint8) for shape in ((6, 10), (3, 5), (3, 5)))


def laid_out(planes: list[Any], strides: list[int], offsets: list[int]) -> bytearray:
    """Memory with the rows of the planes at these places, and noise between them."""
    ends = [offset + stride * len(plane) for plane, stride, offset in zip(planes, strides, offsets, strict=True)]
    memory = bytearray(np.random.default_rng(1).bytes(max(ends)))
    for plane, stride, offset in zip(planes, strides, offsets, strict=True):
        for number, row in enumerate(plane):
            start = offset + number * stride
            memory[start : start + row.nbytes] = row.tobytes()
    return memory


@pytest.mark.parametrize("kind", PACKED)
def test_packed_formats(kind: str) -> None:
    image = np.random.default_rng(2).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    pixels = np.full((HEIGHT, WIDTH, len(kind)), 77, np.uint8)
    for channel, letter in enumerate("RGB"):
        pixels[..., kind.index(letter)] = image[..., channel]
    memory = laid_out([pixels], [64], [5])
    layout = Layout(kind, HEIGHT, WIDTH, [5], [64])
    np.testing.assert_array_equal(layout.rgb(memory), image)
    before = bytes(memory)
    layout.paint(memory, 255 - image)
    np.testing.assert_array_equal(layout.rgb(memory), 255 - image)
    layout.paint(memory, image)
    assert bytes(memory) == before  # alpha, and what is between the rows


@pytest.mark.parametrize(
    ("kind", "planes"),
    [
        ("NV12", [LUMA, np.stack([CB, CR], -1)]),
        ("NV21", [LUMA, np.stack([CR, CB], -1)]),
        ("I420", [LUMA, CB, CR]),
        ("YV12", [LUMA, CR, CB]),
        ("P010_10LE", [LUMA.astype(np.uint16) << 8, np.stack([CB, CR], -1).astype(np.uint16) << 8]),
    ],
)
@pytest.mark.parametrize(("matrix", "full_range"), [("bt601", False), ("bt2020", True)])
def test_planar_formats(kind: str, planes: list[Any], matrix: str, full_range: bool) -> None:
    strides, offsets = [32, 26, 18][: len(planes)], [8, 240, 330][: len(planes)]
    layout = Layout(kind, HEIGHT, WIDTH, offsets, strides, matrix, full_range)
    wide = kind.startswith("P010")
    luma, pairs = (item.astype(np.uint16) << 8 if wide else item for item in (LUMA, np.stack([CB, CR], -1)))
    expected = _native.yuv_to_rgb(luma, pairs, matrix=matrix, full_range=full_range)
    np.testing.assert_array_equal(layout.rgb(laid_out(planes, strides, offsets)), expected)


def test_grey() -> None:
    memory = laid_out([LUMA], [12], [3])
    np.testing.assert_array_equal(Layout("GRAY8", HEIGHT, WIDTH, [3], [12]).rgb(memory), np.stack([LUMA] * 3, axis=-1))


def test_memory_that_is_too_small() -> None:
    with pytest.raises((TypeError, ValueError), match="incompatible with shape of requested array and size of buffer"):
        Layout("RGB", HEIGHT, WIDTH, [0], [30]).rgb(bytearray(6 * 30 - 1))


def test_properties() -> None:
    assert (score_of(""), score_of("0.5"), score_of("person=0.5, dog=0.3")) == (None, 0.5, {"person": 0.5, "dog": 0.3})
    assert (classes_of(""), classes_of("person, dog")) == (None, ["person", "dog"])
    assert (tiles_of(""), tiles_of("auto"), tiles_of("640")) == (None, "auto", Tiles(640))
    assert tiles_of("480x640") == Tiles((480, 640))
    for wrong in ("x", "1x2x3", "-4"):
        with pytest.raises(ValueError, match="tiles must be pixels"):
            tiles_of(wrong)
    for wrong in ("high", "person=high"):
        with pytest.raises(ValueError, match="score must be a number"):
            score_of(wrong)


def test_without_bindings_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gi", None)
    with pytest.raises(ImportError, match="apt install python3-gi python3-gst"):
        register()
