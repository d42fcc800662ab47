"""The `retinasdk` command: what it prints and writes, and one clear line with exit status 2 for whatever goes wrong."""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import onnx
import pytest
from pictures import blocks
from PIL import Image as PillowImage

import retinasdk
from retinasdk import Detector, ModelSpec, Tiles, list_models
from retinasdk.cli.command_list import COMMANDS, SUMMARIES
from retinasdk.cli.main import build_parser, main
from retinasdk.cli.option_names import _OPTIONS, in_option_names
from retinasdk.convert.export_torch import torchvision_spec

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
        (["--overlap", "0.2"], "--overlap and --whole-image need --tiles with a size, such as --tiles 640"),
        (["--tiles", "auto", "--whole-image"], "need --tiles with a size"),
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


def test_json_replaces_an_old_file_whole_and_only_if_told_to(run: Run, photos: Path, tmp_path: Path) -> None:
    target = tmp_path / "found.json"
    target.write_text("x" * 100_000)
    status, out, err = run("detect", photos / "a.png", "--json", target)
    assert (status, out) == (2, "")
    assert f"{target}: this file exists already; add --overwrite to replace it, or choose another name\n" in err
    assert target.read_text() == "x" * 100_000
    assert run("detect", photos / "a.png", "--json", target, "--overwrite")[0] == 0
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
    head, *rows, empty, hint = out.splitlines()
    assert head.split() == ["name", "finds", "input", "AP", "size", "threshold"]
    assert (empty, hint) == ("", "'retinasdk models NAME' prints the card of a model.")
    for model, row in zip(list_models(), rows, strict=True):
        assert row.startswith(f"{model.name} ")
        assert ", ".join(model.spec.labels) in row
        assert f"{model.spec.resize.size[0]} px" in row
        average_precision, size, unit, threshold = row.split()[-4:]
        assert f"| {average_precision} |" in model.card
        assert f"{model.path.stat().st_size / 1e6:.1f} MB" == f"{size} {unit}"
        assert float(threshold) == pytest.approx(model.spec.score_threshold)
        assert len(row) <= 80


@pytest.mark.parametrize("model", list_models(), ids=lambda model: model.name)
def test_the_card_of_a_model(run: Run, model: retinasdk.BundledModel) -> None:
    assert run("models", model.name, model=None) == (0, f"{model.card.strip()}\n", "")


def test_an_unknown_model_is_told_the_names(run: Run) -> None:
    status, out, err = run("models", "peple", model=None)
    names = ", ".join(model.name for model in list_models())
    assert (status, out) == (2, "")
    said = f"no bundled model is called 'peple' (did you mean people?); the bundled models are {names}"
    assert err == f"retinasdk: error: {said}\n"


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"retinasdk {retinasdk.__version__}\n"
    for command in ([], ["detect"], ["models"], ["eval"]):
        assert main([*command, "--help"]) == 0
        assert "usage: retinasdk" in capsys.readouterr().out


def test_python_m_retinasdk_is_the_command(run_python: Any) -> None:
    shown = run_python(["-m", "retinasdk", "--help"])
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("usage: retinasdk [-h] [--version] COMMAND")
    wrong = run_python(["-m", "retinasdk", "detect"])
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.endswith("see retinasdk detect --help\n")


def subparsers() -> dict[str, argparse.ArgumentParser]:
    (action,) = (item for item in build_parser()._actions if isinstance(item, argparse._SubParsersAction))
    return dict(action.choices)


