"""`retinasdk export` of checkpoints: what is read from the file, what is asked for, and what torchvision publishes."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import scene
from reference import Listed, assert_same_detections
from torchvision_heads import small_model, spread_heads

from retinasdk import Detector, ModelSpec
from retinasdk.cli.main import main

torch = pytest.importorskip("torch", reason="exports from torchvision, which needs torch; .ci/run installs it")
detection = pytest.importorskip("torchvision.models.detection", reason="exports from torchvision")

pytestmark = pytest.mark.heavy

V1, V2 = "retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2"
FILES = {V1: "retinanet_resnet50_fpn_coco-eeacb38b.pth", V2: "retinanet_resnet50_fpn_v2_coco-5905b1c5.pth"}


def model_of(architecture: str = V1, classes: int = 3, seed: int = 4, **rules: Any) -> Any:
    torch.manual_seed(seed)
    model = getattr(detection, architecture)(weights=None, weights_backbone=None, num_classes=classes, **rules).eval()
    spread_heads(model, torch.randn(1, 3, 256, 320), bias=-4.5)
    return model


def export(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Returns the exit status and everything that was printed."""
    status = main(["export", *map(str, arguments)])
    printed = capsys.readouterr()
    return status, printed.out + printed.err


def assert_boxes_of(model: Any, path: Path) -> None:
    picture = scene(7, 300, 400)
    with torch.inference_mode():
        (found,) = model([torch.from_numpy(picture).permute(2, 0, 1).float() / 255])
    theirs = Listed(*(found[key].numpy() for key in ("boxes", "scores", "labels")))
    assert len(theirs.scores) > 20
    with Detector(path, convolution="direct") as detector:
        ours = detector(picture)
    assert_same_detections(Listed(ours.xyxy, ours.scores, ours.class_ids), theirs, tie=2e-5)


# -- rules that a checkpoint does not hold -----------------------------------------------------------------------------

OWN = {
    "anchor_generator": ((24, 48, 96, 192, 384), (0.4, 1.0, 2.5)),
    "min_size": 256,
    "max_size": 400,
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.3, 0.2, 0.25],
    "score_thresh": 0.1,
    "nms_thresh": 0.4,
    "detections_per_img": 50,
    "topk_candidates": 77,
}
OPTIONS = [
    *("--anchor-sizes", "24,48,96,192,384", "--anchor-ratios", "0.4,1,2.5", "--anchor-scales", "1,1.5"),
    *("--resize", "shortest:256,400", "--mean", "102,127.5,153", "--std", "76.5,51,63.75", "--score-threshold", "0.1"),
    *("--nms-iou", "0.4", "--max-detections", "50", "--top-k", "77", "--norm-eps", "1e-5"),
]


def own_rules() -> dict[str, Any]:
    sizes, ratios = OWN["anchor_generator"]
    generator = detection.anchor_utils.AnchorGenerator(
        tuple((size, int(size * 1.5)) for size in sizes), (ratios,) * len(sizes)
    )
    return {**OWN, "anchor_generator": generator}


