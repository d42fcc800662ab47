"""Runs the real package pynvvideocodec, where it is installed, over a driver that needs no GPU."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from clips import encode
from paths import ROOT

_DRIVER = ROOT / "tests" / "support" / "video_driver"
_LIBRARIES = ("libcuda.so.1", "libnvcuvid.so.1", "libnvidia-encode.so.1")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the driver's libraries."""
    if importlib.util.find_spec("PyNvVideoCodec") is None:
        pytest.skip("needs pynvvideocodec")
    compiler = shutil.which("cc")
    header = b"#include <ffnvcodec/dynlink_nvcuvid.h>\n"
    found = compiler and subprocess.run([compiler, "-E", "-"], input=header, capture_output=True, check=False)
    if compiler is None or not found or found.returncode != 0:
        pytest.skip("needs a C compiler and NVIDIA's headers: apt install libffmpeg-nvenc-dev")
    folder = tmp_path_factory.mktemp("driver")
    for name in _LIBRARIES:
        options = ["-shared", "-fPIC", "-O1", f"-Wl,-soname,{name}", "-o", str(folder / name)]
        subprocess.run([compiler, *options, str(_DRIVER / "driver.c")], check=True)
    return folder


@pytest.mark.parametrize(
    ("codec", "bits", "width", "height"), [("libx264", 8, 64, 48), ("libx264", 8, 62, 46), ("libx265", 10, 64, 48)]
)
def test_frames_of_the_real_package(
    driver: Path, tmp_path: Path, codec: str, bits: int, width: int, height: int
) -> None:
    pixel_format = "yuv420p" if bits == 8 else "yuv420p10le"
    clip = encode(tmp_path / "clip.mp4", codec=codec, pixel_format=pixel_format, size=(height, width), reordered=False)
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "LD_LIBRARY_PATH": str(driver), "VIDEO_WIDTH": str(width),
        "VIDEO_HEIGHT": str(height), "VIDEO_BITS": str(bits),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(_DRIVER / "decode.py"), str(clip)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok 2." in done.stdout
