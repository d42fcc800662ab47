"""What an image may be: files and Pillow images of every kind, and what is refused."""

from __future__ import annotations

import io
import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pictures import Image, blocks
from PIL import Image as PillowImage

from retinasdk import Detector, ImageError, list_images
from retinasdk.images import as_rgb
from retinasdk.live.ros import picture_of
from retinasdk.live.sources.pictures import Animation

RED, GREEN, BLUE = (200, 30, 20), (20, 180, 60), (10, 40, 220)


def png_bytes(width: int, height: int) -> bytes:
    """A PNG that promises a size and has next to no data."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def jpeg_bytes(image: Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    PillowImage.fromarray(image).save(buffer, "JPEG", **options)
    return buffer.getvalue()


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".gif", ".webp"])
def test_lossless_files_give_their_pixels(tmp_path: Path, suffix: str) -> None:
    image = blocks(20, 30)  # 36 colours: within GIF's palette
    path = tmp_path / f"image{suffix}"
    PillowImage.fromarray(image).save(path, **({"lossless": True} if suffix == ".webp" else {}))
    np.testing.assert_array_equal(as_rgb(path), image)
    np.testing.assert_array_equal(as_rgb(str(path)), image)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as an image"),
        (b"hello, this is text", "cannot be read as an image"),
        (b"\xff\xd8\xff\xe0 and then nothing", "cannot be"),
        (jpeg_bytes(blocks())[:1500], "cannot be decoded.*truncated.*check that the file is complete"),
        (jpeg_bytes(blocks())[:100], "cannot be"),
        (png_bytes(64, 64), "cannot be decoded"),
        (png_bytes(0, 0), "cannot be|at least 1 x 1"),
    ],
    ids=["empty", "text", "jpeg-start", "truncated-jpeg", "jpeg-header", "png-no-data", "png-zero"],
)
def test_broken_files(tmp_path: Path, detector: Detector, content: bytes, message: str) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message) as caught:
        detector(path)
    assert str(path) in str(caught.value)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) print\n%%EOF\n"


def test_a_program_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow gives EPS to Ghostscript, whatever the name of the file is."""
    started: list[Any] = []
    monkeypatch.setattr("subprocess.check_call", lambda *words, **options: started.append(words))
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", "gs")
    path = tmp_path / "a.jpg"
    path.write_bytes(EPS)
    message = SimpleNamespace(format="jpeg", data=EPS)
    animation = Animation(path)
    animation.open()
    for read in (lambda: as_rgb(path), lambda: as_rgb(EPS), lambda: picture_of(message), animation.read):
        with pytest.raises(ImageError, match=r"is a drawing \(EPS\).*convert it to PNG first"):
            read()
    animation.close()
    assert not started


def test_missing_files_and_folders(tmp_path: Path, detector: Detector) -> None:
    with pytest.raises(ImageError, match=r"none\.jpg: no such file; give the path of an image"):
        detector(tmp_path / "none.jpg")
    with pytest.raises(
        ImageError, match=r"is a folder, not an image file; list its images with retinasdk\.list_images"
    ):
        detector(tmp_path)
    with pytest.raises(ImageError, match="no such file"):
        detector("")


@pytest.mark.parametrize("size", [(60000, 60000), (20000, 10000), (70000, 100), (1 << 30, 1 << 30)], ids=str)
def test_decompression_bombs_are_refused_before_they_are_unpacked(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_bytes(*size))
    before = _peak_kib()
    with pytest.raises(ImageError, match=r"bomb\.png must have at most .*; cut it into parts"):
        as_rgb(path)
    assert _peak_kib() - before < 100_000


