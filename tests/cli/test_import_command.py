"""`retinasdk import`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import onnx
import pytest
from foreign.not_retinanets import other_heads
from pictures import LABELS, blocks

from retinasdk import Detector, ModelSpec
from retinasdk.cli.main import main


@pytest.fixture
def foreign(network: onnx.ModelProto, tmp_path: Path) -> Path:
    """The tiny network as somebody else's file: other names, and nothing that tells the rules."""
    model = onnx.ModelProto()
    model.CopyFrom(network)
    del model.metadata_props[:]
    path = tmp_path / "foreign.onnx"
    onnx.save(model, path)
    return path


def test_import(foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine.onnx"
    options = ["--flavour", "torchvision", "--labels", ",".join(LABELS), "--name", "mine"]
    assert main(["import", str(foreign), "-o", str(out), *options]) == 0
    said = capsys.readouterr().out
    assert "heads: 5 levels, 9 anchors per cell, 3 classes" in said
    spec = ModelSpec.load(out.with_suffix(".json"))
    assert (spec.name, spec.flavour, spec.labels) == ("mine", "torchvision", LABELS)
    with Detector(out) as detector:
        assert len(detector(blocks(), score_threshold=0.1)) > 0


def test_rules_are_taken(foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    levels = [
        {"stride": 8 << level, "anchors": [[-x, -x, x, x + 1] for x in range(4 << level, (4 << level) + 9)]}
        for level in range(5)
    ]
    (tmp_path / "anchors.json").write_text(json.dumps(levels))
    out = tmp_path / "mine.onnx"
    options = ["--flavour", "detectron2", "--anchors", str(tmp_path / "anchors.json"), "--resize", "longest:640"]
    options += ["--mean", "1,2,3", "--std", "4,5,6", "--channel-order", "RGB", "--box-weights", "10,10,5,5"]
    options += ["--score-threshold", "0.3", "--nms-iou", "0.4", "--top-k", "200", "--max-detections", "50"]
    assert main(["import", str(foreign), "-o", str(out), *options]) == 0
    said = capsys.readouterr().out
    for part in ("given: the rules of detectron2", "given: you gave the base anchors", "given: top_k 200", "assumed: "):
        assert part in said
    spec = ModelSpec.load(out.with_suffix(".json"))
    assert [level.stride for level in spec.levels] == [(8 << level, 8 << level) for level in range(5)]
    assert spec.levels[1].base_anchors[0] == (-8, -8, 8, 9)
    assert (spec.resize.rule, spec.resize.size) == ("longest", (640,))
    assert (spec.normalise.mean, spec.normalise.std, spec.normalise.channels) == ((1, 2, 3), (4, 5, 6), "RGB")
    assert spec.box_coder.weights == (10, 10, 5, 5)
    assert (spec.score_threshold, spec.nms_iou_threshold, spec.top_k, spec.max_detections) == (0.3, 0.4, 200, 50)


def test_an_anchor_rule_is_taken(foreign: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.onnx"
    options = ["--flavour", "odtk", "--anchor-sizes", "16,32,64,128,256", "--anchor-ratios", "1,2,3"]
    options += ["--anchor-scales", "1,1.5,2", "--strides", "8,16,32,64,100"]
    assert main(["import", str(foreign), "-o", str(out), *options]) == 0
    spec = ModelSpec.load(out.with_suffix(".json"))
    assert spec.levels[0].base_anchors[0] == (-4, -4, 12, 12)
    assert spec.levels[4].stride == (100, 100)


def test_four_levels_are_taken(tmp_path: Path) -> None:
    onnx.save(other_heads([6] * 4, [8] * 4), tmp_path / "four.onnx")
    out = tmp_path / "mine.onnx"
    options = ["--flavour", "detectron2", "--anchor-sizes", "16,32,64,128", "--anchor-ratios", "1,4"]
    command = ["import", str(tmp_path / "four.onnx"), "-o", str(out), *options]
    assert main(command) == 2
    assert main([*command, "--anchor-scales", "1"]) == 0
    levels = ModelSpec.load(out.with_suffix(".json")).levels
    assert levels[3].base_anchors == ((-64, -64, 64, 64), (-32, -128, 32, 128))
    assert [level.stride for level in levels] == [(8, 8), (16, 16), (32, 32), (64, 64)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read as a JSON file of anchors"),
        ("{", "cannot be read as a JSON file of anchors"),
        ("{}", "a box is not"),
        ("[1]", "is no file of anchors; expected a list with one entry per level"),
        ('[{"anchors": [[1, 2]]}]', "a box is not"),
        ('[{"anchors": [[1, 2, 3, "x"]]}]', "is no file of anchors"),
        ('[{"stride": 8, "anchors": [[-1, -1, 1, 1]]}]', "1 strides are given"),
    ],
)
def test_files_of_anchors(
    foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, message: str
) -> None:
    path = tmp_path / "anchors.json"
    if content is not None:
        path.write_text(content)
    options = ["--flavour", "torchvision", "--anchors", str(path)]
    assert main(["import", str(foreign), "-o", str(tmp_path / "mine.onnx"), *options]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "mine.onnx").exists()


def test_the_choice_is_asked_for(foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(tmp_path.iterdir())
    assert main(["import", str(foreign), "-o", str(tmp_path / "mine.onnx")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("retinasdk: error: ")
    assert "torchvision" in said
    assert f"retinasdk import {foreign} -o {tmp_path / 'mine.onnx'} --flavour NAME" in said
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--flavour", "yolo"], "invalid choice: 'yolo'"),
        (["--labels", "absent.txt"], "expected a text file"),
        (["--mean", "1,x,3"], "'1,x,3' is no list of numbers"),
        (["--flavour", "odtk", "--mean", "1,2,3"], "belong together"),
    ],
)
def test_wrong_options(
    foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["import", str(foreign), "-o", str(tmp_path / "mine.onnx"), *options]) == 2
    assert message in capsys.readouterr().err
