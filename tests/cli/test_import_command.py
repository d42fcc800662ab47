"""`retinasdk import`."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
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
    assert "heads: 5 levels, 9 anchors, 3 classes" in said
    spec = ModelSpec.load(out.with_suffix(".json"))
    assert (spec.name, spec.flavour, spec.labels) == ("mine", "torchvision", LABELS)
    with Detector(out) as detector:
        assert len(detector(blocks(), score_threshold=0.1)) > 0


def test_the_choice_is_asked_for(foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(tmp_path.iterdir())
    assert main(["import", str(foreign), "-o", str(tmp_path / "mine.onnx")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("retinasdk: error: ")
    assert "torchvision" in said
    assert "say which, with --flavour " in said
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--flavour", "yolo"], "invalid choice: 'yolo'"), (["--labels", "absent.txt"], "expected a text file")],
)
def test_wrong_options(
    foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["import", str(foreign), "-o", str(tmp_path / "mine.onnx"), *options]) == 2
    assert message in capsys.readouterr().err
