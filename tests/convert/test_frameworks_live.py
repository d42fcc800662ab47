"""Runs the frameworks that can be installed from PyPI, and compares their boxes with those of the imported exports.

The scripts in tests/support/record build the models: here with other pictures than the recorded ones, and with the
versions that are installed. DeepForest and KerasHub have environments of their own; `.ci/run` says which packages.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT
from recorded_case import RecordedPicture, compare, picture

import retinasdk
from retinasdk.cli.main import main

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]

SCRIPTS = ROOT / "tests" / "support" / "record"
SIZES = ((231, 350), (400, 400), (310, 190))


def is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def script(name: str) -> Any:
    """Loads a recording script; the framework of this name must be installed."""
    specification = importlib.util.spec_from_file_location(f"record_{name}", SCRIPTS / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def cases() -> Iterator[Any]:
    for framework in ("torchvision", "deepforest", "keras_hub"):
        if is_installed("torch") and is_installed(framework):
            for name in script(framework).CASES:
                yield pytest.param(framework, name, id=f"{framework}-{name}")
        else:
            reason = f"runs {framework} itself, which is not installed; .ci/run installs it"
            yield pytest.param(framework, "", marks=pytest.mark.skip(reason=reason), id=framework)


def assert_same_boxes(detector: retinasdk.Detector, predict: Callable[[Any], tuple[Any, Any, Any]], sizes: Any) -> None:
    count = 0
    for seed, (height, width) in enumerate(sizes, 20):
        pixels = picture(seed, height, width)
        expected = RecordedPicture.of(seed, height, width, *predict(pixels))
        count += len(expected.boxes)
        found = detector(pixels)
        result = compare(expected, found.xyxy, found.scores, found.class_ids)
        assert result.is_equal, f"picture {height} x {width}: {result}"
    assert count >= 5, "a comparison without detections proves nothing"


@pytest.mark.parametrize(("framework", "name"), list(cases()))
def test_boxes_of_the_framework(framework: str, name: str, tmp_path: Path) -> None:
    module = script(framework)
    predict = module.run_case(name, tmp_path / "theirs.onnx")
    *_, options, sizes = module.CASES[name]
    # Where the resize keeps the aspect ratio by padding both sides, only pictures of that ratio can be compared.
    is_free = "ratio" not in module.CASES[name][0]
    retinasdk.import_onnx(tmp_path / "theirs.onnx", tmp_path / "model.onnx", **options)
    with retinasdk.Detector(tmp_path / "model.onnx", convolution="direct") as detector:
        assert_same_boxes(detector, predict, SIZES if is_free else sizes)


# -- KerasHub ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not is_installed("keras_hub"), reason="runs KerasHub itself; .ci/run installs it")
def test_a_dynamic_export_of_keras_hub_is_refused(tmp_path: Path) -> None:
    """PyTorch traces it at 1 x 1, and the padding of its convolutions is then wrong for every even size."""
    module = script("keras_hub")
    arguments = {**module.CASES["fixed"][1], "is_dynamic": True}
    module.export(module.detector(**arguments), tmp_path / "theirs.onnx")
    with pytest.raises(retinasdk.ModelError, match=r"padding for images of 1 x 1 pixels.*Export it for one size"):
        retinasdk.import_onnx(
            tmp_path / "theirs.onnx", tmp_path / "a.onnx", flavour="keras-hub", resize="squash:256x320"
        )


@pytest.mark.skipif(not is_installed("keras_hub"), reason="runs KerasHub itself; .ci/run installs it")
def test_a_resnet_of_keras_hub(tmp_path: Path) -> None:
    """With the backbone, pyramid and heads that users have: ResNet 18, 256 channels, four convolutions in the heads."""
    module = script("keras_hub")
    arguments = {"classes": 3, "size": (192, 256), "score": 0.3, "iou": 0.5, "limit": 100, "seed": 6}
    model = module.detector(**arguments, is_small=False)
    # With a size for the batch, too: otherwise Keras takes PyTorch's older exporter, which fails for this model.
    module.export(model, tmp_path / "theirs.onnx", input_signature=[module.signature((192, 256))])
    options = {"flavour": "keras-hub", "resize": "squash", "score_threshold": 0.3}
    retinasdk.import_onnx(tmp_path / "theirs.onnx", tmp_path / "model.onnx", **options)
    with retinasdk.Detector(tmp_path / "model.onnx", convolution="direct") as detector:
        assert_same_boxes(detector, lambda pixels: module.found(model, pixels, (192, 256)), [(231, 350), (400, 400)])


@pytest.mark.skipif(not is_installed("keras_hub"), reason="runs KerasHub itself; .ci/run installs it")
def test_pictures_that_keras_hub_pads(tmp_path: Path) -> None:
    """The published models pad both sides. The recipe of the docs does that before the detector."""
    module = script("keras_hub")
    predict = module.run_case("defaults-square", tmp_path / "theirs.onnx")
    retinasdk.import_onnx(tmp_path / "theirs.onnx", tmp_path / "model.onnx", **module.CASES["defaults-square"][2])
    pixels = picture(31, 200, 320)
    square, left, top = module.padded_to_square(pixels)
    assert (square.shape, left, top) == ((320, 320, 3), 0, 60)
    boxes, scores, classes = predict(square)
    expected = RecordedPicture.of(31, 320, 320, boxes, scores, classes)
    with retinasdk.Detector(tmp_path / "model.onnx", convolution="direct") as detector:
        found = detector(square)
    assert compare(expected, found.xyxy, found.scores, found.class_ids).is_equal
    model, size = module.detector(**module.CASES["defaults-square"][1]), (256, 256)
    own = module.found(model, pixels, size)[1]  # KerasHub pads the picture itself.
    assert own == pytest.approx(scores, abs=1e-3)


# -- DeepForest: the command, with the whole network -------------------------------------------------------------------


@pytest.fixture(scope="module")
def forests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    """A DeepForest with ResNet 50 and random weights, and its folder, without a network."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("deepforest", reason="runs DeepForest itself; .ci/run installs it")
    import torchvision
    from deepforest import main as deepforest_main
    from deepforest.models.retinanet import RetinaNetHub
    from torchvision_heads import spread_heads

    folder = tmp_path_factory.mktemp("deepforest")
    cache = folder / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(folder / "torch"))
        torch.manual_seed(3)
        # In place of what DeepForest would download.
        torch.save(torchvision.models.resnet50(weights=None).state_dict(), cache / "resnet50-0676ba61.pth")
        hub = RetinaNetHub(num_classes=1, label_dict={"Tree": 0}, score_thresh=0.3, nms_thresh=0.2).eval()
        spread_heads(hub, torch.randn(1, 3, 400, 400), bias=-4.0)
        hub.save_pretrained(folder / "hub")
        yield deepforest_main, folder