def test_weights_alone_are_a_question(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(small_model().state_dict(), tmp_path / "mine.pth")
    arguments = (tmp_path / "mine.pth", "-o", tmp_path / "mine.onnx")
    status, text = export(capsys, *arguments)
    assert status == 2
    assert (
        "Not known: anchors, image size, mean and std, score threshold, NMS threshold, candidates per level, " in text
    )
    assert f"retinasdk export {tmp_path}/mine.pth -o {tmp_path}/mine.onnx --torchvision-defaults" in text
    status, text = export(capsys, *arguments, "--resize", "shortest:256,400", "--norm-eps", "1e-5", "--top-k", "9")
    assert status == 2
    assert "Not known: anchors, mean and std, score threshold, NMS threshold, detections per image. If" in text
    assert not (tmp_path / "mine.onnx").exists()


def test_given_rules_make_the_models_boxes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model with six anchors per cell, and every rule its own."""
    model = small_model(**own_rules())
    torch.save(
        {"state_dict": {f"model.{key}": value for key, value in model.state_dict().items()}}, tmp_path / "l.ckpt"
    )
    status, text = export(capsys, tmp_path / "l.ckpt", "-o", tmp_path / "a.onnx", *OPTIONS, "--labels", "b,bolt,nut")
    assert status == 0, text
    assert "read: retinanet_resnet18_fpn, 6 anchors per cell" in text
    assert "given: the base anchors\ngiven: the resize rule shortest 256 x 400" in text
    assert_boxes_of(model, tmp_path / "a.onnx")
    spec = ModelSpec.load(tmp_path / "a.json")
    assert (spec.name, spec.labels) == ("l", ("b", "bolt", "nut"))
    assert "top_k 77" in spec.source["given"]


def test_anchors_from_a_file_and_defaults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = own_rules()["anchor_generator"]
    model = small_model(anchor_generator=generator, min_size=320, max_size=533)
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    levels = [{"stride": 8 << level, "anchors": cell.tolist()} for level, cell in enumerate(generator.cell_anchors)]
    (tmp_path / "anchors.json").write_text(json.dumps(levels))
    options = ("-o", tmp_path / "a.onnx", "--torchvision-defaults", "--resize", "shortest:320,533")
    status, text = export(capsys, tmp_path / "mine.pth", *options)
    assert status == 2
    assert "mine.pth has 6 anchors per cell, torchvision's default model has 9. Give yours" in text
    status, text = export(capsys, tmp_path / "mine.pth", *options, "--anchors", tmp_path / "anchors.json")
    assert status == 0, text
    assert "given: score_threshold 0.05, torchvision's default, as you confirmed" in text
    assert_boxes_of(model, tmp_path / "a.onnx")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--anchor-sizes", "1,2"], "the anchor rule has 2 sizes, but the model has 5 levels"),
        (["--anchor-ratios", "1,2"], "has 3 scales and 2 ratios, so 6 anchors per cell, but the model has 9"),
        (["--mean", "1,2,3"], "mean and std belong together"),
        (["--resize", "squash"], "the resize rule 'squash' is unknown"),
    ],
)
def test_rules_that_do_not_fit(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(small_model().state_dict(), tmp_path / "mine.pth")
    status, text = export(capsys, tmp_path / "mine.pth", "-o", tmp_path / "a.onnx", "--torchvision-defaults", *options)
    assert status == 2
    assert message in text


# -- rules that a checkpoint holds -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("started", "eps"), [(None, 1e-5), ("RetinaNet_ResNet50_FPN_Weights.COCO_V1", 0.0)])
def test_arguments_of_the_training_script(
    started: str | None, eps: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """torchvision's references/detection/train.py saves its arguments, and cannot set other rules."""
    model = model_of(min_size=320, max_size=533)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = eps
    with torch.no_grad():  # So that the epsilon matters.
        model.backbone.body.bn1.running_var.mul_(1e-4)
        model.backbone.body.bn1.weight.mul_(1e-2)
    spread_heads(model, torch.randn(1, 3, 256, 320), bias=-4.5)
    arguments = argparse.Namespace(model=V1, weights=started, weights_backbone=None, dataset="coco", lr=0.01)
    content = {"model": model.state_dict(), "optimizer": {}, "epoch": 3, "args": arguments}
    torch.save(content, tmp_path / "model_3.pth")
    status, text = export(capsys, tmp_path / "model_3.pth", "-o", tmp_path / "a.onnx", "--resize", "shortest:320,533")
    assert status == 0, text
    assert f"concluded: torchvision's defaults for all rules: its training script built {V1}" in text
    assert_boxes_of(model, tmp_path / "a.onnx")


def test_a_whole_model_needs_trust(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = small_model(**own_rules())
    torch.save(model, tmp_path / "whole.pth")
    status, text = export(capsys, tmp_path / "whole.pth", "-o", tmp_path / "a.onnx")
    assert status == 2
    assert "it contains the Python class" in text
    assert "\x1b" not in text
    assert "add --trusted" in text
    status, text = export(capsys, tmp_path / "whole.pth", "-o", tmp_path / "a.onnx", "--trusted")
    assert status == 0, text
    assert "read: all rules, from the whole model in the file" in text
    assert_boxes_of(model, tmp_path / "a.onnx")


# -- torchvision's own weights, without a network ----------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's cache folder, where torchvision looks before it downloads; and no network."""

    def no_network(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    monkeypatch.setattr("torch.hub.urlopen", no_network)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(("architecture", "suffix"), [(V1, ""), (V2, ":COCO_V1")])
def test_published_weights_in_the_cache(
    architecture: str, suffix: str, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = model_of(architecture, 91, min_size=320, max_size=533)
    torch.save(model.state_dict(), cache / FILES[architecture])
    source = f"torchvision:{architecture}{suffix}"
    status, text = export(capsys, source, "-o", tmp_path / "coco.onnx", "--resize", "shortest:320,533")
    assert status == 0, text
    assert "read: all rules, from torchvision's model with its own weights" in text
    if architecture == V1:  # torchvision sets the epsilon of the batch norms to 0 for these weights.
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eps = 0.0
    spec = ModelSpec.load(tmp_path / "coco.json")
    assert (len(spec.labels), spec.labels[1], spec.labels[90]) == (91, "person", "toothbrush")
    assert spec.ignore_labels == ("__background__", "N/A")
    picture = scene(7, 300, 400)
    with torch.inference_mode():
        (found,) = model([torch.from_numpy(picture).permute(2, 0, 1).float() / 255])
    named = [spec.labels[index] not in spec.ignore_labels for index in found["labels"].tolist()]
    theirs = Listed(*(found[key].numpy()[np.array(named)] for key in ("boxes", "scores", "labels")))
    with Detector(tmp_path / "coco.onnx", convolution="direct") as detector:
        ours = detector(picture)
    assert not set(detector.spec.ignore_labels) & {item.label for item in ours}
    if len(found["scores"]) < 300:  # Otherwise the ignored ones left room for others.
        assert_same_detections(Listed(ours.xyxy, ours.scores, ours.class_ids), theirs, tie=2e-5)


@pytest.mark.parametrize("architecture", [V1, V2])
def test_no_network(architecture: str, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, text = export(capsys, f"torchvision:{architecture}", "-o", tmp_path / "coco.onnx")
    assert status == 2
    name = FILES[architecture]
    assert f"weights of {architecture} cannot be downloaded (no route to host). Download https://" in text
    assert f"/{name} on another machine, and copy it to {cache / name}, or give the file: --weights {name}" in text
    assert not (tmp_path / "coco.onnx").exists()


def test_a_damaged_file_in_the_cache(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cache / FILES[V1]).write_bytes(b"half a download")
    status, text = export(capsys, f"torchvision:{V1}", "-o", tmp_path / "coco.onnx")
    assert status == 2
    assert f"{cache / FILES[V1]} cannot be read" in text
    assert "Delete it" in text


def test_a_downloaded_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's own file is recognized by name and hash, so nothing is asked."""
    path = tmp_path / FILES[V1]
    torch.save(model_of(V1, 91).state_dict(), path)
    status, text = export(capsys, path, "-o", tmp_path / "coco.onnx")
    assert status == 2
    assert "has the name of torchvision's weights, but other contents: its SHA-256 begins with" in text

    class Published:
        def __init__(self) -> None:
            self.name = "sha256"

        def update(self, block: bytes) -> None:
            pass

        def hexdigest(self) -> str:
            return "eeacb38b"

    real = hashlib.sha256
    # A checkpoint is hashed block by block; what is hashed at once is another file.
    monkeypatch.setattr(hashlib, "sha256", lambda *content: real(*content) if content else Published())
    smaller = ("--resize", "shortest:320,533")  # A sixth of the work.
    for number, source in enumerate(([path], [f"torchvision:{V1}", "--weights", path, *smaller])):
        output = tmp_path / f"coco{number}.onnx"
        status, text = export(capsys, *source, "-o", output)
        assert status == 0, text
        assert f"read: all rules, from torchvision's model with its own weights {path.name}" in text
        spec = ModelSpec.load(output.with_suffix(".json"))
        assert (spec.score_threshold, len(spec.labels)) == (0.05, 91)
        assert math.isclose(spec.box_coder.clamp_max or 0, math.log(62.5))
