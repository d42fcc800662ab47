"""Progress of the command: on a terminal, in a log, with `--quiet`; and estimates of work that takes long."""

from __future__ import annotations

import contextlib
import io
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from pictures import blocks
from PIL import Image as PillowImage

from retinasdk import Progress
from retinasdk.cli import progress as module
from retinasdk.cli.main import main
from retinasdk.cli.output import print_now
from retinasdk.cli.progress import Display, duration

# Runs the command with short waits, so that a tiny model takes long enough.
PROGRAM = """
import sys
from retinasdk.cli import progress
progress._DELAY_S, progress._TICK_S, progress._LINE_SHARE = 0.0, 0.001, 0.0001
from retinasdk.cli.main import main
sys.exit(main())
"""
IMPATIENT = [sys.executable, "-W", "error", "-c", PROGRAM]
PATIENT = [*IMPATIENT[:-1], PROGRAM.replace("0.0, 0.001", "3600.0, 0.001")]


@pytest.fixture(autouse=True)
def progress_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other tests run without progress."""
    monkeypatch.delenv(module.VARIABLE)


class Terminal(io.StringIO):
    """A stream that says that it is a terminal, of 80 columns."""

    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that stands still until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock, while the thread of a display does nothing by itself."""
    monkeypatch.setattr(Display, "_run", lambda display: None)
    monkeypatch.setenv("TERM", "xterm")
    return Clock()


def play(display: Display, clock: Clock, seconds: int, speed: float = 1.0, total: int = 100) -> Iterator[int]:
    """Reports `speed` images a second, and lets the display write each second."""
    for second in range(seconds + 1):
        clock.now = float(second)
        display(Progress("detect", int(second * speed), total, "image"))
        display.tick()
        yield second


# -- lines that stay ---------------------------------------------------------------------------------------------------


def test_work_of_less_than_two_seconds_shows_nothing(clock: Clock) -> None:
    for stream in (io.StringIO(), Terminal()):
        clock.now = 0.0
        with Display(stream=stream, clock=clock) as display:
            for tenth in range(20):
                clock.now = tenth / 10
                display(Progress("detect", tenth, 20, "image"))
                display.tick()
        assert stream.getvalue() == ""


def test_a_line_after_two_seconds_then_every_ten_or_at_a_tenth(clock: Clock) -> None:
    stream = io.StringIO()
    with Display(stream=stream, clock=clock) as display:
        written = []
        for second in play(display, clock, 45, speed=0.25):
            written.append(stream.getvalue().count("\n"))
            if second == 20:  # two tenths at once
                display(Progress("detect", 25, 100, "image"))
                display.tick()
                break
    assert [second for second in range(1, 21) if written[second] > written[second - 1]] == [2, 12]
    assert stream.getvalue() == (
        "retinasdk: detect: 0%, 0 of 100 images, 2 s so far\n"
        "retinasdk: detect: 3%, 3 of 100 images, about 388 s left\n"
        "retinasdk: detect: 25%, 25 of 100 images, about 60 s left\n"
        "retinasdk: 20 s in all\n"
    ).replace("388 s", "6 min")


def test_long_work_writes_a_line_a_minute(clock: Clock) -> None:
    stream = io.StringIO()
    with Display(stream=stream, clock=clock) as display:
        for _ in play(display, clock, 3600, speed=1, total=1_000_000):
            pass
    assert stream.getvalue().count("\n") < 90
    clock.now += 0
    assert duration(51.4) == "51 s"
    assert duration(0) == "1 s"
    assert duration(720) == "12 min"
    assert duration(12_000) == "3 h 20 min"


def test_a_step_that_cannot_be_counted_says_how_long_it_runs(clock: Clock) -> None:
    stream = io.StringIO()
    with Display(stream=stream, clock=clock) as display:
        display.update("load the model")
        for clock.now in (1.0, 3.0, 5.0, 13.5):
            display.tick()
    assert stream.getvalue() == (
        "retinasdk: load the model, 3 s so far\nretinasdk: load the model, 14 s so far\nretinasdk: 14 s in all\n"
    )


def test_the_remaining_time_is_that_of_the_step(clock: Clock) -> None:
    stream = io.StringIO()
    with Display(stream=stream, clock=clock) as display:
        display.update("load the model")
        clock.now = 100.0
        display(Progress("detect", 0, 10, "image"))
        clock.now = 104.0
        display(Progress("detect", 1, 10, "image"))
        display.tick()
    assert "detect: 10%, 1 of 10 images, about 36 s left" in stream.getvalue()


def test_quiet_and_a_reader_that_has_gone(clock: Clock) -> None:
    quiet, closed = Terminal(), io.StringIO()
    with Display(quiet=True, stream=quiet, clock=clock) as display:
        list(play(display, clock, 30))
    assert quiet.getvalue() == ""
    clock.now = 0.0
    with Display(stream=closed, clock=clock) as display:
        closed.close()
        for _ in play(display, clock, 30):  # nothing is raised, as in the thread
            pass


# -- the line that is rewritten ----------------------------------------------------------------------------------------


def test_one_line_on_a_terminal_is_rewritten_and_removed(clock: Clock) -> None:
    stream = Terminal()
    with Display(stream=stream, clock=clock) as display:
        for _ in play(display, clock, 50):
            pass
        print_now("a.png  2 detections", stream)
    text = stream.getvalue()
    assert "\x1b" not in text
    line = "detect: [##########          ] 50%, 50 of 100 images, about 50 s left"
    assert f"\r{line}" in text
    assert f"\r{' ' * len(line)}\ra.png  2 detections\n\r{line}" in text
    assert text.endswith("\r" + " " * len(line) + "\r")


