"""The JSON beside an engine: changes are seen, and what a killed writer leaves is read as one pair."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import fake_gpu
from fakes.tensorrt import save_engine

from retinasdk import Detector, ModelError, ModelSpec
from retinasdk._util.files import waiting
from retinasdk.tensorrt.engine_info import EngineInfo


@pytest.fixture
def engine(model_path: Path, spec: ModelSpec, tmp_path: Path) -> Path:
    return save_engine(tmp_path / "tiny.engine", model_path, spec)


def change(engine: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = EngineInfo.path_for(engine)
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    "edit",
    [
        lambda content: content["spec"]["labels"].reverse(),
        lambda content: content["spec"]["levels"][0]["base_anchors"][0].reverse(),
        lambda content: content["profile"].update(max=[64, 3, 4096, 4096]),
        lambda content: content.update(fingerprint={}),
        lambda content: content.update(checksum="0" * 64),
        lambda content: content.update(checksum=5),
    ],
    ids=["labels", "anchors", "profile", "fingerprint", "checksum", "type"],
)
def test_changes_are_refused(edit: Callable[[dict[str, Any]], object], engine: Path) -> None:
    change(engine, edit)
    message = r"tiny\.engine\.json was changed after it was written.*retinasdk build model\.onnx -o model\.engine"
    with pytest.raises(ModelError, match=message):
        EngineInfo.load(engine)
    with fake_gpu(), pytest.raises(ModelError, match=message):
        Detector(engine, device="cuda")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda content: content.update(format=99), r"has the format 99, but this version of retinasdk reads format 1"),
        (lambda content: content.update(format=True), r"has the format True, but"),
        (lambda content: content.pop("format"), r"has the format None, but"),
        # A file of an older version, which has no checksum.
        (lambda content: [content.pop(name) for name in ("checksum", "spec")], r"has no field 'spec'"),
    ],
    ids=["newer", "bool", "none", "spec"],
)
def test_what_is_no_description_of_an_engine(
    edit: Callable[[dict[str, Any]], object], message: str, engine: Path
) -> None:
    change(engine, edit)
    with pytest.raises(ModelError, match=rf"tiny\.engine\.json {message}.*\n?.*retinasdk build model\.onnx"):
        EngineInfo.load(engine)


def test_layout_and_order_do_not_matter(engine: Path) -> None:
    before = EngineInfo.load(engine)
    path = EngineInfo.path_for(engine)
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(dict(reversed(content.items())), indent=7), encoding="utf-8")
    assert EngineInfo.load(engine) == before


def test_files_of_older_versions_have_no_checksum(engine: Path) -> None:
    before = EngineInfo.load(engine)
    change(engine, lambda content: content.pop("checksum"))
    assert EngineInfo.load(engine) == before


def test_the_spec_can_be_given(engine: Path, spec: ModelSpec) -> None:
    """What an edit of the JSON is replaced by."""
    renamed = spec.replace(labels=tuple(reversed(spec.labels)))
    with fake_gpu(), Detector(engine, device="cuda", spec=renamed) as detector:
        assert detector.labels == renamed.labels


def test_a_killed_update(model_path: Path, spec: ModelSpec, engine: Path, tmp_path: Path) -> None:
    """The new engine has its name, and the new JSON still has its hidden one."""
    path = EngineInfo.path_for(engine)
    old = path.read_bytes()
    newer = save_engine(tmp_path / "newer.engine", model_path, spec.replace(name="newer"), version="10.3.0.27")
    engine.write_bytes(newer.read_bytes() + b" ")
    waiting(path).write_bytes(EngineInfo.path_for(newer).read_bytes())
    with pytest.raises(ModelError, match=re.escape("is not the engine that tiny.engine.json describes")):
        EngineInfo.load(engine).check_belongs(engine.read_bytes(), engine)
    engine.write_bytes(newer.read_bytes())
    assert EngineInfo.load(engine).spec.name == "newer"
    assert path.read_bytes() == old
    waiting(path).write_bytes(old[:50])
    assert EngineInfo.load(engine).spec == spec
