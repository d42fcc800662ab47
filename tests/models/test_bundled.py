"""The bundled models: complete, small, honest about themselves, and able to see what is in the bundled photos."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from paths import PHOTOS, ROOT

from retinasdk import BundledModel, Detector, ModelError, ModelSpec, list_images, list_models
from retinasdk.models import DEFAULT_MODEL
from retinasdk.spec import METADATA_KEY

MODELS = list_models()
WANTED = {"people", "blood-cells", "tree-crowns"}
DEMO_PHOTOS = [
    (folder.name, path) for folder in sorted(PHOTOS.iterdir()) if folder.is_dir() for path in list_images(folder)
]

each_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)


def test_they_are_all_here() -> None:
    assert {model.name for model in MODELS} == WANTED
    assert [model.name for model in MODELS] == [DEFAULT_MODEL, *sorted(WANTED - {DEFAULT_MODEL})]


def test_people_is_the_default() -> None:
    assert DEFAULT_MODEL == "people"
    default = Detector()
    assert default.model_path.stem == "people"
    assert "person" in default.labels


def test_no_stray_files() -> None:
    folder = MODELS[0].path.parent
    wanted = {f"{name}{suffix}" for name in WANTED for suffix in (".onnx", ".json", ".md")}
    assert {path.name for path in folder.iterdir() if path.suffix != ".py" and path.is_file()} == wanted


@each_model
def test_card(model: BundledModel) -> None:
    assert model.card == model.path.with_suffix(".md").read_text("utf-8")
    assert model.card.startswith("# ")
    for topic in (r"\bdata\b", r"licen[cs]e", r"must not be used|not to be used|do not use|not for", r"\bAP"):
        assert re.search(topic, model.card, re.IGNORECASE), f"the card of {model.name} says nothing of {topic}"
    for label in model.spec.labels:
        assert label.lower() in model.card.lower()
    assert len(model.card) > 600
    assert not re.search(r"TODO|TBD|XXX|/home/|/root/|/work/|/tmp/", model.card)


@each_model
def test_spec_in_the_file_is_the_one_beside_it(model: BundledModel) -> None:
    network = onnx.load(str(model.path))
    metadata = {item.key: item.value for item in network.metadata_props}
    assert ModelSpec.from_json(metadata[METADATA_KEY]) == model.spec == ModelSpec.load(model.path.with_suffix(".json"))
    assert model.spec.name
    assert model.spec.source


@each_model
def test_file(model: BundledModel) -> None:
    assert model.path.stat().st_size <= 16 * 1024 * 1024
    network = onnx.load(str(model.path))
    onnx.checker.check_model(network)
    assert [item.version for item in network.opset_import if item.domain in ("", "ai.onnx")] == [17]
    assert {item.domain for item in network.opset_import} <= {"", "ai.onnx"}
    paths = [item.value for tensor in network.graph.initializer for item in tensor.external_data]
    assert paths == []
    assert not re.search(rb"/(home|root|work|tmp|usr)/", model.path.read_bytes())


@each_model
def test_it_works_alone(model: BundledModel, tmp_path: Path) -> None:
    """Copied without its JSON, the file still carries its spec."""
    alone = tmp_path / "copied.onnx"
    alone.write_bytes(model.path.read_bytes())
    assert Detector(alone).spec == model.spec


@each_model
def test_it_runs_on_any_size(model: BundledModel) -> None:
    detector = Detector(model.name)
    assert detector.labels == model.spec.labels
    rows, columns = np.mgrid[0:240, 0:320]
    gradient = np.stack([rows % 256, columns % 256, (rows + columns) // 3], axis=2).astype(np.uint8)
    images = [gradient, gradient[:50, :200], gradient.transpose(1, 0, 2), gradient[:1, :1]]
    results = detector(images)
    assert len(results) == 4
    for image, detections in zip(images, results, strict=True):
        assert np.isfinite(detections.xyxy).all()
        assert (detections.scores > model.spec.score_threshold).all()
        assert (detections.xyxy[:, 2:] <= np.array(image.shape[1::-1]) * 1.000001).all()
    single = detector(gradient)
    assert single.class_ids.tolist() == results[0].class_ids.tolist()
    np.testing.assert_allclose(single.xyxy, results[0].xyxy, atol=0.01)


@each_model
def test_its_batch_is_free(model: BundledModel) -> None:
    batch, channels, height, width = onnx.load(str(model.path)).graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_param
    assert channels.dim_value == 3
    assert bool(height.dim_param) == bool(width.dim_param)


@pytest.mark.parametrize(("name", "photo"), DEMO_PHOTOS, ids=lambda item: Path(item).name)
def test_it_finds_something_in_its_photos(name: str, photo: str) -> None:
    detector = Detector(name)
    detections = detector(photo, score_threshold=0.5)
    assert len(detections) > 0
    if name == "people":
        assert "person" in detections.names


def test_the_person_of_the_readme_is_found_once() -> None:
    found = Detector("people")(PHOTOS / "people" / "astronaut.jpg")
    assert [(item.label, round(item.score, 2)) for item in found] == [("person", 0.77)]


def test_the_readme_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    example = next(block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "Detector()" in block)
    (tmp_path / "photo.jpg").write_bytes((PHOTOS / "people" / "astronaut.jpg").read_bytes())
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert "person" in capsys.readouterr().out
    assert (tmp_path / "marked.jpg").stat().st_size > 1000


def test_every_photo_is_credited() -> None:
    credits_text = (PHOTOS / "CREDITS.md").read_text("utf-8")
    assert len(DEMO_PHOTOS) >= 3
    for name, photo in DEMO_PHOTOS:
        assert f"`{name}/{Path(photo).name}`" in credits_text


def test_a_misspelt_name_is_corrected() -> None:
    with pytest.raises(ModelError, match="did you mean 'people'"):
        Detector("poeple")