@pytest.mark.parametrize("columns", [30, 59, 60, 200])
def test_the_line_fits_into_the_terminal(clock: Clock, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_columns", lambda stream: columns)
    stream = Terminal()
    with Display(stream=stream, clock=clock) as display:
        for _ in play(display, clock, 5):
            pass
    assert max(map(len, stream.getvalue().split("\r"))) < columns
    assert ("[" in stream.getvalue()) == (columns >= 60)


def test_a_terminal_that_cannot_rewrite_gets_lines(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with Display(stream=stream, clock=clock) as display:
        for _ in play(display, clock, 5):
            pass
    assert "\r" not in stream.getvalue()
    assert stream.getvalue().startswith("retinasdk: detect")


# -- real commands -----------------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(6):
        PillowImage.fromarray(blocks(200, 300, seed=index)).save(folder / f"{index}.png")
    truth = {
        "images": [{"id": index, "file_name": f"{index}.png", "width": 300, "height": 200} for index in range(6)],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 50, 50], "area": 2500, "iscrowd": 0}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    return folder


COMMANDS = {
    "detect": ("detect photos --model {model}", "detect:"),
    "tiles": ("detect photos/1.png --model {model} --tiles 40", "of 60 tiles"),
    "tiles of several": ("detect photos --model {model} --tiles 40", "of 6 images and"),
    "eval": ("eval --model {model} --images photos --annotations truth.json --batch 1", "of 6 images"),
    "bench": ("bench {model} --rounds 20 --device cpu", "of 23 rounds"),
    "verify": ("verify {model} --against {copy} --device cpu --images photos", "compare:"),
    "quantize": ("quantize {model} -o int8.onnx --images photos --min-agreement 0", "sweep:"),
    "import": ("import {raw} -o imported.onnx --flavour odtk", "read the graph"),
}


@pytest.fixture
def words(
    model_path: Path, photos: Path, tmp_path: Path, network: onnx.ModelProto
) -> Callable[[str], tuple[list[str], str]]:
    """Returns the arguments of a command, and what its progress says."""
    copy, raw = tmp_path / "copy.onnx", tmp_path / "raw.onnx"
    copy.write_bytes(model_path.read_bytes())
    copy.with_suffix(".json").write_bytes(model_path.with_suffix(".json").read_bytes())
    onnx.save(network, raw)

    def call(name: str) -> tuple[list[str], str]:
        line, shown = COMMANDS[name]
        return [part.format(model=model_path, copy=copy, raw=raw) for part in line.split()], shown

    return call


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_write_lines_into_a_log(name: str, words: Callable[..., Any], tmp_path: Path) -> None:
    arguments, shown = words(name)
    result = subprocess.run([*IMPATIENT, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert any(line.startswith("retinasdk: ") and shown in line for line in result.stderr.splitlines()), result.stderr
    assert "\r" not in result.stderr
    assert "retinasdk: " not in result.stdout
    assert " so far" not in result.stdout
    assert " left" not in result.stdout


def test_quiet_and_short_work_write_nothing(words: Callable[..., Any], tmp_path: Path) -> None:
    for program, more, value in ((IMPATIENT, ["--quiet"], "1"), (IMPATIENT, [], "0"), (PATIENT, [], "1")):
        result = subprocess.run(
            [*program, *words("tiles")[0], *more],
            cwd=tmp_path,
            env={**os.environ, module.VARIABLE: value},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
@pytest.mark.parametrize("columns", [50, 100])
def test_a_line_on_a_real_terminal(words: Callable[..., Any], tmp_path: Path, columns: int) -> None:
    import fcntl
    import termios

    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    child = subprocess.Popen(
        [*IMPATIENT, *words("tiles")[0]],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "NO_COLOR": "1"},
    )
    os.close(theirs)
    text = b""
    with contextlib.suppress(OSError):  # so Linux says that there is no more
        while part := os.read(ours, 10_000):
            text += part
    os.close(ours)
    out, _ = child.communicate()
    assert child.returncode == 0
    shown = text.decode()
    assert "of 60 tiles" in shown
    assert "\x1b" not in shown
    assert "\n" not in shown
    assert max(map(len, shown.split("\r"))) < columns
    assert out.count(b"300 x 200") == 1
    assert b"\r" not in out


# -- estimates ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(model_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Detects in one picture of 300 x 200 with more options."""

    def call(*options: str) -> tuple[int, str, str]:
        status = main(["detect", str(photos / "1.png"), "--model", str(model_path), *options])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def test_many_tiles_are_announced_and_very_many_need_yes(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retinasdk.cli.tile_estimate._MANY_TILES", 50)
    monkeypatch.setattr("retinasdk.cli.tile_estimate.MOST_TILES", 100)
    assert run("--tiles", "100")[2] == ""
    status, _, err = run("--tiles", "40")
    assert status == 0
    assert "1.png: 60 tiles of 40 x 40 pixels; they take about" in err
    assert "estimated from the first" in err
    assert "tiles on this machine" in err
    assert run("--tiles", "40", "--quiet")[2] == ""
    status, out, err = run("--tiles", "30", "--quiet")
    assert (status, out) == (2, "")
    assert "would be cut into 117 tiles of 30 x 30 pixels; they take about" in err
    assert "Choose larger tiles, such as --tiles 640, or add --yes" in err
    assert run("--tiles", "30", "--yes")[0] == 0


def test_tiles_that_are_surely_a_mistake_need_yes(run: Callable[..., tuple[int, str, str]]) -> None:
    status, out, err = run("--tiles", "10")
    assert (status, out) == (2, "")
    assert "950 tiles of 10 x 10 pixels, each of which the network enlarges to 128 x 128; they take about" in err
    status, _, err = run("--tiles", "10", "--yes")
    assert status == 0
    assert "1.png: 950 tiles" in err
