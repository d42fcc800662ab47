"""Files that are read in windows: their pixels, what is decoded whole, and memory that does not grow."""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import Image, blocks
from PIL import Image as PillowImage

from retinasdk import Detector, ImageError, MissingDependencyError, Tiles
from retinasdk.images import as_rgb
from retinasdk.tiling import windows

TILES = Tiles(100, 0.3)


@pytest.fixture(scope="module")
def image() -> Image:
    return blocks(300, 430, seed=5)


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is a large one."""
    pytest.importorskip("rasterio", reason="rasterio is not installed (the extra [large])")
    monkeypatch.setattr(windows, "WHOLE_PIXELS", 1)


FILES: dict[str, dict[str, Any]] = {
    "plain.tif": {},
    "deflate.tif": {"compression": "tiff_deflate"},
    "lzw.tif": {"compression": "tiff_lzw"},
    "photo.png": {},
}


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("name", FILES)
def test_windows_have_the_pixels_of_the_whole(
    small_windows: None, image: Image, tmp_path: Path, name: str, mode: str
) -> None:
    path = tmp_path / name
    PillowImage.fromarray(image).convert(mode).save(path, **FILES[name])
    wanted = as_rgb(path)
    with windows.open_windows(path, as_rgb) as opened:
        assert isinstance(opened, windows.FileWindows)
        assert opened.size == (300, 430)
        for top, bottom in [(0, 100), (70, 170), (70, 170), (140, 240), (240, 260), (299, 300)]:
            np.testing.assert_array_equal(opened.rows(top, bottom), wanted[top:bottom])
        np.testing.assert_array_equal(opened.whole((300, 430)), wanted)
        half = wanted.reshape(150, 2, 215, 2, 3).mean(axis=(1, 3))
        assert opened.whole((150, 215)).shape == half.shape
        assert np.abs(opened.whole((150, 215)) - half).mean() < 2


@pytest.mark.parametrize("name", ["photo.jpg", "jpeg.tif"])
def test_jpeg_comes_in_windows_where_it_cannot_be_decoded_whole(
    small_windows: None, image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    PillowImage.fromarray(image).save(tmp_path / name, quality=95, **({"compression": "jpeg"} if "tif" in name else {}))
    with windows.open_windows(tmp_path / name, as_rgb) as opened:
        assert isinstance(opened, windows.ArrayWindows)
    monkeypatch.setattr(windows, "MAX_PIXELS", 1000)
    with windows.open_windows(tmp_path / name, as_rgb) as opened:
        assert isinstance(opened, windows.FileWindows)
        difference = opened.rows(0, 300).astype(int) - as_rgb(tmp_path / name)
        assert np.abs(difference).mean() < 4


def test_detections_are_those_of_the_whole(
    detector: Detector, image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_windows: None
) -> None:
    PillowImage.fromarray(image).save(tmp_path / "image.tif")
    opened = []
    monkeypatch.setattr(windows.FileWindows, "rows", _recorded(windows.FileWindows.rows, opened))
    assert detector(tmp_path / "image.tif", tiles=TILES) == detector(image, tiles=TILES)
    assert opened == [(int(top), int(top) + 100) for top in TILES.plan(300, 430).tops]
    assert len(detector(tmp_path / "image.tif", tiles=Tiles(100, whole_image=True))) > 0


def _recorded(rows: Any, calls: list[tuple[int, int]]) -> Any:
    def call(self: Any, top: int, bottom: int) -> Any:
        calls.append((top, bottom))
        return rows(self, top, bottom)

    return call


def test_what_windows_cannot_do_is_decoded_whole(small_windows: None, image: Image, tmp_path: Path) -> None:
    rotated = PillowImage.Exif()
    rotated[0x0112] = 6
    picture = PillowImage.fromarray(image)
    picture.save(tmp_path / "rotated.jpg", exif=rotated)
    picture.save(tmp_path / "rotated.tif", exif=rotated)
    picture.save(tmp_path / "rotated.png", exif=rotated)
    picture.save(tmp_path / "upright.png")
    exif = rotated.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    upright = (tmp_path / "upright.png").read_bytes()
    (tmp_path / "rotated_behind.png").write_bytes(upright[:-12] + chunk + upright[-12:])
    (tmp_path / "upright.png").unlink()
    assert as_rgb(tmp_path / "rotated_behind.png").shape == (430, 300, 3)
    picture.convert("RGBA").save(tmp_path / "alpha.png")
    picture.convert("P").save(tmp_path / "palette.png")
    picture.convert("CMYK").save(tmp_path / "cmyk.tif")
    picture.save(tmp_path / "photo.jpg")
    picture.save(tmp_path / "photo.webp")
    for path in sorted(tmp_path.iterdir()):
        with windows.open_windows(path, as_rgb) as opened:
            assert isinstance(opened, windows.ArrayWindows), path
            np.testing.assert_array_equal(opened.rows(0, opened.size[0]), as_rgb(path))


def test_a_file_that_breaks_off(small_windows: None, detector: Detector, image: Image, tmp_path: Path) -> None:
    path = tmp_path / "broken.tif"
    PillowImage.fromarray(image).save(path, compression="tiff_deflate")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=r"broken\.tif: cannot be"):
        detector(path, tiles=TILES)


# Prints by how many MB the peak of this process's memory rises from a first image on.
PEAK = """
import pathlib, sys
from retinasdk import Detector, Tiles
import numpy as np

def peak_mb():
    return int(pathlib.Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024 / 1e6

model, image = sys.argv[1:]
with Detector(model, device="cpu") as detector:
    detector(np.zeros((1000, 1000, 3), np.uint8), tiles=Tiles(500))
    loaded = peak_mb()
    detector(image, tiles=Tiles(500, 0.1), score_threshold=0.99)
    print(peak_mb() - loaded)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
@pytest.mark.filterwarnings("ignore")  # rasterio's, of a file without a place on Earth
def test_memory_does_not_grow_with_the_image(model_path: Path, tmp_path: Path, run_python: Any) -> None:
    """243 MB of pixels through two bands of 13 MB each and 32 MB of GDAL's cache, beside GDAL itself."""
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed (the extra [large])")
    side = 9000
    options = {"driver": "GTiff", "compress": "deflate", "tiled": True, "zlevel": 1, "interleave": "pixel"}
    with rasterio.open(tmp_path / "large.tif", "w", width=side, height=side, count=3, dtype="uint8", **options) as file:
        file.write(np.broadcast_to(np.uint8(90), (3, side, side)))
    done = run_python(["-W", "ignore", "-c", PEAK, model_path, tmp_path / "large.tif"])
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 140


def test_without_rasterio(detector: Detector, image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PillowImage.fromarray(image).save(tmp_path / "image.tif")
    monkeypatch.setattr(windows, "WHOLE_PIXELS", 1)
    monkeypatch.setitem(__import__("sys").modules, "rasterio", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert detector(tmp_path / "image.tif", tiles=TILES) == detector(image, tiles=TILES)
    monkeypatch.setattr(windows, "MAX_PIXELS", 1000)  # too large to be decoded whole
    with pytest.raises(MissingDependencyError, match=r"430 x 300 pixels in windows.*pip install 'retinasdk\[large\]'"):
        detector(tmp_path / "image.tif", tiles=TILES)
