"""`quantize_onnx` and `retinasdk quantize`: what is written, what is refused, and that Nothing was written then."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from coco_sets import own_truth, save_set, truth
from pictures import blocks
from PIL import Image, ImageDraw

from retinasdk import Detector, ImageError, ModelError, ModelSpec, Progress, Resize, list_models, quantize_onnx
from retinasdk.cli.main import main
from retinasdk.onnx_graph.calibration import network_inputs
from retinasdk.onnx_graph.network import Network, prepared
from retinasdk.quantization import QuantizationReport, quantizer
from retinasdk.quantization.checks import agreement_of, why_refused
from retinasdk.quantization.sensitivity import HeadLoss
from retinasdk.tensorrt.int8 import quantize


def images(count: int = 4) -> list[Any]:
    return [blocks(90, 120, seed=seed) for seed in range(count)]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed, image in enumerate(images()):
        Image.fromarray(image).save(folder / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def written(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> QuantizationReport:
    out = tmp_path_factory.mktemp("quantized") / "tiny8.onnx"
    return quantize_onnx(model_path, out, images(), sweep_images=2, min_agreement=0.7)


# -- what is written ---------------------------------------------------------------------------------------------------


def test_it_finds_the_same_objects(written: QuantizationReport, detector: Detector) -> None:
    """On pictures that it was not calibrated with."""
    unseen = [blocks(90, 120, seed=seed) for seed in range(10, 20)]
    with Detector(written.output, device="cpu") as in_codes:
        found = [in_codes(image) for image in unseen]
        assert in_codes(unseen) == found
    wanted = [detector(image) for image in unseen]
    assert sum(map(len, wanted)) > 20
    agreement = agreement_of(wanted, found)
    assert agreement is not None
    assert agreement > 0.7


def test_the_report(written: QuantizationReport, network: onnx.ModelProto) -> None:
    weights = {node.input[1] for node in network.graph.node if node.op_type == "Conv"}
    assert {layer.name for layer in written.layers} == weights
    assert sum(layer.work for layer in written.layers) == pytest.approx(1)
    assert all(0 <= layer.loss < 0.5 for layer in written.layers)
    assert any(layer.is_quantized for layer in written.layers)
    outputs = {value.name for value in network.graph.output}
    last = {node.input[1] for node in network.graph.node if node.output[0] in outputs}
    assert not any(layer.is_quantized for layer in written.layers if layer.name in last)
    assert written.speed > 0
    text = str(written)
    assert "AP was not measured" in text
    assert ("float32 is faster on this processor" in text) == (written.speed < 1)
    slower, faster = (str(dataclasses.replace(written, speed=speed)) for speed in (0.6, 1.4))
    assert "0.60 times as fast as float32 on this machine\n  float32 is faster on this processor" in slower
    assert "float32 is faster on this processor" not in faster
    assert all(name in text for name in weights)
    kinds = [node.op_type for node in onnx.load(written.output).graph.node]
    assert kinds.count("QuantizeLinear") > 3


def test_the_spec_is_beside_and_inside(written: QuantizationReport, spec: ModelSpec, tmp_path: Path) -> None:
    beside = ModelSpec.load(written.output.with_suffix(".json"))
    assert beside == written.spec
    assert "8 bits for ONNX Runtime on the CPU" in beside.source["quantized"]
    assert beside.replace(source=spec.source) == spec
    alone = tmp_path / "alone.onnx"
    alone.write_bytes(written.output.read_bytes())
    with Detector(alone, device="cpu") as in_codes:
        assert in_codes.spec == beside


def test_a_fixed_batch(network: onnx.ModelProto, spec: ModelSpec, tmp_path: Path) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(network)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, tmp_path / "two.onnx")
    report = quantize_onnx(
        tmp_path / "two.onnx", tmp_path / "out.onnx", images(), sweep_images=1, min_agreement=0, spec=spec
    )
    with Detector(report.output, device="cpu") as in_codes:
        assert len(in_codes(images()[0], score_threshold=0.1)) > 0


def test_head_loss(network: onnx.ModelProto, spec: ModelSpec) -> None:
    """Against the same written out for one image: errors over the best 300 pairs of either network."""
    changed = onnx.ModelProto()
    changed.CopyFrom(network)
    for tensor in changed.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim == 4:
            tensor.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(1.02), tensor.name))
    inputs = list(network_inputs(images(1), spec))
    loss = HeadLoss(Network(prepared(network)), spec, inputs)
    assert loss.of(network) == 0

    flat = []
    for model in (network, changed):
        session = __import__("onnxruntime").InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        outputs = dict(
            zip([o.name for o in session.get_outputs()], session.run(None, {"images": inputs[0]}), strict=True)
        )
        scores, deltas = [], []
        for level in spec.levels:
            for row in np.ndindex(*outputs[level.logits].shape[2:]):
                for anchor in range(9):
                    logits = outputs[level.logits][(0, slice(anchor * 3, anchor * 3 + 3), *row)].astype(float)
                    scores.append(1 / (1 + np.exp(-logits)))
                    deltas.append(outputs[level.deltas][(0, slice(anchor * 4, anchor * 4 + 4), *row)].astype(float))
        flat.append((np.array(scores), np.array(deltas) / spec.box_coder.weights))
    (a, da), (b, db) = flat
    pairs = sorted({*np.argsort(a.ravel())[-300:].tolist(), *np.argsort(b.ravel())[-300:].tolist()})
    errors = [(a.ravel()[i] - b.ravel()[i]) ** 2 + np.mean((da[i // 3] - db[i // 3]) ** 2) for i in pairs]
    assert loss.of(changed) == pytest.approx(np.sqrt(np.mean(errors)), rel=1e-3)


# -- average precision -------------------------------------------------------------------------------------------------


@pytest.fixture
def annotated(detector: Detector, tmp_path: Path) -> Path:
    """Pictures with the float32 network's own detections as the truth."""
    folder = tmp_path / "set"
    folder.mkdir()
    return save_set(folder, own_truth(detector))


