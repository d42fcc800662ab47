"""The `retinasdk` command: what it prints and writes, and one clear line with exit status 2 for whatever goes wrong."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from pictures import blocks
from PIL import Image as PillowImage

import retinasdk
from retinasdk import Detector, Tiles, list_models
from retinasdk.cli.main import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, name in enumerate(("a.png", "b.png", "c.bmp")):
        PillowImage.fromarray(blocks(80 + 10 * index, 120, seed=index)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def run(model_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """run("detect", ...) calls the command in this process, with the tiny model, and gives status, stdout, stderr."""

    def call(*arguments: str | Path, model: str | Path | None = model_path) -> tuple[int, str, str]:
        status = main([*map(str, arguments), *(["--model", str(model)] if model else [])])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


# -- detect ------------------------------------------------------------------------------------------------------------


def test_detect_prints_each_object(run: Run, photos: Path, detector: Detector) -> None:
    status, out, err = run("detect", photos / "a.png")
    wanted = detector(photos / "a.png")
    assert (status, err) == (0, "")
    assert 0 < len(wanted) <= 20
    title, *rows = out.splitlines()
    assert title == f"{photos / 'a.png'}  120 x 80  {len(wanted)} detections"
    assert [row.split()[:2] for row in rows] == [[f"{item.score:.2f}", item.label] for item in wanted]


def test_detect_prints_counts_of_many(run: Run, photos: Path, detector: Detector) -> None:
    status, out, _ = run("detect", photos / "a.png", "--score", "0.02")
    wanted = detector(photos / "a.png", score_threshold=0.02)
    counts = {row.split()[2]: int(row.split()[0]) for row in out.splitlines()[1:]}
    assert status == 0
    assert counts == {name: wanted.names.tolist().count(name) for name in set(wanted.names)}


@pytest.mark.parametrize(
    ("options", "tiles"),
    [
        (["--tiles", "100"], Tiles(100)),
        (["--tiles", "90x120", "--overlap", "0.3", "--whole-image"], Tiles((90, 120), 0.3, whole_image=True)),
        (["--tiles", "100", "--overlap", "25"], Tiles(100, 25)),
        (["--tiles", "auto"], "auto"),
    ],
)
def test_detect_by_tiles(
    run: Run, tmp_path: Path, detector: Detector, options: list[str], tiles: Tiles | Literal["auto"]
) -> None:
    image = blocks(300, 430, seed=5)
    PillowImage.fromarray(image).save(tmp_path / "large.png")
    status, out, err = run("detect", tmp_path / "large.png", *options, "--json", tmp_path / "found.json")
    assert (status, err) == (0, "")
    wanted = detector(image, tiles=tiles)
    entry = json.loads((tmp_path / "found.json").read_text())[0]
    assert (entry["height"], entry["width"]) == (300, 430)
    assert entry["detections"] == wanted.to_dicts()
    assert out.startswith(f"{tmp_path / 'large.png'}  430 x 300  {len(wanted)} detections")


def test_detect_in_windows_draws_a_smaller_picture(
    run: Run, tmp_path: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rasterio", reason="rasterio is not installed (the extra [large])")
    image = blocks(300, 430, seed=5)
    PillowImage.fromarray(image).save(tmp_path / "large.tif")
    monkeypatch.setattr("retinasdk.tiling.windows.WHOLE_PIXELS", 1000)
    monkeypatch.setattr("retinasdk.cli.commands.detect._PICTURE_SIDE", 215)
    assert (
        run("detect", tmp_path / "large.tif", "--tiles", "100", "--out", tmp_path, "--json", tmp_path / "f.json")[0]
        == 0
    )
    assert (
        json.loads((tmp_path / "f.json").read_text())[0]["detections"] == detector(image, tiles=Tiles(100)).to_dicts()
    )
    with PillowImage.open(tmp_path / "large_detections.jpg") as picture:
        assert picture.size == (215, 150)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--overlap", "0.2"], "--overlap and --whole-image belong to --tiles with a size, such as --tiles 640"),
        (["--tiles", "auto", "--whole-image"], "belong to --tiles with a size"),
        (["--tiles", "100", "--overlap", "100"], "overlap must be a share of the tile"),
        (["--tiles", "0"], "a tile's sides must be 1 to 16384 pixels, got 0"),
    ],
)
def test_tiles_that_cannot_be(run: Run, photos: Path, options: list[str], message: str) -> None:
    status, out, err = run("detect", photos / "a.png", *options)
    assert (status, out) == (2, "")
    assert message in err


def test_detect_says_so_when_there_is_nothing(run: Run, photos: Path) -> None:
    assert run("detect", photos / "a.png", "--score", "1") == (0, f"{photos / 'a.png'}  120 x 80  0 detections\n", "")


def test_json_is_what_the_api_gives(run: Run, photos: Path, tmp_path: Path, detector: Detector) -> None:
    target = tmp_path / "found.json"
    status, _, err = run("detect", photos, photos / "a.png", "--json", target)
    entries = json.loads(target.read_text())
    assert (status, err) == (0, "")
    assert [Path(entry["image"]).name for entry in entries] == ["a.png", "b.png", "c.bmp", "a.png"]
    for entry in entries:
        image = PillowImage.open(entry["image"])
        assert (entry["width"], entry["height"]) == image.size
        assert entry["detections"] == detector(image).to_dicts()
    assert list(entries[0]) == ["image", "width", "height", "detections"]
    assert set(entries[0]["detections"][0]) == {"label", "class_id", "score", "xyxy"}


def test_options_reach_the_detector(run: Run, photos: Path, tmp_path: Path, detector: Detector) -> None:
    target = tmp_path / "found.json"
    options = ("--score", "0.1", "--classes", "dog, person", "--device", "cpu", "--json", target)
    assert run("detect", photos / "a.png", *options)[0] == 0
    wanted = detector(photos / "a.png", score_threshold=0.1, classes=["dog", "person"])
    assert json.loads(target.read_text())[0]["detections"] == wanted.to_dicts()
    assert len(wanted) > 0


def test_json_replaces_an_old_file_whole(run: Run, photos: Path, tmp_path: Path) -> None:
    target = tmp_path / "found.json"
    target.write_text("x" * 100_000)
    assert run("detect", photos / "a.png", "--json", target)[0] == 0
    assert len(json.loads(target.read_text())) == 1
    assert sorted(item.name for item in tmp_path.iterdir()) == ["found.json", "photos"]


def test_marked_pictures(run: Run, photos: Path, tmp_path: Path, detector: Detector) -> None:
    out = tmp_path / "new" / "folder"
    status, printed, _ = run("detect", photos, "--out", out)
    assert status == 0
    assert sorted(item.name for item in out.iterdir()) == [f"{name}_detections.jpg" for name in "abc"]
    assert printed.count("wrote ") == 3
    marked = np.asarray(PillowImage.open(out / "a_detections.jpg")).astype(int)
    wanted = np.asarray(detector(photos / "a.png").draw(photos / "a.png")).astype(int)
    assert marked.shape == wanted.shape
    assert np.abs(marked - wanted).mean() < np.abs(marked - blocks(80, 120)).mean()


def test_marked_pictures_never_replace_a_source_or_each_other(run: Run, tmp_path: Path) -> None:
    names = ["a.png", "a.bmp", "a_2.png", "a_detections.jpg", "a_2_detections.jpg"]
    for index, name in enumerate(names):
        PillowImage.fromarray(blocks(40, 60, seed=index)).save(tmp_path / name)
    before = {name: (tmp_path / name).read_bytes() for name in names}
    assert run("detect", tmp_path, "--out", tmp_path)[0] == 0
    assert {name: (tmp_path / name).read_bytes() for name in names} == before
    assert len(list(tmp_path.iterdir())) == 2 * len(names)


def test_default_model_is_people(run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        "retinasdk.cli.commands.detect.Detector", lambda model, **options: asked.append(model) or Detector(model)
    )
    run("detect", photos / "a.png", model=None)
    assert asked == [None]
    assert retinasdk.models.DEFAULT_MODEL == "people"


# -- models, version, help ---------------------------------------------------------------------------------------------


def test_models(run: Run) -> None:
    status, out, err = run("models", model=None)
    assert (status, err) == (0, "")
    for model in list_models():
        assert model.name in out
        assert model.card.strip().splitlines()[0] in out


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"retinasdk {retinasdk.__version__}\n"
    for command in ([], ["detect"], ["models"], ["eval"]):
        assert main([*command, "--help"]) == 0
        assert "usage: retinasdk" in capsys.readouterr().out


def test_installed_command_and_module(run_python: Any, photos: Path, model_path: Path) -> None:
    command = shutil.which("retinasdk", path=sysconfig.get_path("scripts"))
    assert command is not None
    options = ["detect", str(photos / "a.png"), "--model", str(model_path)]
    by_name = subprocess.run([command, *options], capture_output=True, text=True, check=False)
    by_module = run_python(["-m", "retinasdk.cli.main", *options])
    assert (by_name.returncode, by_name.stderr) == (0, "")
    assert (by_module.returncode, by_module.stderr) == (0, "")
    assert by_name.stdout == by_module.stdout
    assert "detections" in by_name.stdout
    missing = subprocess.run([command, "detect", "none.jpg"], capture_output=True, text=True, check=False)
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr == "retinasdk: error: none.jpg: no such file or folder\n"


# -- the progress bar --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
@pytest.mark.parametrize(("count", "shown"), [(8, True), (2, False)])
def test_progress_bar_on_a_terminal(tmp_path: Path, model_path: Path, count: int, shown: bool) -> None:
    import fcntl
    import termios

    for index in range(count):
        PillowImage.fromarray(blocks(40, 60, seed=index)).save(tmp_path / f"{index}.png")
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    program = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "retinasdk.cli.main",
        "detect",
        str(tmp_path),
        "--model",
        str(model_path),
    ]
    result = subprocess.run(program, cwd=tmp_path, stdout=subprocess.PIPE, stderr=theirs, check=False)
    os.close(theirs)
    text = b""
    with contextlib.suppress(OSError):  # so Linux says that there is no more
        while part := os.read(ours, 10_000):
            text += part
    os.close(ours)
    assert result.returncode == 0
    assert (f"{count}/{count}" in text.decode()) == shown
    assert shown or text == b""
    assert result.stdout.count(b"60 x 40") == count


def test_no_progress_bar_in_a_log(run: Run, tmp_path: Path) -> None:
    for index in range(8):
        PillowImage.fromarray(blocks(40, 60, seed=index)).save(tmp_path / f"{index}.png")
    status, _, err = run("detect", tmp_path)
    assert (status, err) == (0, "")


# -- whatever goes wrong -----------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, photos: Path) -> dict[str, str]:
    """Names for the arguments below."""
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 broken")
    (tmp_path / "broken.onnx").write_bytes(b"broken")
    (tmp_path / "empty").mkdir()
    return {"photo": str(photos / "a.png"), "photos": str(photos), "tmp": str(tmp_path), "broken": str(broken)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("detect {tmp}/none.jpg", "none.jpg: no such file or folder"),
        ("detect {tmp}/empty", "empty: wanted a folder with images, found none"),
        ("detect {photo} {broken}", "broken.jpg: cannot be"),
        ("detect {photos}/notes.txt", "notes.txt: cannot be read as an image"),
        ("detect {photo} --classes persn", "unknown class 'persn'; did you mean 'person'?"),
        ("detect {photo} --classes ,", "classes must name at least one class"),
        ("detect {photo} --score 1.5", "score_threshold must be a number from 0 to 1, got 1.5"),
        ("detect {photo} --score nan", "score_threshold must be a number from 0 to 1, got nan"),
        ("detect {photo} --score high", "argument --score: invalid float value: 'high'"),
        ("detect {photo} --device cuda", "device 'cuda' needs a GPU"),
        ("detect {photo} --device tpu", "argument --device: invalid choice: 'tpu'"),
        ("detect {photo} --model {tmp}/none.onnx", "none.onnx is not the path of a file"),
        ("detect {photo} --model {tmp}/broken.onnx", "broken.onnx: ONNX Runtime cannot load it"),
        ("detect {photo} --out {photo}", "a.png: wanted a folder to write to"),
        ("detect {photo} --out {photo}/below", "below: wanted a folder to write to"),
        ("detect {photo} --json {photo}/found.json", "a.png: wanted a folder that can be written to"),
        ("detect {photo} --json {tmp}/none/found.json", "none: wanted a folder that can be written to; make it"),
        ("detect {photo} --json {tmp}", "wanted the name of a file to write, got a folder"),
        ("detect", "required: IMAGE"),
        ("detect {photo} --colour red", "unrecognized arguments: --colour red"),
        ("find {photo}", "invalid choice: 'find'"),
        ("", "required: COMMAND"),
        ("eval --images {photos}", "required: --annotations"),
        ("eval --images {photos} --annotations {tmp}/none.json", "cannot read the annotations"),
        ("eval --images {photos} --annotations {photo}", "a.png"),
    ],
)
def test_one_line_and_status_2(
    place: dict[str, str],
    model_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    message: str,
) -> None:
    words = [word.format(**place) for word in arguments.split()]
    if words and words[0] in ("detect", "eval") and "--model" not in words:
        words += ["--model", str(model_path)]
    status = main(words)
    captured = capsys.readouterr()
    assert (status, captured.out) == (2, "")
    assert captured.err.startswith("retinasdk: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_nothing_is_written_when_an_image_fails(run: Run, place: dict[str, str], tmp_path: Path) -> None:
    target, out = tmp_path / "found.json", tmp_path / "out"
    status, _, _ = run("detect", place["photo"], place["broken"], "--json", target, "--out", out)
    assert status == 2
    assert not target.exists()
    assert not out.exists() or list(out.iterdir()) == []


def test_bugs_are_not_hidden(run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **options: Any) -> Any:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("retinasdk.cli.commands.detect.Detector", broken)
    with pytest.raises(ZeroDivisionError):
        run("detect", photos / "a.png")


def test_interruption(run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("retinasdk.cli.commands.detect.Detector", interrupted)
    assert run("detect", photos / "a.png")[0] == 130