def _peak_kib() -> int:
    """The most memory this process ever had; 0 where there is no such number."""
    if not sys.platform.startswith("linux"):
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_large_photos_are_not_taken_for_bombs(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(png_bytes(10000, 10000))  # 100 megapixels, as cameras have them; only the data is missing
    with pytest.raises(ImageError, match="cannot be decoded"):
        as_rgb(path)


# -- modes -------------------------------------------------------------------------------------------------------------


def saved(tmp_path: Path, image: PillowImage.Image, name: str, **options: Any) -> Image:
    path = tmp_path / name
    image.save(path, **options)
    from_file, from_memory = as_rgb(path), as_rgb(image)
    np.testing.assert_array_equal(from_file, from_memory)
    assert (from_file.dtype, from_file.shape) == (np.uint8, (image.height, image.width, 3))
    return from_file


def test_grey(tmp_path: Path) -> None:
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
    np.testing.assert_array_equal(
        saved(tmp_path, PillowImage.fromarray(grey), "a.png"), np.repeat(grey[..., None], 3, axis=2)
    )


def test_one_bit(tmp_path: Path) -> None:
    bits = np.indices((6, 9)).sum(axis=0) % 2 == 0
    wanted = np.repeat(bits[..., None], 3, axis=2) * np.uint8(255)
    np.testing.assert_array_equal(saved(tmp_path, PillowImage.fromarray(bits), "a.png"), wanted)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_grey_keeps_the_upper_8_bits(tmp_path: Path, name: str) -> None:
    values = np.array([[0, 255, 256, 0x7FFF], [0x8000, 0xABCD, 0xFF00, 0xFFFF]], np.uint16)
    got = saved(tmp_path, PillowImage.fromarray(values), name)
    np.testing.assert_array_equal(got, np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2))


def test_cmyk(tmp_path: Path) -> None:
    cmyk = PillowImage.new("CMYK", (4, 3), (0, 255, 255, 0))
    np.testing.assert_array_equal(saved(tmp_path, cmyk, "a.tif")[1, 1], (255, 0, 0))
    cmyk.save(tmp_path / "a.jpg", quality=95)
    np.testing.assert_allclose(as_rgb(tmp_path / "a.jpg")[1, 1], (255, 0, 0), atol=4)


def _with_alpha(mode: str) -> PillowImage.Image:
    image = PillowImage.new(mode, (3, 1))
    grey = mode == "LA"
    for x, alpha in enumerate((0, 255, 128)):
        image.putpixel((x, 0), (40, alpha) if grey else (*RED, alpha))
    return image


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_lies_over_white(tmp_path: Path, mode: str) -> None:
    row = saved(tmp_path, _with_alpha(mode), "a.png")[0].astype(int)
    color = np.array((40,) * 3 if mode == "LA" else RED)
    np.testing.assert_array_equal(row[0], (255, 255, 255))
    np.testing.assert_array_equal(row[1], color)
    np.testing.assert_allclose(row[2], (color + 255) / 2, atol=2)


def _palette() -> PillowImage.Image:
    image = PillowImage.new("P", (3, 1))
    image.putpalette([*RED, *GREEN, *BLUE])
    for x in range(3):
        image.putpixel((x, 0), x)
    return image


def test_palette(tmp_path: Path) -> None:
    np.testing.assert_array_equal(saved(tmp_path, _palette(), "a.png")[0], (RED, GREEN, BLUE))


@pytest.mark.parametrize("transparency", [1, b"\xff\x00\xff"], ids=["index", "table"])
def test_palette_with_transparency(tmp_path: Path, transparency: Any) -> None:
    image = _palette()
    image.info["transparency"] = transparency
    image.save(tmp_path / "a.png", transparency=transparency)
    np.testing.assert_array_equal(as_rgb(tmp_path / "a.png")[0], (RED, (255, 255, 255), BLUE))


def test_rgb_with_a_transparent_colour(tmp_path: Path) -> None:
    image = PillowImage.fromarray(np.array([[RED, GREEN]], np.uint8))
    image.save(tmp_path / "a.png", transparency=GREEN)
    np.testing.assert_array_equal(as_rgb(tmp_path / "a.png")[0], (RED, (255, 255, 255)))


@pytest.mark.parametrize("mode", ["F", "I"])
def test_wide_modes_are_refused(detector: Detector, mode: str) -> None:
    with pytest.raises(ImageError, match=f"got Pillow mode '{mode}'; scale it to 0..255"):
        detector(PillowImage.new(mode, (8, 8)))


# -- EXIF --------------------------------------------------------------------------------------------------------------