def test_average_precision_is_measured(model_path: Path, annotated: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    report = quantize_onnx(
        model_path, out, annotated.parent, annotations=annotated, max_ap_drop=60, sweep_images=1, min_agreement=1
    )
    assert report.AP_before is not None
    assert report.AP_after is not None
    assert report.AP_before - report.AP_after <= 0.6
    assert f"AP {report.AP_before:.4f} before, {report.AP_after:.4f} after" in str(report)


def test_too_much_average_precision_lost(
    model_path: Path, annotated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantizer, "_ATTEMPTS", (1.0,))
    out = tmp_path / "out.onnx"
    with pytest.raises(
        ModelError, match=r"in 8 bits AP falls by .* to .* at most 0 are allowed \(max_ap_drop\), even with .* layers"
    ):
        quantize_onnx(model_path, out, annotated.parent, annotations=annotated, max_ap_drop=0, sweep_images=1)
    assert not out.exists()
    assert not out.with_suffix(".json").exists()


@pytest.mark.parametrize(
    ("before", "after", "agreement", "why"),
    [
        (0.4, 0.397, 0.1, None),  # AP decides where there is one
        (0.4, 0.3969, 1.0, "AP falls by 0.31 points, from 0.4000 to 0.3969; at most 0.3 are allowed"),
        (0.4, 0.5, 0.0, None),
        (None, None, 0.9, None),
        (None, None, 0.89, "only 89.0% of the detections have a counterpart; at least 90.0% are required"),
        (None, None, None, None),
    ],
)
def test_why_refused(before: float | None, after: float | None, agreement: float | None, why: str | None) -> None:
    found = why_refused(before, after, agreement, max_ap_drop=0.3 + 1e-9, min_agreement=0.9)
    assert found is None if why is None else found is not None and why in found


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_detections_that_do_not_agree(model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantizer, "_ATTEMPTS", (1.0,))
    with pytest.raises(
        ModelError, match=r"tiny\.onnx: in 8 bits only .* at least 100.0% .* even with [0-9]+ of .*Nothing"
    ):
        quantize_onnx(model_path, tmp_path / "out.onnx", images(), sweep_images=1, min_agreement=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output": "out.engine"}, "output must be a file name that ends in .onnx, got"),
        ({"output": "absent/out.onnx"}, "cannot be written; create its folder"),
        ({"images": []}, "at least one image, but got none"),
        ({"max_ap_drop": -1.0}, "max_ap_drop must be from 0 to 100 points of AP, got -1.0"),
        ({"max_ap_drop": float("nan")}, "max_ap_drop must be from 0 to 100 points"),
        ({"min_agreement": 1.5}, "min_agreement must be from 0 to 1, got 1.5"),
        ({"sweep_images": 0}, "sweep_images must be an integer of at least 1, got 0"),
        ({"annotations": "truth.json"}, "images must be the folder of the annotated images, got single images"),
        ({"annotations": "truth.json", "images": "."}, "does not exist; give an annotation file in COCO format"),
    ],
)
def test_wrong_arguments(model_path: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    options = {"output": "out.onnx", "images": images(1), **change}
    if options["images"] == ".":
        options["images"] = tmp_path
    with pytest.raises(ValueError, match=message):
        quantize_onnx(model_path, tmp_path / options.pop("output"), options.pop("images"), **options)
    assert list(tmp_path.iterdir()) == []


def test_the_network_itself_is_not_overwritten(model_path: Path) -> None:
    before = model_path.read_bytes()
    with pytest.raises(ValueError, match="is the network that is being quantized"):
        quantize_onnx(model_path, model_path, images(1))
    assert model_path.read_bytes() == before


def test_images_that_cannot_be_used(model_path: Path, photos: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    out = tmp_path / "out.onnx"
    with pytest.raises(ValueError, match="has no images to calibrate with"):
        quantize_onnx(model_path, out, empty)
    (photos / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        quantize_onnx(model_path, out, photos)
    with pytest.raises(ValueError, match=r"detects nothing above .* in the 1 images"):
        quantize_onnx(model_path, out, [np.zeros((90, 120, 3), np.uint8)], sweep_images=1)
    assert not out.exists()


def test_annotations_without_boxes(model_path: Path, tmp_path: Path) -> None:
    annotations = save_set(tmp_path, truth({"0.png": []}))
    with pytest.raises(ValueError, match="box"):
        quantize_onnx(model_path, tmp_path / "out.onnx", tmp_path, annotations=annotations, sweep_images=1)
    assert not (tmp_path / "out.onnx").exists()


def test_what_is_quantized_already(
    written: QuantizationReport, network: onnx.ModelProto, spec: ModelSpec, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs.onnx"
    onnx.save(quantize(network, spec, images(1)), theirs)
    for path in (written.output, theirs):
        with pytest.raises(ModelError, match=r"network is quantized already .*Use the"):
            quantize_onnx(path, tmp_path / "out.onnx", images(1), spec=spec)


def test_interruption_leaves_what_was_there(model_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    out.write_bytes(b"mine")

    def interrupted(progress: Progress) -> None:
        if progress.step == "sweep" and progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_onnx(model_path, out, images(), progress=interrupted)
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]
    assert out.read_bytes() == b"mine"


def test_onnx_is_asked_for(run_python: Callable[..., Any], model_path: Path, tmp_path: Path) -> None:
    program = f"""
import sys, numpy
sys.modules["onnx"] = None
import retinasdk
try:
    retinasdk.quantize_onnx({str(model_path)!r}, "out.onnx", [numpy.zeros((90, 120, 3), "uint8")])
except retinasdk.MissingDependencyError as error:
    print(error)
"""
    result = run_python(["-c", program])
    assert "pip install 'retinasdk[onnx]'" in result.stdout, result.stderr


# -- the command -------------------------------------------------------------------------------------------------------


def cells(seed: int) -> Image.Image:
    """Something like red and white blood cells under a microscope."""
    random = np.random.default_rng(seed)
    picture = Image.new("RGB", (160, 120), (225, 215, 220))
    draw = ImageDraw.Draw(picture)
    for _ in range(12):
        x, y, size = *random.integers(0, (150, 110)).tolist(), int(random.integers(22, 30))
        draw.ellipse((x, y, x + size, y + size), fill=(215, 150, 150), outline=(190, 120, 125))
    draw.ellipse((60, 40, 100, 80), fill=(120, 70, 150))
    return picture


@pytest.mark.heavy  # 62 layers are quantized, each alone
def test_the_command_on_a_bundled_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Made small: the network's own files, with a spec that reduces images to 160 pixels."""
    bundled = next(model for model in list_models() if model.name == "blood-cells")
    source = tmp_path / "cells.onnx"
    source.write_bytes(bundled.path.read_bytes())
    bundled.spec.replace(resize=Resize("longest", (160,)), score_threshold=0.1).save(source.with_suffix(".json"))
    folder = tmp_path / "cells"
    folder.mkdir()
    for seed in range(3):
        cells(seed).save(folder / f"{seed}.png")
    out = tmp_path / "cells8.onnx"
    options = ["--images", str(folder), "--sweep-images", "1", "--min-agreement", "0.5"]
    assert main(["quantize", str(source), "-o", str(out), *options]) == 0
    said = capsys.readouterr().out
    assert f"wrote {out} and cells8.json" in said
    assert "blocks.0.0.weight" in said
    assert "times as fast as float32 on this machine" in said
    assert main(["detect", str(folder), "--model", str(out), "--json", str(tmp_path / "found.json")]) == 0
    assert sum(len(entry["detections"]) for entry in json.loads((tmp_path / "found.json").read_text())) > 0
    assert source.stat().st_size > 3 * out.stat().st_size


def test_the_command(model_path: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.onnx"
    options = ["--images", str(photos), "--sweep-images", "1", "--min-agreement", "0.7"]
    assert main(["quantize", str(model_path), "-o", str(out), *options]) == 0
    said = capsys.readouterr().out
    assert f"wrote {out} and out.json" in said
    assert "times as fast as float32 on this machine" in said
    with Detector(out, device="cpu") as in_codes:
        assert len(in_codes(photos / "0.png")) > 0


def test_the_command_refuses_in_one_line(
    model_path: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantizer, "_ATTEMPTS", (1.0,))
    out = tmp_path / "out.onnx"
    options = ["--images", str(photos), "--min-agreement", "1", "--sweep-images", "1"]
    assert main(["quantize", str(model_path), "-o", str(out), *options]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("retinasdk: error: ")
    assert "min_agreement" in said[0]
    assert "Nothing was written" in said[0]
    assert not out.exists()
