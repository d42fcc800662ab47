"""An ONNX file and its spec are one thing: which pairs are accepted, and what happens to the others."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from retinasdk import Detector, ModelError, ModelSpec, list_models
from retinasdk._util.files import waiting
from retinasdk._util.onnx_files import model_sha256
from retinasdk.onnx_graph import model_pair
from retinasdk.onnx_graph.model_file import read_model
from retinasdk.onnx_graph.model_pair import write_model
from retinasdk.spec import METADATA_KEY, Normalise

Written = Callable[..., Path]


def model_bytes(network: onnx.ModelProto, spec: ModelSpec | None, note: str = "") -> bytes:
    model = onnx.ModelProto()
    model.CopyFrom(network)
    model.doc_string = note
    if spec is not None:
        helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    return model.SerializeToString()


@pytest.fixture
def path(network: onnx.ModelProto, spec: ModelSpec, tmp_path: Path) -> Path:
    """A pair as the commands write it."""
    write_model(tmp_path / "model.onnx", model_bytes(network, spec), spec)
    return tmp_path / "model.onnx"


def opened(path: Path) -> ModelSpec:
    """The spec with which a file is opened, by ONNX Runtime and by the package onnx alike."""
    try:
        spec = Detector(path, threads=1).spec
    except ModelError as error:
        with pytest.raises(ModelError, match=re.escape(str(error))):
            read_model(path, purpose="a test")
        raise
    assert read_model(path, purpose="a test").spec == spec
    return spec


def test_what_is_written(path: Path, spec: ModelSpec) -> None:
    beside = path.with_suffix(".json")
    assert json.loads(beside.read_text())["onnx_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert ModelSpec.load(beside) == opened(path) == spec


def test_bundled_models_carry_the_hash() -> None:
    for model in list_models():
        content = json.loads(model.path.with_suffix(".json").read_text(encoding="utf-8"))
        assert content["onnx_sha256"] == hashlib.sha256(model.path.read_bytes()).hexdigest() == model_sha256(model.path)


def test_the_spec_can_be_edited(path: Path) -> None:
    """Labels, thresholds and all other rules: the hash is that of the ONNX file."""
    beside = path.with_suffix(".json")
    content = json.loads(beside.read_text())
    content["score_threshold"] = 0.25
    content["labels"][0] = "renamed"
    content["normalise"]["mean"] = [1.0, 2.0, 3.0]
    beside.write_text(json.dumps(content))
    assert opened(path).score_threshold == 0.25
    assert opened(path).labels[0] == "renamed"
    assert opened(path).normalise.mean == (1, 2, 3)


@pytest.mark.parametrize("has_own", [True, False], ids=["spec inside", "none inside"])
def test_another_onnx_file(
    path: Path, network: onnx.ModelProto, spec: ModelSpec, has_own: bool, tmp_path: Path
) -> None:
    """The network was copied without its spec. Each cure in the message works as it stands there."""
    inside = spec.replace(name="inside", score_threshold=0.5)
    old = model_sha256(path)
    path.write_bytes(model_bytes(network, inside if has_own else None, "another one"))
    message = rf"model\.json belongs to another ONNX file than model\.onnx.*{old[:12]}.*{model_sha256(path)[:12]}"
    with pytest.raises(ModelError, match=message) as raised:
        opened(path)
    assert Detector(path, spec=spec).spec == spec
    assert ("rm " in str(raised.value)) == has_own
    record = shlex.split(str(raised.value).split("record that: ")[1])
    assert record[0] == "python"
    kept = path.with_suffix(".json").read_bytes()
    subprocess.run([sys.executable, *record[1:]], check=True)
    assert opened(path) == spec
    if has_own:
        path.with_suffix(".json").write_bytes(kept)
        remove = re.search(r"rm \S+(?=\. If)", str(raised.value))
        assert remove is not None
        subprocess.run(shlex.split(remove[0]), check=True)
        assert opened(path) == inside


def test_a_killed_update_is_used(path: Path, network: onnx.ModelProto, spec: ModelSpec) -> None:
    """Between the two renames of an update: the new spec lies there under its hidden name."""
    beside = path.with_suffix(".json")
    old = beside.read_bytes()
    new = spec.replace(score_threshold=0.7)
    write_model(path, model_bytes(network, new), new)
    waiting(beside).write_bytes(beside.read_bytes())
    beside.write_bytes(old)
    assert opened(path) == new
    waiting(beside).write_bytes(old)
    with pytest.raises(ModelError, match="belongs to another ONNX file"):
        opened(path)
    waiting(beside).write_bytes(old[:40])
    with pytest.raises(ModelError, match="belongs to another ONNX file"):
        opened(path)


# -- spec files without a hash -----------------------------------------------------------------------------------------


def test_without_a_hash_and_without_a_spec_inside(network: onnx.ModelProto, spec: ModelSpec, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model_bytes(network, None))
    other = spec.replace(normalise=Normalise(mean=(1, 2, 3), std=(4, 5, 6), channels="BGR"))
    other.save(path.with_suffix(".json"))
    assert opened(path) == other


def test_without_a_hash_but_like_the_one_inside(path: Path, spec: ModelSpec, caplog: pytest.LogCaptureFixture) -> None:
    spec.replace(name="renamed", source={"from": "here"}).save(path.with_suffix(".json"))
    with caplog.at_level(logging.WARNING, logger="retinasdk"):
        assert opened(path).name == "renamed"
    assert not caplog.records


def test_without_a_hash_and_edited(path: Path, spec: ModelSpec, caplog: pytest.LogCaptureFixture) -> None:
    edited = spec.replace(labels=("other", *spec.labels[1:]), score_threshold=0.3)
    edited.save(path.with_suffix(".json"))
    with caplog.at_level(logging.WARNING, logger="retinasdk"):
        assert Detector(path, threads=1).spec == edited
    (record,) = caplog.records
    said = record.getMessage()
    assert "model.json differs from the spec in model.onnx in labels, score_threshold, and is used" in said
    caplog.clear()
    subprocess.run([sys.executable, *shlex.split(said.split("this line goes away: ")[1])[1:]], check=True)
    with caplog.at_level(logging.WARNING, logger="retinasdk"):
        assert opened(path) == edited
    assert not caplog.records


def test_without_a_hash_and_of_another_network(path: Path, spec: ModelSpec) -> None:
    """As left by an update with an older version that was killed in the middle."""
    other = spec.replace(normalise=Normalise(mean=(1, 2, 3), std=(4, 5, 6), channels="BGR"))
    other.save(path.with_suffix(".json"))
    with pytest.raises(
        ModelError, match=r"differs from the spec in model\.onnx in normalise, so it seems to belong to"
    ):
        opened(path)
    other.save(path.with_suffix(".json"), onnx=path)
    assert opened(path) == other


def test_a_hash_of_the_wrong_type(path: Path, spec: ModelSpec) -> None:
    content = json.loads(spec.to_json()) | {"onnx_sha256": 5}
    path.with_suffix(".json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"model\.json: onnx_sha256 must be a text, got 5"):
        opened(path)


# -- the hash ----------------------------------------------------------------------------------------------------------


def test_external_data_counts(network: onnx.ModelProto, spec: ModelSpec, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    model = onnx.load_model_from_string(model_bytes(network, spec))
    onnx.save(model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=256)
    spec.save(path.with_suffix(".json"), onnx=path)
    assert opened(path) == spec
    weights = tmp_path / "weights.bin"
    content = weights.read_bytes()
    assert model_sha256(path) == hashlib.sha256(path.read_bytes() + content).hexdigest()
    weights.write_bytes(np.random.default_rng(0).permutation(np.frombuffer(content, np.uint8)).tobytes())
    with pytest.raises(ModelError, match="belongs to another ONNX file"):
        opened(path)


def test_external_data_that_is_no_file(network: onnx.ModelProto, tmp_path: Path) -> None:
    """A device may have no end, so it is not read."""
    path = tmp_path / "model.onnx"
    model = onnx.load_model_from_string(model_bytes(network, None))
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, location="/dev/zero")
    path.write_bytes(model.SerializeToString())
    assert model_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(b"no ONNX file")
    assert model_sha256(path) == hashlib.sha256(b"no ONNX file").hexdigest()


def test_a_model_that_is_replaced_while_it_is_read(
    path: Path, network: onnx.ModelProto, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network that was opened is the one whose spec is used."""
    new = spec.replace(score_threshold=0.7)
    beside = model_pair.spec_beside
    left = [1]

    def replaced_before(path: Path, metadata: dict[str, str]) -> ModelSpec | None:
        if left:
            left.pop()
            write_model(path, model_bytes(network, new, "new"), new)
        return beside(path, metadata)

    monkeypatch.setattr("retinasdk.onnx_graph.model_file.spec_beside", replaced_before)
    detector = Detector(path, threads=1)
    assert detector.spec == new
    assert detector._backend._session.get_modelmeta().description == "new"


def test_a_model_that_never_rests(path: Path, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(path: Path, metadata: dict[str, str]) -> ModelSpec:
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000_000))
        return spec

    monkeypatch.setattr("retinasdk.onnx_graph.model_file.spec_beside", touched)
    with pytest.raises(ModelError, match="changes while it is read, 5 times in a row"):
        Detector(path, threads=1)