# What a viewer does with the stored pixels, by EXIF orientation (TIFF 6.0, tag 274)
UPRIGHT: dict[int, Callable[[Image], Image]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation(tmp_path: Path, detector: Detector, orientation: int) -> None:
    image = blocks(60, 96, seed=3)
    exif = PillowImage.Exif()
    exif[274] = orientation
    path = tmp_path / "photo.png"
    PillowImage.fromarray(image).save(path, exif=exif)
    wanted = np.ascontiguousarray(UPRIGHT[orientation](image))
    np.testing.assert_array_equal(as_rgb(path), wanted)
    assert detector(path) == detector(wanted)
    with PillowImage.open(path) as opened:
        assert detector(opened) == detector(wanted)
        assert opened.size == (96, 60)  # the caller's image is not turned


@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")  # Pillow's, and worth passing on
@pytest.mark.parametrize("payload", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"])
def test_broken_exif_does_not_lose_the_picture(tmp_path: Path, payload: bytes) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg_bytes(blocks(), exif=payload))
    assert as_rgb(path).shape == (90, 120, 3)


# -- list_images -------------------------------------------------------------------------------------------------------


_PEAK = """
import sys
from retinasdk.images import as_rgb

def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))

as_rgb(sys.argv[1])  # loads Pillow
before = status("VmRSS:")
height, width, _ = as_rgb(sys.argv[2]).shape
print((status("VmHWM:") - before) / (height * width))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("kind", ["palette", "RGBA", "turned"])
def test_a_picture_costs_what_its_pixels_cost(tmp_path: Path, run_python: Any, kind: str) -> None:
    """In bytes for each pixel; they were 17 to 24. A PNG of one color has 22 KB and the largest number of pixels."""
    PillowImage.new("RGB", (8, 8)).save(tmp_path / "small.png")
    image = PillowImage.new("RGBA" if kind == "RGBA" else "RGB", (4000, 2500))
    exif = PillowImage.Exif()
    exif[274] = 6
    if kind == "palette":
        image = image.convert("P")
        image.info["transparency"] = 0
    image.save(tmp_path / "large.png", exif=exif if kind == "turned" else None)
    result = run_python(["-c", _PEAK, tmp_path / "small.png", tmp_path / "large.png"])
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 11


def test_bands_give_the_pixels_of_a_whole_conversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rgba = PillowImage.fromarray(np.dstack([blocks(50, 70), blocks(50, 70, seed=3)[..., :1]]))
    images = [rgba, *(rgba.convert(mode) for mode in ("LA", "P", "CMYK", "L", "1"))]
    whole = [as_rgb(image) for image in images]
    monkeypatch.setattr("retinasdk.images._BAND_PIXELS", 200)
    for image, pixels in zip(images, whole, strict=True):
        np.testing.assert_array_equal(as_rgb(image), pixels)


# -- arrays ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[..., 2::-1],
        lambda a: a[..., :3],
        lambda a: a[::-1, ::-1, 1:],
        lambda a: a[..., :3].transpose(1, 0, 2),
        lambda a: np.broadcast_to(a[:1, :1, :3], (7, 5, 3)),
    ],
    ids=["BGR", "RGBA without alpha", "turned", "transposed", "one pixel"],
)
def test_arrays_of_any_layout(view: Callable[[Image], Image]) -> None:
    array = np.random.default_rng(3).integers(0, 256, (20, 30, 4), dtype=np.uint8)
    read = as_rgb(view(array))
    assert read.strides[1:] == (3, 1)
    np.testing.assert_array_equal(read, view(array))
    np.testing.assert_array_equal(as_rgb(view(array), channel_order="bgr"), view(array)[..., ::-1])


def test_what_is_not_copied() -> None:
    rgb = blocks(20, 30)
    crop = rgb[3:, 4:]
    assert as_rgb(crop) is crop
    assert not np.shares_memory(as_rgb(rgb[..., ::-1]), rgb)
    kept = as_rgb(rgb, channel_order="bgr", keep_reversed=True)
    assert np.shares_memory(kept, rgb)
    np.testing.assert_array_equal(kept, rgb[..., ::-1])
    turned = as_rgb(rgb[:, ::-1], keep_reversed=True)
    assert turned.strides[1:] == (3, 1)


def test_the_cpu_copies_no_picture_of_opencv(detector: Detector) -> None:
    bgr = blocks(20, 30)
    assert np.shares_memory(detector._backend.read(bgr[..., ::-1]), bgr)


def test_list_images(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "c.txt", "d.jpeg", ".e", "é.webp"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    os.symlink(tmp_path / "gone.png", tmp_path / "broken_link.png")
    wanted = [os.path.join(tmp_path, name) for name in ("a.png", "b.JPG", "d.jpeg", "é.webp")]
    assert list_images(tmp_path) == wanted
    assert list_images(str(tmp_path)) == wanted
    assert list_images(tmp_path / "folder.png") == []


def test_list_images_of_no_folder(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="none"):
        list_images(tmp_path / "none")
