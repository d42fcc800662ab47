"""Images as arrays: every memory layout, other shapes and types, and that no input is ever modified."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import Image, blocks
from PIL import Image as PillowImage

from retinasdk import Detector, ImageError
from retinasdk.images import MAX_SIDE


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.zeros((8, 8, 3), np.float32),
            r"\(H, W, 3\) uint8, got \(8, 8, 3\) float32; multiply values of 0..1 by 255",
        ),
        (np.zeros((8, 8, 3), np.float64), "float64; multiply"),
        (np.zeros((8, 8, 3), np.int64), r"int64; convert values of 0..255 with image.astype\('uint8'\)"),
        (np.zeros((8, 8, 3), np.uint16), r"uint16; convert values of 0..65535 with \(image >> 8\).astype\('uint8'\)"),
        (np.zeros((8, 8, 3), bool), "bool; multiply it by 255 and convert it with .astype"),
        (np.zeros((8, 8, 1), np.uint8), r"got \(8, 8, 1\) uint8; pass a grey image as \(H, W\): image\[..., 0\]"),
        (np.zeros((3, 8, 8), np.uint8), r"got \(3, 8, 8\) uint8; pass RGB with channels last"),
        (np.full((8, 8, 3), 200, np.float32), "values of 0..255"),
        (np.full((8, 8, 3), np.nan, np.float32), "values of 0..1 by 255"),
        (np.broadcast_to(np.float32(200), (1 << 16,) * 3), "pass RGB with channels last"),  # Reading it takes hours.
        (np.zeros((8, 8, 4), np.uint8), "drop the alpha channel"),
        (np.zeros((1, 8, 8, 3), np.uint8), r"got \(1, 8, 8, 3\)"),
        (np.zeros(3, np.uint8), r"got \(3,\)"),
        (np.uint8(3)[()] * np.ones((), np.uint8), r"got \(\)"),
        (np.array([["a"]]), "image must be"),
    ],
)
def test_wrong_arrays(detector: Detector, array: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        detector(array)


@pytest.mark.parametrize("shape", [(0, 8, 3), (8, 0, 3), (0, 0, 3)])
def test_empty_arrays(detector: Detector, shape: tuple[int, ...]) -> None:
    with pytest.raises((ImageError, ValueError), match="at least 1 x 1 pixels"):
        detector(np.zeros(shape, np.uint8))


def test_sides_over_the_limit(detector: Detector) -> None:
    line = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (1, MAX_SIDE + 1, 3))
    with pytest.raises((ImageError, ValueError), match="cut it into parts"):
        detector(line)
    huge = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (40000, 40000, 3))
    with pytest.raises((ImageError, ValueError), match="cut it into parts"):
        detector(huge)


@pytest.mark.parametrize(
    "item", [None, 5, object(), {"a": 1}, iter(())], ids=["none", "number", "object", "dict", "iterator"]
)
def test_things_that_are_no_image(detector: Detector, item: Any) -> None:
    with pytest.raises(TypeError, match="image must be a path, a PIL image or an RGB uint8 array"):
        detector(item)


def test_bytes_and_file_objects_are_files(detector: Detector) -> None:
    file = io.BytesIO()
    PillowImage.fromarray(blocks()).save(file, "JPEG")
    file.seek(0)
    with PillowImage.open(io.BytesIO(file.getvalue())) as picture:
        expected = detector(picture)
    for image in (file.getvalue(), file, file):  # a file object is rewound
        assert detector(image) == expected
    for nothing in (b"photo.jpg", io.BytesIO()):
        with pytest.raises(ImageError, match="cannot be read as an image"):
            detector(nothing)


def test_grey_arrays(detector: Detector) -> None:
    grey = blocks()[..., 0]
    expected = detector(np.repeat(grey[..., None], 3, axis=2))
    assert detector(grey) == detector(grey.astype(np.uint16) * 256 + 255) == expected
    assert detector(grey, tiles=64) == detector(np.repeat(grey[..., None], 3, axis=2), tiles=64)


LAYOUTS: dict[str, Callable[[Image], Image]] = {
    "crop": lambda a: a[10:70, 20:100],
    "every second row": lambda a: a[::2],
    "every second column": lambda a: a[:, ::2],
    "upside down": lambda a: a[::-1],
    "mirrored": lambda a: a[:, ::-1],
    "BGR view": lambda a: a[..., ::-1],
    "transposed": lambda a: a.transpose(1, 0, 2),
    "Fortran order": np.asfortranarray,
    "planar": lambda a: np.ascontiguousarray(a.transpose(2, 0, 1)).transpose(1, 2, 0),
    "repeated row": lambda a: np.broadcast_to(a[:1], a.shape),
    "RGB of RGBA": lambda a: np.dstack([a, a[..., :1]])[..., :3],
    "one pixel wide": lambda a: np.zeros((40, 3, 1), np.uint8).transpose(0, 2, 1),
    "one pixel": lambda a: a[::1000, ::1000],
    "one row": lambda a: a[5:6],
    "one column": lambda a: a[:, 5:6],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layout_does_not_matter(detector: Detector, layout: str) -> None:
    view = LAYOUTS[layout](blocks())
    plain = np.array(view.tolist(), np.uint8).reshape(view.shape)
    assert detector(view) == detector(plain)


def test_read_only_and_array_likes(detector: Detector) -> None:
    image = blocks()
    wanted = detector(image)
    read_only = image.copy()
    read_only.setflags(write=False)
    assert detector(read_only) == wanted

    class Tensor:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Image:
            return image

    assert detector(Tensor()) == wanted  # type: ignore[arg-type]
    assert detector(image.view(np.recarray)) == wanted


def test_input_is_never_modified(detector: Detector) -> None:
    image = blocks()
    views = [image, image[::-1], image[10:50, 10:60]]
    picture = PillowImage.fromarray(image).convert("RGBA")
    before, pixels = image.copy(), picture.tobytes()
    detector(views)
    detector(picture)
    detector(views[1]).draw(views[1])
    np.testing.assert_array_equal(image, before)
    assert (picture.mode, picture.tobytes()) == ("RGBA", pixels)


def test_channels_first_and_videos_say_what_to_do(detector: Detector, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"image\.transpose\(1, 2, 0\)"):
        detector(np.zeros((3, 8, 8), np.uint8))
    (tmp_path / "clip.mp4").write_bytes(b"video")
    with pytest.raises(ImageError, match=r"is a video.*retinasdk\.stream.*retinasdk live"):
        detector(tmp_path / "clip.mp4")
