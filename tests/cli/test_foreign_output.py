"""Standard error of the command, at the level of file descriptors: its own lines, and nothing of other libraries."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pictures import blocks
from PIL import Image

# Writes as a native library does, then as the command does.
NOISE = """
import logging, os, sys, warnings
from retinasdk.cli import foreign_output
if not foreign_output.is_wanted():
    foreign_output.silence()
os.write(2, b"native\\n")
warnings.warn("warning")
logging.getLogger("other").warning("log")
print("ours", file=sys.stderr)
"""


def run(program: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *program],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(
    ("words", "variable", "is_shown"),
    [([], "", False), ([], "0", False), ([], "1", True), (["live", "--verbose"], "", True)],
)
def test_what_other_libraries_write(tmp_path: Path, words: list[str], variable: str, is_shown: bool) -> None:
    err = run(["-c", NOISE, *words], tmp_path, RETINASDK_VERBOSE=variable).stderr
    assert err.splitlines()[-1] == "ours"
    assert err == "ours\n" or is_shown
    for text in ("native", "warning", "log"):
        assert (text in err) == is_shown


def test_a_crash_in_native_code_is_still_reported(tmp_path: Path) -> None:
    program = "from retinasdk.cli import foreign_output; foreign_output.silence(); import os; os.abort()"
    result = run(["-c", program], tmp_path)
    assert result.returncode != 0
    assert "Fatal Python error: Aborted" in result.stderr


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder with films that end in the middle, and files that are none."""
    av = pytest.importorskip("av", reason="needs PyAV (retinasdk[video])")
    for name, codec in (("clip.ts", "libx264"), ("clip.avi", "mjpeg"), ("clip.mp4", "libx264")):
        with av.open(str(tmp_path / name), "w") as container:
            output = container.add_stream(codec, rate=25)
            output.width, output.height = 128, 96
            output.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for number in range(30):
                frame = av.VideoFrame.from_ndarray(blocks(96, 128, seed=number), format="rgb24")
                container.mux(output.encode(frame.reformat(format=output.pix_fmt)))
            container.mux(output.encode(None))
        data = bytearray((tmp_path / name).read_bytes())
        for place in range(len(data) // 3, len(data), 997):
            data[place] ^= 0x55
        (tmp_path / name).write_bytes(data[: len(data) * 9 // 10])
    (tmp_path / "notes.mkv").write_text("no video")
    (tmp_path / "cut.gif").write_bytes(b"GIF89a" + bytes(20))
    Image.fromarray(blocks()).save(tmp_path / "whole.png")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.png").read_bytes()[:300])
    return tmp_path


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("clip.ts", 0),
        ("clip.avi", 0),
        ("clip.mp4", 2),
        ("notes.mkv", 2),
        ("cut.gif", 2),
        ("/dev/video97", 2),
        ("/dev/null", 2),  # OpenCV tries to open it, and prints why that fails
        ("rtsp://127.0.0.1:1/live", 2),
        ("http://camera.invalid/live", 2),
    ],
)
def test_only_lines_of_our_own(broken: Path, model_path: Path, source: str, status: int) -> None:
    if source.startswith("/dev/"):
        pytest.importorskip("cv2", reason="needs OpenCV")
    words = ["live", source, "--model", str(model_path), "--device", "cpu", "--jsonl", "found.jsonl"]
    result = run(["-m", "retinasdk", *words, "--save", "marked.mp4"], broken)
    lines = result.stderr.splitlines()
    assert result.returncode == status, result.stderr
    problems = [line for line in lines if line.startswith("retinasdk: error: ")]
    warnings = [line for line in lines if line.startswith(f"retinasdk: warning: {source}: corrupt frame: ")]
    assert lines == [*warnings, *problems]
    assert len(problems) == (status != 0)


def test_one_line_for_each_picture_that_cannot_be_read(broken: Path, model_path: Path) -> None:
    result = run(["-m", "retinasdk", "detect", "half.jpg", "whole.png", "--model", str(model_path)], broken)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "half.jpg" in result.stderr
