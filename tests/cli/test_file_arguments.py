"""No output replaces an input, a model or another output, for every command that the parser has."""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retinasdk.cli.arguments import labels
from retinasdk.cli.file_arguments import Input, Output
from retinasdk.cli.main import build_parser, main

_COMMANDS: dict[str, argparse.ArgumentParser] = dict(
    next(item for item in build_parser()._actions if isinstance(item, argparse._SubParsersAction)).choices
)
# Arguments of type text that name no file. A new one has to be declared as Input or Output, or be listed here.
_NO_FILES = {"box_head", "metrics", "metrics_token", "name", "policy", "resize", "web", "web_token"}


def _arguments(command: str, kind: type[argparse.Action]) -> list[Any]:
    return [action for action in _COMMANDS[command]._actions if isinstance(action, kind)]


def _pairs() -> Iterator[tuple[str, Any, Any]]:
    for command in _COMMANDS:
        for pair in itertools.product(_arguments(command, Output), _arguments(command, Input)):
            yield command, *pair


_PAIRS = list(_pairs())


def _line(command: str, chosen: list[tuple[Any, Path]], folder: Path) -> list[str]:
    """A command line that has the chosen arguments and those that the command requires."""
    given = {action.dest for action, _ in chosen}
    required = [action for action in _COMMANDS[command]._actions if action.required and action.dest not in given]
    values = [
        *((action, next(iter(action.choices or [folder / f"{action.dest}.onnx"]))) for action in required),
        *chosen,
    ]
    return [command, *(word for action, value in values for word in (*action.option_strings[-1:], str(value)))]


def _written(output: Output, folder: Path) -> Path:
    """A file that the command writes, if this argument is given in this folder, and "picture.onnx" is detected in."""
    names = {"report": "index.html", "out": "images_detections.jpg", "repository": "model/1/model.onnx"}
    return folder / names[output.dest] if output.is_folder else folder / "old.onnx"


def test_every_argument_that_may_name_a_file_is_declared() -> None:
    for command, parser in _COMMANDS.items():
        for action in parser._actions:
            takes_text = action.nargs != 0 and action.choices is None and action.type in (None, Path, labels)
            if takes_text and not isinstance(action, (argparse._HelpAction, Input, Output)):
                assert action.dest in _NO_FILES, f"{command}: declare {action.dest} with action=Input or action=Output"


def test_every_command_that_writes_has_overwrite() -> None:
    writing = [command for command in _COMMANDS if _arguments(command, Output)]
    assert writing == [command for command in _COMMANDS if "--overwrite" in _COMMANDS[command]._option_string_actions]
    assert len(writing) >= 9


@pytest.mark.parametrize("link", ["same", "symbolic", "hard"])
@pytest.mark.parametrize(("command", "output", "given"), _PAIRS, ids=[f"{c}-{o.dest}-{i.dest}" for c, o, i in _PAIRS])
def test_no_output_replaces_an_input(
    command: str, output: Output, given: Input, link: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if output.is_folder and given.dest == "images" and command == "detect":
        pytest.skip("a marked picture gets a name that no image has")
    (tmp_path / "out").mkdir()
    (tmp_path / "images.onnx").write_text("a picture")  # what `_line` gives for the images of detect
    written = _written(output, tmp_path / "out")
    written.parent.mkdir(parents=True, exist_ok=True)
    if given.dest == "labels":
        written = written.with_suffix(".txt")
    source = written if link == "same" else tmp_path / written.name
    source.write_text("precious")
    if link != "same":
        (os.symlink if link == "symbolic" else os.link)(source, written)
    chosen = [(given, source), (output, tmp_path / "out" if output.is_folder else written)]
    assert main([*_line(command, chosen, tmp_path), "--overwrite"]) == 2
    err = capsys.readouterr().err
    assert f"{output.title} would replace an input of this command; choose another name" in err
    assert err.count("\n") == 1
    assert source.read_text() == written.read_text() == "precious"


@pytest.mark.parametrize("command", [name for name in _COMMANDS if _arguments(name, Output)])
def test_no_output_replaces_another_one_or_an_older_file(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images.onnx").write_text("a picture")
    for output in _arguments(command, Output):
        folder = tmp_path / output.dest
        folder.mkdir()
        old = _written(output, folder)
        old.parent.mkdir(parents=True, exist_ok=True)
        old.write_text("old")
        assert main(_line(command, [(output, folder if output.is_folder else old)], tmp_path)) == 2
        assert f"{old}: this file exists already; add --overwrite to replace it" in capsys.readouterr().err
        assert old.read_text() == "old"
    for pair in itertools.combinations(_arguments(command, Output), 2):
        if not any(output.is_folder for output in pair):
            both = list(zip(pair, (tmp_path / "new.mp4", tmp_path / "NEW.mp4"), strict=True))
            assert main(_line(command, both, tmp_path)) == 2
            assert f"{pair[0].title} and {pair[1].title} would both write this file" in capsys.readouterr().err


def test_a_model_and_its_spec_are_never_written_to_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(tmp_path / "a.onnx"), "-o", str(tmp_path / "b.json")]) == 2
    assert "--out would twice write this file" in capsys.readouterr().err


@pytest.mark.parametrize("beside", ["m.json", "m.onnx.data"])
def test_the_spec_and_the_weights_of_a_model_are_inputs(
    beside: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("m.onnx", beside, "a.jpg"):
        (tmp_path / name).write_text("precious")
    words = ["detect", "a.jpg", "--model", "m.onnx", "--json", beside, "--overwrite"]
    assert main([str(tmp_path / word) if "." in word else word for word in words]) == 2
    assert "--json would replace an input" in capsys.readouterr().err
    assert (tmp_path / beside).read_text() == "precious"


@pytest.mark.parametrize(("command", "option"), [("detect", "--json"), ("live", "--jsonl"), ("live", "--csv")])
def test_a_picture_in_an_input_folder_is_an_input_but_a_report_is_none(
    command: str, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], model_path: Path
) -> None:
    (tmp_path / "below").mkdir()
    for name in ("a.jpg", "below/b.PNG", "report.txt"):
        (tmp_path / name).write_text("precious")
    for name in ("a.jpg", "below/b.PNG"):
        assert main([command, str(tmp_path), option, str(tmp_path / name), "--overwrite"]) == 2
        assert "would replace an input" in capsys.readouterr().err
        assert (tmp_path / name).read_text() == "precious"
    main([command, str(tmp_path), option, str(tmp_path / "report.txt"), "--overwrite", "--model", str(model_path)])
    assert "would replace an input" not in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_never_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a.jpg").write_text("a picture")
    assert main(["detect", str(tmp_path), "--json", str(tmp_path / "pipe"), "--overwrite"]) == 2
    assert "this is a folder, a device or a pipe, which --json cannot replace" in capsys.readouterr().err
