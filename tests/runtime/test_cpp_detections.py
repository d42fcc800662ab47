"""libretinasdk finds what Python finds, to the last bit: bundled models on photos, and every rule of a spec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import libretinasdk
import numpy as np
import onnx
import pytest
import random_retinanet as networks
from libretinasdk import CDetector, assert_same, described
from paths import EXAMPLES, PHOTOS
from PIL import Image as Picture

from retinasdk import BoxCoder, Detector, Level, ModelSpec, Normalise, Resize, Suppression, list_models

pytestmark = pytest.mark.heavy  # compiles the library

PICTURES = {
    "people": ("people/astronaut.jpg", "people/grace_hopper.jpg"),
    "tree-crowns": ("tree-crowns/yellowstone.jpg",),
}


def photo(name: str) -> np.ndarray:
    return np.asarray(Picture.open(PHOTOS / name).convert("RGB"))


@pytest.mark.parametrize("name", sorted(PICTURES))
def test_bundled_models_on_photos(name: str) -> None:
    (path,) = (model.path for model in list_models() if model.name == name)
    images = [photo(picture) for picture in PICTURES[name]]
    theirs = Detector(path, device="cpu", convolution="direct")(images, score_threshold=0.02)
    ours = CDetector(path)([described(image) for image in images], score_threshold=0.02)
    for mine, other in zip(ours, theirs, strict=True):
        assert len(mine) > 50
        assert_same(mine, other)


# Each changes the spec of the tiny network in conftest.py.
RULES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "longest": {"resize": Resize("longest", (160,), rounding="half_up")},
    "native": {"resize": Resize("native", (160,), rounding="half_even")},
    "squash": {"resize": Resize("squash", (96, 160), antialias=True)},
    "fit": {"resize": Resize("fit", (128, 192), eight_bit=True)},
    "fit, antialias": {"resize": Resize("fit", (128, 192), antialias=True, eight_bit=True)},
    "source step": {
        "resize": Resize("shortest", (128, 224), source_step="scale", rounding="half_even", eight_bit=True),
        "rescale": "uniform",
    },
    "BGR": {"normalise": Normalise((103.5, 116.3, 123.7), (57.0, 57.5, 58.5), "BGR")},
    "padding": {"pad_multiple": 128, "pad_at_least": 1, "clip": "padded"},
    "clip to level, last pixel": {"clip": "level", "clip_limit": "last_pixel"},
    "clip to original": {"clip": "original", "drop_empty": "after_nms"},
    "no clip": {"clip": "none"},
    "drop empty": {"drop_empty": "before_nms"},
    "inclusive pixels": {"inclusive_pixels": True, "clip_limit": "last_pixel"},
    "comparisons": {"score_comparison": ">=", "nms_comparison": ">="},
    "limits": {"top_k": 50, "max_detections": 40, "max_per_class": 15},
    "anchors": {"top_k_unit": "anchor", "top_k": 40},
    "across classes": {"nms_across_classes": True, "nms_iou_threshold": 0.3},
    "ignored labels": {"ignore_labels": ("chair",)},
    "corner coder": {"box_coder": BoxCoder(kind="corner", clamp_max=None, weights=(5.0, 5.0, 5.0, 5.0))},
    "bounds": {"box_coder": BoxCoder(clamp_max=None, clamp_min=-0.1, means=(0.1, 0.0, 0.1, 0.0))},
}


@pytest.fixture
def images(picture: Any) -> list[np.ndarray]:
    return [picture(90, 130, 1), picture(130, 90, 2), picture(90, 130, 3), picture(31, 300, 4)]


@pytest.mark.parametrize("rules", sorted(RULES))
def test_rules_of_specs(rules: str, spec: ModelSpec, model_path: Path, images: list[np.ndarray]) -> None:
    changed = spec.replace(**RULES[rules])
    theirs = Detector(model_path, device="cpu", convolution="direct", spec=changed)(images, score_threshold=0.1)
    ours = CDetector(model_path, spec_json=changed.to_json())(
        [described(image) for image in images], score_threshold=0.1
    )
    assert sum(map(len, theirs)) > 20
    for mine, other in zip(ours, theirs, strict=True):
        assert_same(mine, other)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (
            Suppression("soft_linear", iou_threshold=0.3),
            {"suppression": libretinasdk.SOFT_LINEAR, "iou_threshold": 0.3},
        ),
        (Suppression("soft_gaussian", sigma=0.3), {"suppression": libretinasdk.SOFT_GAUSSIAN, "sigma": 0.3}),
        (Suppression("fusion"), {"suppression": libretinasdk.FUSION}),
        (Suppression("fusion", fused_score="best"), {"suppression": libretinasdk.FUSION, "fused_best": 1}),
        (Suppression(across_classes=True, max_per_class=7), {"across_classes": 1, "max_per_class": 7}),
        (Suppression(iou_threshold=0.0, max_detections=9), {"iou_threshold": 0.0, "max_detections": 9}),
    ],
)
def test_suppression(theirs: Suppression, ours: dict[str, Any], model_path: Path, images: list[np.ndarray]) -> None:
    detector = Detector(model_path, device="cpu", convolution="direct", suppression=theirs)
    # Soft rules need a threshold for each class.
    expected = detector(images, score_threshold={"person": 0.1, "chair": 0.15})
    found = CDetector(model_path, **ours)([described(image) for image in images], score_threshold=[0.1, 0.15, 0.25])
    assert sum(map(len, expected)) > 20
    for mine, other in zip(found, expected, strict=True):
        assert_same(mine, other)


@pytest.mark.parametrize(
    "coder",
    [
        BoxCoder(kind="center_sin_cos"),
        BoxCoder(kind="center_angle", angle_version="le90", edge_swap=True, proj_xy=True),
        BoxCoder(kind="center_angle", angle_version="le135", norm_factor=1.0, weights=(1.0, 1.0, 1.0, 1.0, 2.0)),
    ],
    ids=["sin cos", "le90", "le135"],
)
def test_rotated_boxes(coder: BoxCoder, tmp_path: Path, images: list[np.ndarray], monkeypatch: Any) -> None:
    # The channels of the outputs are shared out differently: 6 anchors x 3 classes and 6 deltas, or 4 x 5 and 5.
    anchors, labels = (6, 3) if coder.deltas == 6 else (4, 5)
    monkeypatch.setattr(networks, "ANCHORS", 9 if coder.deltas == 6 else 5)
    network, spec = networks.random_retinanet(classes=2 if coder.deltas == 6 else 4, prior=0.2)
    shapes = [(0.0, 0.0, 8.0 + 4 * i, 6.0 + 5 * (i % 3), 0.4 * i) for i in range(anchors)]
    levels = tuple(Level(level.logits, level.deltas, tuple(shapes), (8.0, 8.0)) for level in spec.levels)
    changed = spec.replace(
        labels=tuple(f"class {i}" for i in range(labels)),
        levels=levels,
        box_coder=coder,
        resize=Resize("shortest", (128, 224)),
        nms_angle="lower_score" if coder.deltas == 6 else "own",
        clip="level" if coder.deltas == 6 else "resized",
    )
    path = tmp_path / "rotated.onnx"
    onnx.save(network, str(path))
    changed.save(path.with_suffix(".json"))
    theirs = Detector(path, device="cpu", convolution="direct")(images)
    ours = CDetector(path)([described(image) for image in images])
    for mine, other in zip(ours, theirs, strict=True):
        assert len(other) > 20
        assert mine.xywhr is not None
        assert_same(mine, other)


def test_options_of_calls(model_path: Path, images: list[np.ndarray]) -> None:
    theirs = Detector(model_path, device="cpu", convolution="direct", threads=1)
    ours = CDetector(model_path, threads=1, score_threshold=0.2)
    given = [described(image) for image in images]
    regions = [(0.0, 0.0, 60.0, 60.0), (70.0, 10.0, 90.5, 80.0)]
    calls: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"score_threshold": 0.2}, {}),
        ({"score_threshold": 0.0}, {"score_threshold": 0.0}),
        ({"score_threshold": {"person": 0.2, "chair": 0.9, "dog": 0.3}}, {"score_threshold": [np.nan, 0.9, 0.3]}),
        ({"classes": ["dog"]}, {"classes": ["dog"], "score_threshold": 0.25}),
        ({"classes": ["dog", 0]}, {"classes": ["dog"], "class_ids": [0, 2], "score_threshold": 0.25}),
        ({"ignore": regions}, {"ignore": regions, "score_threshold": 0.25}),
    ]
    for python, c in calls:
        for mine, other in zip(ours(given, **c), theirs(images, **python), strict=True):
            assert_same(mine, other)


def test_pixel_formats(detector: Detector, model_path: Path, picture: Any) -> None:
    from retinasdk import _native

    ours = CDetector(model_path, threads=1)
    rgb = picture(90, 131, 5)
    grey = np.ascontiguousarray(rgb[..., 1])
    deep = grey.astype(np.uint16) * 256 + 77
    luma, chroma = np.ascontiguousarray(rgb[:, :130, 0]), np.ascontiguousarray(rgb[:45, :130, 1].reshape(45, 65, 2))
    luma10, chroma10 = luma.astype(np.uint16) << 8, chroma.astype(np.uint16) << 8
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    bt601 = {"matrix": "bt601", "full_range": False}
    cases = [
        (described(bgr, libretinasdk.BGR8), rgb),
        (described(rgb[::-1]), rgb[::-1]),  # Rows from bottom to top.
        (described(rgb[10:80, 20:100]), rgb[10:80, 20:100]),  # A crop, without a copy.
        (described(grey, libretinasdk.GRAY8), grey),
        (described(deep, libretinasdk.GRAY16), deep),
        (described((luma, chroma), libretinasdk.NV12), _native.yuv_to_rgb(luma, chroma, **bt601)),
        (described((luma10, chroma10), libretinasdk.P010), _native.yuv_to_rgb(luma10, chroma10, **bt601)),
    ]
    for image, expected in cases:
        assert_same(ours([image])[0], detector(expected))


def test_batches_of_a_fixed_size(network: onnx.ModelProto, spec: ModelSpec, tmp_path: Path, picture: Any) -> None:
    fixed = onnx.ModelProto()
    fixed.CopyFrom(network)
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    path = tmp_path / "fixed.onnx"
    onnx.save(fixed, str(path))
    spec.save(path.with_suffix(".json"))
    images = [picture(90, 130, seed) for seed in range(3)]
    theirs = Detector(path, device="cpu", convolution="direct")(images)
    for mine, other in zip(CDetector(path)([described(image) for image in images]), theirs, strict=True):
        assert_same(mine, other)


def test_the_model_of_an_example() -> None:
    path = EXAMPLES / "bottles" / "bottles.onnx"
    image = photo(PICTURES["people"][0])
    theirs = Detector(path, device="cpu", convolution="direct")(image, score_threshold=0.01)
    assert_same(CDetector(path)([described(image)], score_threshold=0.01)[0], theirs)