def test_the_overview_lists_every_command_with_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = build_parser().format_help().splitlines()
    assert list(subparsers()) == list(COMMANDS)
    for group in SUMMARIES.values():
        for name, summary in group.items():
            assert [line.split() for line in lines].count([name, *summary.split()]) == 1
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("    retinasdk ") for line in lines) >= 2


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    parser = subparsers()[name]
    assert parser.prog == f"retinasdk {name}"
    text = parser.format_help()
    assert max(map(len, text.splitlines())) <= 80
    assert parser.description is not None
    assert 2 <= len(re.findall(r"\.(?:\s|$)", parser.description)) <= 5
    assert parser.epilog is not None
    examples = re.findall(rf"^    retinasdk {name}\b", parser.epilog, re.MULTILINE)
    assert len(examples) >= 2
    # Only what all commands have stands outside the groups, and everything is explained.
    titles = {group.title: [action.dest for action in group._group_actions] for group in parser._action_groups}
    assert titles.pop("positional arguments") == []
    quiet = [] if name in ("doctor", "gstreamer", "models", "triton") else ["quiet"]
    assert titles.pop("options") == ["help", "verbose", *quiet]
    assert titles
    assert all(action.help for action in parser._actions)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_of_the_help_are_valid(name: str) -> None:
    epilog = subparsers()[name].epilog
    assert epilog is not None
    for found in re.findall(r"^    (retinasdk .*)$", epilog.replace("\\\n", ""), re.MULTILINE):
        _, *words = shlex.split(found.partition(" > ")[0])
        build_parser().parse_args(words)  # ends the test if it does not understand them


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
        ("detect {tmp}/empty", "empty: no images in this folder"),
        ("detect {broken}", "broken.jpg: cannot be"),
        ("detect {broken} {photo} --strict", "broken.jpg: cannot be"),
        ("detect clip.mp4", "clip.mp4: this is a video or a stream, and detect reads images; run: retinasdk live clip"),
        ("detect rtsp://camera/1", "run: retinasdk live rtsp://camera/1"),
        ("detect {photos}/notes.txt", "notes.txt: cannot be read as an image"),
        ("detect {photo} --classes persn", "unknown class 'persn'; did you mean 'person'?"),
        ("detect {photo} --classes ,", "--classes must name at least one class"),
        ("detect {photo} --score 1.5", "--score must be a number from 0 to 1, got 1.5"),
        ("detect {photo} --score nan", "--score must be a number from 0 to 1, got nan"),
        ("detect {photo} --score high", "argument --score: invalid float value: 'high'"),
        ("detect {photo} --device cuda", "device 'cuda' needs a GPU"),
        ("detect {photo} --iou 2", "--iou must be a number from 0 to 1"),
        ("detect {photo} --max-per-class 0", "--max-per-class must be an integer"),
        ("detect {photo} --device tpu", "argument --device: invalid choice: 'tpu'"),
        ("detect {photo} --model {tmp}/none.onnx", "none.onnx is not the path of a file"),
        ("detect {photo} --model {tmp}/broken.onnx", "broken.onnx: ONNX Runtime cannot load it"),
        ("detect {photo} --out {photo}", "a.png: the output folder cannot be created"),
        ("detect {photo} --out {photo}/below", "below: the output folder cannot be created"),
        ("detect {photo} --json {photo}/found.json", "a.png: no such folder to write to"),
        ("detect {photo} --json {tmp}/none/found.json", "none'"),
        ("detect {photo} --json {tmp}", "this is a folder; give the name of the file to write"),
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


def test_a_bad_picture_costs_one_line_and_that_picture(
    run: Run, place: dict[str, str], tmp_path: Path, detector: Detector
) -> None:
    target, out = tmp_path / "found.json", tmp_path / "out"
    status, printed, err = run("detect", place["broken"], place["photo"], "--json", target, "--out", out)
    assert status == 1
    assert err.startswith(f"retinasdk: error: {place['broken']}: cannot be")
    assert err.count("\n") == 1
    assert "a.png  120 x 80" in printed
    assert [item.name for item in out.iterdir()] == ["a_detections.jpg"]
    broken, good = json.loads(target.read_text())
    assert good["detections"] == detector(place["photo"]).to_dicts()
    assert "error" not in good
    assert (broken["image"], broken["detections"]) == (place["broken"], None)
    assert broken["error"] in err


def test_status_2_if_no_picture_can_be_read(run: Run, place: dict[str, str]) -> None:
    status, out, err = run("detect", place["broken"], place["broken"])
    assert (status, out, err.count("\n")) == (2, "", 2)


def test_strict_stops_at_the_first_bad_picture(run: Run, place: dict[str, str], tmp_path: Path) -> None:
    target, out = tmp_path / "found.json", tmp_path / "out"
    words = (place["photo"], place["broken"], place["photo"])
    status, printed, err = run("detect", *words, "--strict", "--json", target, "--out", out)
    assert (status, printed.count("120 x 80"), err.count("\n")) == (2, 1, 1)
    assert not target.exists()
    assert [item.name for item in out.iterdir()] == ["a_detections.jpg"]


def test_pictures_are_written_as_they_come(run: Run, photos: Path, tmp_path: Path) -> None:
    out = run("detect", photos, "--out", tmp_path / "out")[1]
    kinds = ["wrote" if line.startswith("wrote") else "found" for line in out.splitlines() if not line.startswith(" ")]
    assert kinds == ["found", "wrote"] * 3