def predicted(forest: Any) -> Callable[[Any], tuple[Any, Any, Any]]:
    return lambda pixels: script("deepforest").predict(forest, pixels)


@pytest.mark.parametrize("config", [{}, {"score_thresh": 0.07, "nms_thresh": 0.3}], ids=["defaults", "own"])
def test_a_deepforest_checkpoint(config: dict[str, Any], forests: tuple[Any, Path], tmp_path: Path) -> None:
    """`retinasdk export deepforest:mine.ckpt` gives the boxes of predict_image of the loaded checkpoint."""
    deepforest_main, folder = forests
    forest = deepforest_main.deepforest(config_args={"model": {"name": str(folder / "hub")}, **config})
    forest.trainer.strategy.connect(forest)
    forest.save_model(tmp_path / "mine.ckpt")
    assert main(["export", f"deepforest:{tmp_path / 'mine.ckpt'}", "-o", str(tmp_path / "trees.onnx")]) == 0
    loaded = deepforest_main.deepforest.load_from_checkpoint(tmp_path / "mine.ckpt", weights_only=False)
    with retinasdk.Detector(tmp_path / "trees.onnx", convolution="direct") as detector:
        assert detector.labels == ("Tree",)
        assert detector.spec.score_threshold == config.get("score_thresh", 0.1)
        assert_same_boxes(detector, predicted(loaded), [(400, 400), (250, 380)])


def test_a_deepforest_folder_and_model(forests: tuple[Any, Path], tmp_path: Path) -> None:
    """A folder as Hugging Face has it, by the command, and the loaded model in Python: the same rules and boxes."""
    deepforest_main, folder = forests
    forest = deepforest_main.deepforest(config_args={"model": {"name": str(folder / "hub")}})
    assert main(["export", f"deepforest:{folder / 'hub'}", "-o", str(tmp_path / "a.onnx")]) == 0
    report = retinasdk.export_deepforest(forest, tmp_path / "b.onnx")
    assert report.spec.labels == ("Tree",)
    # DeepForest's own configuration overrides that of the folder.
    assert json.loads((folder / "hub" / "config.json").read_text())["score_thresh"] == 0.3
    for name in ("a", "b"):
        with retinasdk.Detector(tmp_path / f"{name}.onnx", convolution="direct") as detector:
            assert (detector.spec.score_threshold, detector.spec.nms_iou_threshold) == (0.1, 0.05)
            assert_same_boxes(detector, predicted(forest), [(400, 400)])
