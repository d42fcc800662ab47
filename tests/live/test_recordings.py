"""Films that a kill, a full disk or Ctrl-C cut short can be played up to there."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

av = pytest.importorskip("av", reason="needs PyAV (retinasdk[video])")

FPS = 20
# It says how many images it has given to the writer, and ends only by a signal or an error.
RECORD = """
import itertools, resource, sys
import numpy as np
from PIL import Image
from retinasdk.live.video_writer import VideoWriter

path, fps, limit = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
noise = np.random.default_rng(0)
with VideoWriter(path) as writer:
    for number in itertools.count():
        picture = np.full((96, 128, 3), 40 + number % 170, np.uint8)
        picture[:32, :32] = noise.integers(0, 255, (32, 32, 3))
        writer.add(Image.fromarray(picture), number / fps)
        print(number + 1, flush=True)
"""


def record(path: Path, images: int, stop: signal.Signals | None = None, *, fps: float = FPS, limit: int = 0) -> str:
    """Records until so many images were written, sends the signal, and returns what was said on standard error."""
    command = [sys.executable, "-c", RECORD, str(path), str(fps), str(limit)]
    # A signal that is ignored in the background of a shell must not be ignored here.
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if stop is not None and int(line) == images:
                process.send_signal(stop)
                break
        assert process.stderr is not None
        return process.stderr.read()


def count_frames(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def count_frames_of_opencv(path: Path) -> int:
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV")
    capture, count = cv2.VideoCapture(str(path)), 0
    while capture.read()[0]:
        count += 1
    return count


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.m4v"])
@pytest.mark.parametrize("images", [25, 97])
def test_after_a_kill_at_most_the_last_second_is_missing(tmp_path: Path, name: str, images: int) -> None:
    path = tmp_path / name
    record(path, images, signal.SIGKILL)
    assert count_frames(path) >= images - FPS
    assert count_frames_of_opencv(path) == count_frames(path)
    assert [item.name for item in tmp_path.iterdir()] == [name]


def test_a_slow_camera_loses_its_last_images_only(tmp_path: Path) -> None:
    """One image in two seconds: nothing is held back until there are enough of them."""
    record(tmp_path / "a.mp4", 12, signal.SIGKILL, fps=0.5)
    assert count_frames(tmp_path / "a.mp4") >= 10


def test_an_interrupted_film_is_complete(tmp_path: Path) -> None:
    err = record(tmp_path / "a.mp4", 30, signal.SIGINT)
    assert "KeyboardInterrupt" in err
    assert count_frames(tmp_path / "a.mp4") >= 30
    # The index of all fragments, which players need to jump, is written at the end.
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.duration / 1e6 == pytest.approx(count_frames(tmp_path / "a.mp4") / FPS, abs=0.1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a limit on the size of files")
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_full_disk_leaves_what_was_recorded(tmp_path: Path, name: str) -> None:
    err = record(tmp_path / name, 0, limit=100_000)
    assert "File too large" in err
    assert (tmp_path / name).stat().st_size <= 100_000
    count = 0
    with contextlib.suppress(av.error.InvalidDataError), av.open(str(tmp_path / name)) as container:
        for _ in container.decode(video=0):
            count += 1  # The last one may be cut in two.
    assert count > FPS