def test_a_full_disk_leaves_the_older_picture(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert run("detect", photos / "a.png", "--out", out)[0] == 0
    before = (out / "a_detections.jpg").read_bytes()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.replace", full)
    status, _, err = run("detect", photos / "a.png", "--out", out, "--overwrite", "--score", "0.9")
    assert status == 2
    assert "No space left on device" in err
    assert (out / "a_detections.jpg").read_bytes() == before
    assert len(list(out.iterdir())) == 1


def test_a_lack_of_memory_is_a_sentence(run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr("retinasdk.cli.commands.detect._read", exhausted)
    status, out, err = run("detect", photos / "a.png")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "a.png: there is not enough memory; use smaller images, detect in parts with --tiles 640" in err
    monkeypatch.setattr("retinasdk.cli.commands.detect.Detector", exhausted)
    status, out, err = run("detect", photos / "a.png")
    assert (status, out) == (1, "")
    assert err.startswith("retinasdk: error: there is not enough memory; use smaller images")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("options", [(), ("--tiles", "64")])
def test_a_pipe_is_refused_and_not_waited_for(run: Run, tmp_path: Path, options: tuple[str, ...]) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    status, _, err = run("detect", tmp_path / "pipe.png", *options)
    assert status == 2
    assert "pipe.png is a pipe or a device, not an image file" in err


def test_escape_sequences_do_not_reach_the_terminal(
    run: Run, photos: Path, tmp_path: Path, network: onnx.ModelProto, spec: ModelSpec
) -> None:
    name = "\x1b[31m\u202eevil\x9b.png"
    shutil.copy(photos / "a.png", tmp_path / name)
    model = tmp_path / "m.onnx"
    onnx.save(network, str(model))
    spec.replace(labels=("\x1b]0;title\x07person", "chair\r", "dog")).save(model.with_suffix(".json"))
    status, out, err = run("detect", tmp_path / f"{name}.none", model=model)
    assert (status, out) == (2, "")
    assert "\\x1b[31m\\u202eevil\\x9b.png.none: no such file" in err
    status, out, err = run("detect", tmp_path / name, "--score", "0.02", model=model)
    assert (status, err) == (0, "")
    assert "\\x1b]0;title\\x07person" in out
    assert not any(character in out for character in "\x1b\x07\r\x9b\u202e")


def test_escape_sequences_in_the_log_do_not_reach_the_terminal(tmp_path: Path, photos: Path) -> None:
    """In a process of its own, because pytest sets up logging. The log tells of the spec, which has no hash."""
    bundled = list_models()[0]
    model = tmp_path / "\x1b[31m.onnx"
    shutil.copy(bundled.path, model)
    bundled.spec.replace(score_threshold=0.4).save(model.with_suffix(".json"))
    command = [sys.executable, "-m", "retinasdk", "detect", str(photos / "a.png"), "--model", str(model)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "\\x1b[31m.json" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_json_to_standard_output(run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = run("detect", photos, "--json", "-", "--out", tmp_path / "drawn")
    assert status == 0
    assert [Path(entry["image"]).name for entry in json.loads(out)] == ["a.png", "b.png", "c.bmp"]
    assert "a.png  120 x 80" in err
    assert err.count("wrote ") == 3
    assert not (tmp_path / "-").exists()


def parsed(*words: str) -> argparse.Namespace:
    return build_parser().parse_args(words)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("score_threshold must be a number from 0 to 1, got 2", "--score must be a number from 0 to 1, got 2"),
        ("classes must name at least one class", "--classes must name at least one class"),
        ("iou_threshold must be 0 to 1; leave iou_threshold=None", "--iou must be 0 to 1; leave --iou None"),
        ("give flavour='odtk' or labels=", "give flavour='odtk' or labels="),  # detect has neither
        ("a.jpg: score_threshold must be", "a.jpg: score_threshold must be"),
        ("http://x/?device=3 cannot be read", "http://x/?device=3 cannot be read"),
    ],
)
def test_errors_name_the_option_that_was_typed(message: str, said: str) -> None:
    assert in_option_names(message, parsed("detect", "a.jpg")) == said


def test_errors_of_import_name_its_options() -> None:
    arguments = parsed("import", "a.onnx", "-o", "b.onnx")
    assert in_option_names("say flavour='odtk' or labels=", arguments) == "say --flavour odtk or --labels"
    both = (
        "name them with --labels A,B (in Python: labels=[...]), or --flavour odtk (in Python: f(flavour='odtk')). End"
    )
    assert in_option_names(both, arguments) == "name them with --labels A,B, or --flavour odtk. End"
    exported = parsed("export", "torchvision:retinanet_resnet50_fpn", "-o", "b.onnx")
    assert in_option_names("give weights=FILE.pth, got classes=3", exported) == (
        "give --weights FILE.pth, got --num-classes 3"
    )


@pytest.mark.parametrize(("given", "hint"), [(["bolt", "nut"], True), (["bolt"], False)])
def test_labels_without_the_background_are_explained(given: list[str], hint: bool) -> None:
    head = SimpleNamespace(classification_head=SimpleNamespace(num_classes=3))
    with pytest.raises(ValueError, match="labels must be one name for each of the 3 classes") as raised:
        torchvision_spec(SimpleNamespace(transform=None, head=head), labels=given)
    assert ("put its name first: background,bolt,nut" in str(raised.value)) == hint


def test_every_option_of_an_error_exists() -> None:
    there = {option for parser in subparsers().values() for option in parser._option_string_actions}
    for parameter, options in _OPTIONS.items():
        assert set(options) & there, parameter


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
    status, _, err = run("detect", photos / "a.png")
    assert (status, err) == (130, "retinasdk: stopped by Ctrl-C\n")
