"""`retinasdk build`, over honest stand-ins."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import fake_gpu
from pictures import blocks
from PIL import Image

from retinasdk import Detector
from retinasdk.cli.main import main
from retinasdk.tensorrt.engine_info import EngineInfo


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETINASDK_CACHE", str(tmp_path / "cache"))


def test_build(model_path: Path, tmp_path: Path, detector: Detector, capsys: pytest.CaptureFixture[str]) -> None:
    engine = tmp_path / "tiny.engine"
    options = ["--precision", "fp32", "--batch", "1,2,4", "--size", "90x120", "--size", "61X47"]
    with fake_gpu():
        assert main(["build", str(model_path), "-o", str(engine), *options, "--workspace", "64", "--level", "3"]) == 0
        with Detector(engine) as on_gpu:
            assert on_gpu(blocks()) == detector(blocks())
    said = capsys.readouterr().out
    assert f"wrote {engine} and tiny.engine.json" in said
    assert "network input 128 x 128 to 192 x 192, tuned for 128 x 192; images at a time 1 to 4, tuned for 2" in said
    assert "tensorrt 10.3.0, for Fake GPU" in said
    info = EngineInfo.load(engine)
    assert info.fingerprint.options["workspace_bytes"] == "64000000"


def test_int8_from_a_folder(model_path: Path, tmp_path: Path) -> None:
    Image.fromarray(blocks()).save(tmp_path / "a.png")
    engine = tmp_path / "tiny.engine"
    with fake_gpu():
        options = ["--precision", "int8", "--images", str(tmp_path)]
        assert main(["build", str(model_path), "-o", str(engine), *options]) == 0
    assert EngineInfo.load(engine).precision == "int8"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--precision", "int8"], "needs calibration images, but got none"),
        (["--batch", "1,2"], "expected one number or three"),
        (["--batch", "many"], "expected one number or three"),
        (["--size", "1080"], "expected height x width in pixels such as 1080x1920, got '1080'"),
        (["--precision", "int4"], "invalid choice"),
    ],
)
def test_wrong_options(
    model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    with fake_gpu():
        assert main(["build", str(model_path), "-o", str(tmp_path / "x.engine"), *options]) == 2
    said = capsys.readouterr().err
    assert said.startswith("retinasdk: error: ")
    assert message in said
    assert len(said.splitlines()) == 1
    assert not list(tmp_path.glob("*.engine*"))
