"""`Detector` on the tiny network: inputs, lists, classes, thresholds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from pictures import LABELS, Image, blocks
from PIL import Image as PillowImage

from retinasdk import Detector, ImageError, ModelError, ModelSpec, Resize, Tiles

SIZES = ((90, 120), (90, 120), (120, 90), (61, 47), (90, 121), (30, 400), (400, 30), (1, 1))


@pytest.fixture(scope="module")
def images() -> list[Image]:
    return [blocks(*size, seed=seed) for seed, size in enumerate(SIZES)]


# -- what it gives -----------------------------------------------------------------------------------------------------


def test_detections_are_well_formed(detector: Detector, images: list[Image]) -> None:
    for image in images:
        detections = detector(image, score_threshold=0.05)
        assert detections.labels == LABELS
        assert len(detections) > 0
        assert (np.diff(detections.scores) <= 0).all()  # best first
        assert detections.scores.min() > 0.05
        height, width = image.shape[:2]
        x1, y1, x2, y2 = detections.xyxy.T
        assert (x1 <= x2).all()
        assert (y1 <= y2).all()
        assert min(x1.min(), y1.min()) >= 0
        assert x2.max() <= width * 1.000001
        assert y2.max() <= height * 1.000001


def test_path_pillow_and_array_agree(detector: Detector, tmp_path: Path) -> None:
    image = blocks()
    PillowImage.fromarray(image).save(tmp_path / "image.png")
    wanted = detector(image)
    assert detector(tmp_path / "image.png") == wanted
    assert detector(str(tmp_path / "image.png")) == wanted
    assert detector(PillowImage.fromarray(image)) == wanted
    with PillowImage.open(tmp_path / "image.png") as opened:
        assert detector(opened) == wanted


def test_calls_repeat(detector: Detector) -> None:
    first = detector(blocks())
    detector(blocks(50, 70, seed=9), score_threshold=0.1, classes=["dog"])  # leaves nothing behind
    assert detector(blocks()) == first


def test_clipping(model_path: Path, spec: ModelSpec) -> None:
    padded = spec.replace(resize=Resize("squash", (96, 96)), pad_multiple=128)
    largest = {
        clip: Detector(model_path, spec=padded.replace(clip=clip))(blocks(96, 96)).xyxy.max()
        for clip in ("resized", "padded", "none")
    }
    assert largest["resized"] == 96
    assert 96 < largest["padded"] <= 128
    assert largest["none"] >= largest["padded"]


# -- lists -------------------------------------------------------------------------------------------------------------


def test_a_list_gives_what_single_calls_give(detector: Detector, images: list[Image]) -> None:
    singles = [detector(image) for image in images]
    assert detector(images) == singles
    assert detector(tuple(images)) == singles
    assert detector(images[::-1]) == singles[::-1]
    assert len({len(single) for single in singles}) > 1


def test_one_network_input_size_goes_through_together(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, shapes = detector._backend, []
    infer = backend.infer
    monkeypatch.setattr(backend, "infer", lambda tensor: shapes.append(tensor.shape) or infer(tensor))
    detector([blocks(90, 120), blocks(60, 160), blocks(45, 60), blocks(90, 121)])
    assert sorted(shapes) == [(1, 3, 96, 224), (3, 3, 128, 192)]


def test_long_lists(detector: Detector) -> None:
    images = [blocks(40 + 8 * (index % 3), 60, seed=index) for index in range(37)]
    results = detector(images, score_threshold=0.4)
    assert results == [detector(image, score_threshold=0.4) for image in images]


def test_short_lists(detector: Detector) -> None:
    assert detector([]) == []
    assert detector(()) == []
    assert detector([blocks()]) == [detector(blocks())]


def test_lists_of_many_kinds(detector: Detector, tmp_path: Path) -> None:
    image = blocks()
    PillowImage.fromarray(image).save(tmp_path / "image.png")
    results = detector([image, tmp_path / "image.png", str(tmp_path / "image.png"), PillowImage.fromarray(image)])
    assert results == [detector(image)] * 4


def test_one_bad_image_in_a_list_is_named(detector: Detector) -> None:
    with pytest.raises(ImageError, match=r"gone\.jpg: no such file"):
        detector([blocks(), "gone.jpg"])
    with pytest.raises(TypeError, match="image must be a path"):
        detector([blocks(), None])  # type: ignore[list-item]


# -- classes -----------------------------------------------------------------------------------------------------------


def test_classes_at_the_call(detector: Detector) -> None:
    image = blocks()
    everything = detector(image)
    assert 0 < len(everything) < detector.spec.max_detections
    dogs = detector(image, classes=["dog"])
    assert 0 < len(dogs) < len(everything)
    assert set(dogs.names) == {"dog"}
    assert dogs == everything.filter(classes=["dog"])  # no limit was reached, so both ways agree
    assert detector(image, classes=[2]) == detector(image, classes=np.array([2])) == dogs  # type: ignore[arg-type]
    assert detector(image, classes=["dog", "person"]) == everything.filter(classes=["person", "dog"])
    assert detector(image, classes=LABELS) == everything
    assert detector([image, image], classes=("dog",)) == [dogs, dogs]


def test_limits_are_spent_on_the_named_classes(model_path: Path, spec: ModelSpec) -> None:
    image = blocks()
    few = Detector(model_path, spec=spec.replace(max_detections=6, score_threshold=0.05))
    everything, dogs = few(image), few(image, classes=["dog"])
    assert len(everything) == len(dogs) == 6
    assert len(everything.filter(classes=["dog"])) < 6
    top_one = Detector(model_path, spec=spec.replace(top_k=1, score_threshold=0.05))
    assert len(top_one(image)) <= len(spec.levels)
    assert top_one(image, classes=["dog"]).scores[0] == dogs.scores[0]
    assert top_one(image, classes=["dog"]) != top_one(image).filter(classes=["dog"])


@pytest.mark.parametrize(
    ("classes", "error", "message"),
    [
        (["persn"], ValueError, "unknown class 'persn'; did you mean 'person'?"),
        (["Person"], ValueError, "did you mean 'person'?"),
        ([""], ValueError, "the model knows chair, dog, person"),
        (["person", "unicorn"], ValueError, "unknown class 'unicorn'"),
        ([], ValueError, "at least one class, got an empty list"),
        ("persn", ValueError, "unknown class 'persn'; did you mean 'person'?"),
        ([3], ValueError, "class index must be 0 to 2, got 3"),
        ([-1], ValueError, "class index must be 0 to 2, got -1"),
        ([0.0], TypeError, "names or indices, got 0.0"),
        (7, TypeError, "names or indices, got 7"),
    ],
)
def test_bad_classes(detector: Detector, classes: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        detector(blocks(), classes=classes)


def test_ignored_labels_are_left_out_unless_named(model_path: Path, spec: ModelSpec) -> None:
    detector = Detector(model_path, spec=spec.replace(ignore_labels=("person",)))
    everything = Detector(model_path)(blocks())
    assert detector(blocks()) == everything.filter(classes=["chair", "dog"])
    assert detector(blocks(), classes=["person"]) == everything.filter(classes=["person"])


# -- thresholds --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), -0.1, 1.1, float("inf"), "0.5", [0.5], 50])
def test_bad_thresholds(detector: Detector, model_path: Path, value: Any) -> None:
    with pytest.raises(ValueError, match="score_threshold must be a number from 0 to 1, got"):
        detector(blocks(), score_threshold=value)
    with pytest.raises(ValueError, match="score_threshold must be a number from 0 to 1, got"):
        Detector(model_path, score_threshold=value)


def test_where_the_threshold_comes_from(model_path: Path) -> None:
    image = blocks()
    assert Detector(model_path).score_threshold == 0.25
    own = Detector(model_path, score_threshold=0.4)
    wanted = own(image)
    assert wanted.scores.min() > 0.4
    assert own(image, score_threshold=None) == wanted
    assert own(image, score_threshold=0.25) == Detector(model_path)(image)
    assert own(image, score_threshold=np.float32(0.5)) == own(image, score_threshold=0.5)
    assert own.score_threshold == 0.4


def test_a_higher_threshold_only_leaves_out(detector: Detector, images: list[Image]) -> None:
    for image in images:
        low = detector(image, score_threshold=0.1)
        for threshold in (0.1, 0.2, 0.3, 0.45, 0.6):
            high = detector(image, score_threshold=threshold)
            assert high == low[low.scores > np.float32(threshold)]
    assert len(detector(images[0], score_threshold=1.0)) == 0
    assert len(detector(images[0], score_threshold=0.0)) == detector.spec.max_detections


def test_the_threshold_itself_is_out(network: onnx.ModelProto, spec: ModelSpec, tmp_path: Path) -> None:
    """A network that says 0 everywhere has scores of exactly 0.5, all of them tied: lower indices come first."""
    zero = onnx.ModelProto()
    zero.CopyFrom(network)
    for tensor in zero.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.raw_data = bytes(len(tensor.raw_data))
    onnx.save(zero, str(tmp_path / "zero.onnx"))
    detector = Detector(tmp_path / "zero.onnx", spec=spec)
    assert len(detector(blocks(), score_threshold=0.5)) == 0
    tied = detector(blocks(), score_threshold=0.49)
    assert len(tied) > 3
    assert set(tied.scores.tolist()) == {0.5}
    assert tied.class_ids[:3].tolist() == [0, 1, 2]  # of the first anchor in the first cell
    np.testing.assert_array_equal(tied.xyxy[:3], tied.xyxy[[0, 0, 0]])
    assert tied == detector(blocks(), score_threshold=0.49)


# -- what people try first ---------------------------------------------------------------------------------------------


def test_spellings_mean_the_same(detector: Detector) -> None:
    image = blocks()
    assert detector(image, classes="person") == detector(image, classes=["person"])
    assert detector(image, tiles=64) == detector(image, tiles=Tiles(64))
    assert detector(image[..., ::-1], channel_order="bgr") == detector(image)
    assert detector(image[..., ::-1], channel_order="bgr", tiles=64) == detector(image, tiles=64)
    assert detector(image) != detector(image[..., ::-1])
    assert detector.names == dict(enumerate(detector.labels))
    detector.warmup(64, 96)


def test_results_know_their_image(detector: Detector) -> None:
    image = blocks()
    for result in (detector(image), detector([image, image])[1], detector(image, tiles=64)):
        assert result.image is image
        assert result.image_size == image.shape[:2]
        assert set(result.timing) == {"preprocess", "inference", "postprocess"}
        assert all(seconds > 0 for seconds in result.timing.values())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("conf", "called score_threshold"),
        ("iou", "nms_iou_threshold"),
        ("imgsz", "ModelSpec.resize"),
        ("x", "known are"),
    ],
)
def test_keywords_of_other_packages(detector: Detector, option: str, message: str) -> None:
    for call in (
        lambda **o: Detector("people", **o),
        lambda **o: detector([], **o),
        lambda **o: detector.predict([], **o),
    ):
        with pytest.raises(TypeError, match=f"'{option}'.*{message}"):
            call(**{option: 0.5})


def test_devices_and_channel_orders(model_path: Path, detector: Detector) -> None:
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES=1"):
        Detector(model_path, device="cuda:1")
    with pytest.raises(ValueError, match='"rgb" or "bgr"'):
        detector(blocks(), channel_order="gbr")  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("name", "message"), [("a.pth", "retinasdk export"), ("a.safetensors", "retinasdk export"), ("a.keras", "tf2onnx")]
)
def test_checkpoints_say_how_to_convert(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_bytes(b"weights")
    with pytest.raises(ModelError, match=message):
        Detector(tmp_path / name)
