"""Records boxes of KerasHub's RetinaNet: exports by `model.export`, boxes by `model.predict` on the uint8 pictures.

In an environment of its own (Keras runs here on torch, as PyTorch is what the other recordings use):

    pip install keras keras-hub torch torchvision onnx onnxscript
    KERAS_BACKEND=torch python tests/support/record/keras_hub.py

Recorded with keras-hub 0.32.0, keras 3.15.1 and torch 2.14.1. The widths of the pyramid and of the heads are reduced,
so that the files are small; every other line of code that runs is KerasHub's.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")
sys.path.insert(0, str(Path(__file__).parents[1]))

import keras
import keras_hub
import numpy as np
import torch
from keras_hub.src.models.retinanet import retinanet_backbone, retinanet_object_detector
from recorded_case import FOLDER, RecordedCase, RecordedPicture, picture

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # Of the published models.
WIDTH = 16


def narrow(width: int) -> None:
    """Gives the pyramid and the heads `width` channels instead of 256, which is no argument in KerasHub."""
    pyramid, head = keras_hub.src.models.retinanet.feature_pyramid, keras_hub.src.models.retinanet.prediction_head

    class NarrowPyramid(pyramid.FeaturePyramid):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{"num_filters": width, **options})

    class NarrowHead(head.PredictionHead):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "num_filters": width})

    retinanet_backbone.FeaturePyramid = NarrowPyramid
    retinanet_object_detector.PredictionHead = NarrowHead


def image_encoder() -> Any:
    """A small network with outputs P2 to P5, as KerasHub's backbones have them (the smallest of its own has 64 MB)."""
    layers = keras.layers
    images = layers.Input((None, None, 3))
    x = layers.Conv2D(8, 7, strides=2, padding="same")(images)
    outputs = {}
    for level, filters in zip(range(2, 6), (8, 8, 12, 16), strict=True):
        x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(filters, 3, strides=2, padding="same")(x)))
        outputs[f"P{level}"] = x
    encoder = keras.Model(images, x)
    encoder.pyramid_outputs = outputs
    return encoder


def detector(
    *,
    classes: int,
    size: tuple[int, int],
    score: float,
    iou: float,
    limit: int,
    seed: int,
    is_dynamic: bool = False,
    group_norm: bool = False,
    scales: int = 3,
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0),
    anchor_size: float = 4.0,
    levels: tuple[int, int] = (3, 7),
    mean: tuple[float, ...] = MEAN,
    std: tuple[float, ...] = STD,
    resizing: str = "stretch",
) -> Any:
    """A RetinaNetObjectDetector with random weights that finds dozens of boxes, with its preprocessor."""
    narrow(32 if group_norm else WIDTH)
    keras.utils.set_random_seed(seed)
    encoder = image_encoder()
    backbone = keras_hub.models.RetinaNetBackbone(
        encoder,
        min_level=levels[0],
        max_level=levels[1],
        use_p5=group_norm,
        image_shape=(None, None, 3) if is_dynamic else (*size, 3),
    )
    converter = keras_hub.layers.RetinaNetImageConverter(
        image_size=size,
        scale=[1 / 255 / s for s in std],
        offset=[-m / s for m, s in zip(mean, std, strict=True)],
        pad_to_aspect_ratio=resizing == "pad",
        crop_to_aspect_ratio=resizing == "crop",
    )
    anchors = keras_hub.layers.AnchorGenerator(
        "xyxy",
        min_level=levels[0],
        max_level=levels[1],
        num_scales=scales,
        aspect_ratios=list(ratios),
        anchor_size=anchor_size,
    )
    model = keras_hub.models.RetinaNetObjectDetector(
        backbone,
        classes,
        bounding_box_format="xyxy",
        anchor_generator=anchors,
        use_prediction_head_norm=group_norm,
        pre_logits_num_conv_layers=1,
        preprocessor=keras_hub.models.RetinaNetObjectDetectorPreprocessor(image_converter=converter),
        prediction_decoder=keras_hub.layers.NonMaxSuppression(
            "xyxy", from_logits=True, iou_threshold=iou, confidence_threshold=score, max_detections=limit
        ),
    )
    spread(model, size)
    return model


def spread(model: Any, size: tuple[int, int]) -> None:
    """Scales the last layers so that some boxes have high scores, and deltas are some tenths."""
    image = model.preprocessor(picture(99, *size)[None].astype("float32"))
    for head, name, deviation, bias in (
        (model.classification_head, "cls_logits", 1.5, -3.0),
        (model.box_head, "bbox_regression", 0.3, 0.0),
    ):
        layer = head.prediction_layer
        layer.bias.assign(np.zeros(layer.bias.shape, np.float32))
        values = keras.ops.convert_to_numpy(model(image)[name])
        layer.kernel.assign(keras.ops.convert_to_numpy(layer.kernel) * (deviation / values.std()))
        layer.bias.assign(np.full(layer.bias.shape, bias - values.mean() * deviation / values.std(), np.float32))


def export(model: Any, path: Path, **options: Any) -> None:
    """Exports as KerasHub's users do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    model.export(str(path), format="onnx", verbose=False, **options)


def found(model: Any, pixels: Any, size: tuple[int, int]) -> tuple[Any, Any, Any]:
    """Returns boxes, scores and classes of one picture.

    KerasHub returns boxes in pixels of the resized image. It has no code for the way back: both axes are multiplied.
    """
    # Keras rounds the pixels of a resized uint8 picture to whole numbers, but not those of a float picture.
    result = model.predict(pixels[None].astype("float32"), verbose=0)
    count = int(result["num_detections"][0])
    scale = np.array([pixels.shape[1] / size[1], pixels.shape[0] / size[0]] * 2)
    return result["boxes"][0, :count] * scale, result["confidence"][0, :count], result["labels"][0, :count]


CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], list[tuple[int, int]]]] = {}


def main() -> None:
    pass


if __name__ == "__main__":
    main()
