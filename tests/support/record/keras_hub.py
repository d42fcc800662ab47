"""Records boxes of KerasHub's RetinaNet: exports by `model.export`, boxes by `model.predict` on the uint8 pictures.

In an environment of its own (Keras runs here on torch, as PyTorch is what the other recordings use):

    pip install keras keras-hub grain torch onnx onnxscript
    KERAS_BACKEND=torch python tests/support/record/keras_hub.py

Recorded with keras-hub 0.32.0, keras 3.15.1 and torch 2.14.1. The widths of the pyramid and of the heads are reduced,
so that the files are small; every other line of code that runs is KerasHub's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")
if __name__ == "__main__":  # In place of this folder, whose files have the names of the frameworks.
    sys.path[0] = str(Path(__file__).parents[1])

import keras
import keras_hub
import numpy as np
import onnx
import torch
from keras_hub.src.models.retinanet import retinanet_backbone, retinanet_object_detector
from recorded_case import picture, record_cases

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # Of the published models.
WIDTH = 8


def narrow(pyramid_width: int, head_width: int) -> None:
    """Gives the pyramid and the heads fewer channels than 256, which is no argument in KerasHub."""
    pyramid, head = keras_hub.src.models.retinanet.feature_pyramid, keras_hub.src.models.retinanet.prediction_head

    class NarrowPyramid(pyramid.FeaturePyramid):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{"num_filters": pyramid_width, **options})

    class NarrowHead(head.PredictionHead):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "num_filters": head_width})

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


def resnet18() -> Any:
    """The smallest backbone of KerasHub itself."""
    return keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 128, 256, 512],
        stackwise_num_blocks=[2, 2, 2, 2],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="basic_block",
        image_shape=(None, None, 3),
    )


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
    is_small: bool = True,
) -> Any:
    """A RetinaNetObjectDetector with random weights that finds dozens of boxes, with its preprocessor."""
    head_width = 32 if group_norm else WIDTH  # The group norm has 32 groups.
    narrow(WIDTH if is_small else 256, head_width if is_small else 256)
    keras.utils.set_random_seed(seed)
    encoder = image_encoder() if is_small else resnet18()
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
        pre_logits_num_conv_layers=1 if is_small else 4,
        preprocessor=keras_hub.models.RetinaNetObjectDetectorPreprocessor(image_converter=converter),
        prediction_decoder=keras_hub.layers.NonMaxSuppression(
            "xyxy", from_logits=True, iou_threshold=iou, confidence_threshold=score, max_detections=limit
        ),
    )
    spread(model, size)
    return model


def spread(model: Any, size: tuple[int, int]) -> None:
    """Scales the last layers so that one score in 5000 is above 0.9, one in 200 above 0.2."""
    image = model.preprocessor(picture(99, *size)[None].astype("float32"))
    for head, name in ((model.classification_head, "cls_logits"), (model.box_head, "bbox_regression")):
        layer = head.prediction_layer
        layer.bias.assign(np.zeros(layer.bias.shape, np.float32))
        values = keras.ops.convert_to_numpy(model(image)[name])
        low, high = np.quantile(values, [0.995, 0.9998])
        factor, bias = 3.6 / (high - low), -1.4 - low * 3.6 / (high - low)
        if name == "bbox_regression":
            factor, bias = 0.3 / values.std(), 0.0
        layer.kernel.assign(keras.ops.convert_to_numpy(layer.kernel) * factor)
        layer.bias.assign(np.full(layer.bias.shape, bias, np.float32))


def signature(size: tuple[int, int]) -> Any:
    return keras.InputSpec("float32", (1, *size, 3))


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


# What is special, the arguments of `detector`, options of `import_onnx`, and the sizes of the pictures.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], list[tuple[int, int]]]] = {
    "fixed": (
        "fixed 256 x 320, stretched, score 0.3",
        {"classes": 3, "size": (256, 320), "score": 0.3, "iou": 0.5, "limit": 100, "seed": 1},
        {"flavour": "keras-hub", "resize": "squash:256x320", "score_threshold": 0.3},
        [(200, 300), (333, 251), (256, 320)],
    ),
    "defaults-square": (
        "defaults (score 0.5), padded to the aspect ratio, square pictures",
        {"classes": 7, "size": (256, 256), "score": 0.5, "iou": 0.5, "limit": 100, "seed": 2, "resizing": "pad"},
        {"flavour": "keras-hub", "resize": "squash"},
        [(256, 256), (301, 301)],
    ),
    "norm-own-values": (
        "PyTorch's dynamo exporter, group norm, own mean and std, IoU 0.3, 30 detections",
        {
            **{"classes": 2, "size": (224, 160), "score": 0.1, "iou": 0.3, "limit": 30, "seed": 3, "group_norm": True},
            **{"mean": (0.5, 0.4, 0.3), "std": (0.25, 0.3, 0.35), "is_dynamic": True},
        },
        {
            **{
                "flavour": "keras-hub",
                "resize": "squash:224x160",
                "score_threshold": 0.1,
                "nms_iou_threshold": 0.3,
                "max_detections": 30,
            },
            **{"mean": [127.5, 102, 76.5], "std": [63.75, 76.5, 89.25]},
        },
        [(400, 300), (150, 310)],
    ),
    "own-anchors": (
        "fixed 224 x 288, 8 own anchors, IoU 0.7",
        {
            **{"classes": 5, "size": (224, 288), "score": 0.2, "iou": 0.7, "limit": 200, "seed": 4},
            **{"scales": 2, "ratios": (0.4, 0.8, 1.6, 3.0), "anchor_size": 3.0},
        },
        {
            **{
                "flavour": "keras-hub",
                "resize": "squash",
                "score_threshold": 0.2,
                "nms_iou_threshold": 0.7,
                "max_detections": 200,
            },
            **{"anchor_sizes": [24, 48, 96, 192, 384], "anchor_ratios": [0.4, 0.8, 1.6, 3.0]},
            "anchor_scales": [1, 2**0.5],
        },
        [(224, 288), (480, 271)],
    ),
    "four-levels": (
        "four levels, 1 class, cropped to the aspect ratio, pictures of that ratio",
        {
            **{"classes": 1, "size": (256, 384), "score": 0.25, "iou": 0.4, "limit": 60, "seed": 5},
            **{"levels": (3, 6), "resizing": "crop"},
        },
        {
            **{
                "flavour": "keras-hub",
                "resize": "squash",
                "score_threshold": 0.25,
                "nms_iou_threshold": 0.4,
                "max_detections": 60,
            },
            "anchor_sizes": [32, 64, 128, 256],
        },
        [(256, 384), (200, 300)],
    ),
}


def padded_to_square(pixels: Any) -> tuple[Any, int, int]:
    """Pads a picture as the image converter of the published models does; returns it with the left and top margin."""
    height, width = pixels.shape[:2]
    top, left = max(0, width - height) // 2, max(0, height - width) // 2
    return np.pad(pixels, ((top, top), (left, left), (0, 0))), left, top


def run_case(name: str, path: Path) -> Callable[[Any], tuple[Any, Any, Any]]:
    """Exports the model of a case, and returns the framework's function from pixels to boxes, scores, classes."""
    _, arguments, _, _ = CASES[name]
    model, size = detector(**arguments), arguments["size"]
    export(model, path, input_signature=[signature(size)] if arguments.get("is_dynamic") else None)
    without_traces(path)
    return lambda pixels: found(model, pixels, size)


def without_traces(path: Path) -> None:
    """Removes the source files and shapes that PyTorch writes to every node, which are most of a small file."""
    model = onnx.load(path)
    del model.graph.value_info[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    onnx.save(model, path)
    path.with_suffix(".onnx.data").unlink(missing_ok=True)


def main() -> None:
    about = {"keras": keras.__version__, "torch": torch.__version__, "backend": keras.backend.backend()}
    record_cases("keras-hub", CASES, run_case, "keras_hub.py", version=keras_hub.__version__, environment=about)


if __name__ == "__main__":
    main()
