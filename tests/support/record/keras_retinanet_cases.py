"""Records cases of keras-retinanet: exports and boxes of its own code.

    git clone https://github.com/fizyr/keras-retinanet && cd keras-retinanet && git checkout 7ac91df
    pip install "tensorflow-cpu==2.15.1" "tf2onnx==1.17.0" "onnx==1.16.2" "numpy<2" opencv-python-headless pillow
    pip install keras-resnet progressbar2 cython setuptools && python setup.py build_ext --inplace
    python tests/support/record/keras_retinanet_cases.py keras-retinanet

Python 3.11. The pyramid, the heads, the anchors, the filter of detections, and the preparation of images are those of
keras-retinanet; only the backbone is a small one, of its layers.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))
from recorded_case import RecordedCase, RecordedPicture, picture

VERSION = "7ac91df"
DETAIL, OFFSET, IN_SPACE = 0.05, 1.0, 0.15  # As in tiny_torch.py.
WIDTH = 8  # Channels of the pyramid and the heads.


@dataclass
class Setting:
    """A case.

    Attributes:
        text: What is special about it.
        sides: Shorter and longer side of `resize_image`.
        sizes: (height, width) of the pictures.
        mode: Of `preprocess_image`.
        whole: Whether the inference model is exported, and not the training model.
        anchors: Sizes, strides, ratios and scales; None for the usual ones.
        filters: Arguments of `retinanet_bbox`.
        options: What a user has to tell the import.
    """

    text: str
    sides: tuple[int, int]
    seed: int
    sizes: Sequence[tuple[int, int]]
    mode: str = "caffe"
    whole: bool = False
    classes: int = 3
    anchors: dict[str, list[float]] | None = None
    filters: dict[str, Any] = field(default_factory=dict)
    logits: tuple[float, float] = (-3.0, 1.7)
    options: dict[str, Any] = field(default_factory=dict)


ANCHORS: dict[str, list[float]] = {
    "sizes": [20, 40, 80, 160, 320],
    "strides": [8, 16, 32, 64, 128],
    "ratios": [0.4, 1.0, 1.5, 2.5],
    "scales": [1.0, 1.5],
}
SETTINGS = {
    "training": Setting(
        "training model, 256 to 400, pictures that need no resize",
        (256, 400),
        seed=1,
        sizes=[(256, 341), (310, 256), (256, 400)],
        logits=(-4.0, 1.7),
        options={"flavour": "keras-retinanet", "resize": "shortest:256,400"},
    ),
    "training_own": Setting(
        "training model, 1 class, own anchors, score 0.2, IoU 0.3, 40 detections",
        (200, 300),
        seed=2,
        sizes=[(200, 300), (400, 500)],
        classes=1,
        logits=(-1.5, 1.7),
        anchors=ANCHORS,
        filters={"score_threshold": 0.2, "nms_threshold": 0.3, "max_detections": 40},
        options={
            "flavour": "keras-retinanet",
            "resize": "shortest:200,300",
            "anchor_sizes": ANCHORS["sizes"],
            "anchor_ratios": ANCHORS["ratios"],
            "anchor_scales": ANCHORS["scales"],
            "score_threshold": 0.2,
            "nms_iou_threshold": 0.3,
            "max_detections": 40,
        },
    ),
    "whole": Setting(
        "inference model, 256 to 400, pictures that need no resize",
        (256, 400),
        seed=3,
        sizes=[(256, 341), (310, 256), (256, 400)],
        whole=True,
        options={"resize": "shortest:256,400"},
    ),
    "resized": Setting(
        "inference model, 256 to 400, 40 detections, pictures that are resized",
        (256, 400),
        seed=11,
        sizes=[(240, 320), (333, 200)],
        whole=True,
        filters={"max_detections": 40},
        logits=(-3.5, 1.3),
        options={"resize": "shortest:256,400"},
    ),
    "whole_own": Setting(
        "inference model, own anchors, score 0.2, IoU 0.3, 40 detections",
        (256, 400),
        seed=33,
        logits=(-3.5, 1.3),
        sizes=[(256, 341), (512, 682)],
        whole=True,
        anchors=ANCHORS,
        filters={"score_threshold": 0.2, "nms_threshold": 0.3, "max_detections": 40},
        options={"resize": "shortest:256,400"},
    ),
    "tf_mode": Setting(
        "training model, pixels of -1 to 1 as for MobileNet",
        (256, 400),
        seed=5,
        sizes=[(256, 341), (256, 300)],
        mode="tf",
        options={
            "flavour": "keras-retinanet",
            "resize": "shortest:256,400",
            "mean": [127.5] * 3,
            "std": [127.5] * 3,
            "channel_order": "BGR",
        },
    ),
}


def backbone(inputs: Any) -> dict[str, Any]:
    """Returns C3, C4 and C5."""
    from tensorflow import keras

    def convolution(tensor: Any, size: int, stride: int) -> Any:
        return keras.layers.Conv2D(6, size, strides=stride, padding="same", activation="relu")(tensor)

    stem = convolution(inputs, 7, 2)
    c3 = convolution(keras.layers.MaxPool2D(3, 2, padding="same")(stem), 3, 2)
    c4 = convolution(c3, 3, 2)
    return {"C3": c3, "C4": c4, "C5": convolution(c4, 3, 2)}


def training_model(setting: Setting, anchors: Any) -> Any:
    """Builds keras-retinanet's model with few channels and random weights."""
    from keras_retinanet.models import retinanet as module
    from tensorflow import keras

    inputs = keras.layers.Input(shape=(None, None, 3))
    count = anchors.num_anchors()
    heads = [
        (
            "regression",
            module.default_regression_model(4, count, pyramid_feature_size=WIDTH, regression_feature_size=WIDTH),
        ),
        (
            "classification",
            module.default_classification_model(
                setting.classes, count, pyramid_feature_size=WIDTH, classification_feature_size=WIDTH
            ),
        ),
    ]
    pyramid = getattr(module, "__create_pyramid_features")
    model = module.retinanet(
        inputs,
        backbone(inputs),
        setting.classes,
        num_anchors=count,
        submodels=heads,
        create_pyramid_features=lambda layers, levels: pyramid(layers, levels, feature_size=WIDTH),
    )
    random = np.random.default_rng(setting.seed)
    images = np.stack([prepared(picture(seed, 256, 384), setting.mode) for seed in range(90, 98)])
    settle(model, images, random)
    features = [model.get_layer(f"P{level}").output for level in range(3, 8)]
    inputs_of_heads = keras.Model(model.inputs, features).predict(images, verbose=0)
    for _, head in heads:
        settle(head, inputs_of_heads[0], random)
    spread(heads[1][1].get_layer("pyramid_classification"), [setting.logits[1]], random, setting.logits[0])
    spread(heads[0][1].get_layer("pyramid_regression"), [0.8], random, 0.0)
    return model


def settle(model: Any, images: Any, random: np.random.Generator) -> None:
    """Draws the weights of the convolutions of a model, each with outputs of deviation 1, as tiny_torch.py does."""
    from tensorflow import keras

    for layer in model.layers:
        if not isinstance(layer, keras.layers.Conv2D):
            continue
        height, width, inputs, outputs = layer.kernel.shape
        basis, _ = np.linalg.qr(random.standard_normal((max(inputs, outputs), max(inputs, outputs))))
        kernel = basis[:inputs, :outputs] + DETAIL * random.standard_normal((height, width, inputs, outputs))
        activation, layer.activation = layer.activation, keras.activations.linear
        layer.set_weights([kernel, np.zeros(outputs)])
        before = keras.Model(model.inputs, layer.input).predict(images, verbose=0)
        found = layer(before).numpy().reshape(-1, outputs)
        scale = np.sqrt(found.var(axis=0).mean())
        layer.activation = activation
        layer.set_weights([kernel / scale, -found.mean(axis=0) / scale + OFFSET * random.standard_normal(outputs)])


def spread(layer: Any, scale: Sequence[float], random: np.random.Generator, mean: float) -> None:
    """Makes the outputs of a head's last convolution differ from anchor to anchor and class to class."""
    kernel, bias = layer.get_weights()
    bias = (bias * IN_SPACE + random.standard_normal(len(bias))) * scale[0] + mean
    layer.set_weights([kernel * IN_SPACE * scale[0], bias])


def prepared(pixels: Any, mode: str) -> Any:
    from keras_retinanet.utils.image import preprocess_image

    return preprocess_image(pixels[:, :, ::-1], mode=mode)


def detect(model: Any, setting: Setting) -> list[RecordedPicture]:
    """Does what `utils/eval.py` of keras-retinanet does for each image."""
    from keras_retinanet.utils.image import resize_image

    recorded = []
    for seed, size in enumerate(setting.sizes, start=10 * setting.seed):
        image = np.ascontiguousarray(picture(seed, *size)[:, :, ::-1])
        image, scale = resize_image(image, min_side=setting.sides[0], max_side=setting.sides[1])
        image = prepared(image[:, :, ::-1], setting.mode)
        boxes, scores, labels = model.predict_on_batch(np.expand_dims(image, axis=0))[:3]
        is_found = scores[0] > -1
        recorded.append(
            RecordedPicture.of(seed, *size, boxes[0][is_found] / scale, scores[0][is_found], labels[0][is_found])
        )
    return recorded


def record(name: str, setting: Setting) -> None:
    import cv2
    import tensorflow as tf
    import tf2onnx
    from keras_retinanet.models.retinanet import retinanet_bbox
    from keras_retinanet.utils.anchors import AnchorParameters

    anchors = AnchorParameters.default
    if setting.anchors is not None:
        own = setting.anchors
        sizes, strides = ([int(value) for value in own[key]] for key in ("sizes", "strides"))
        anchors = AnchorParameters(sizes, strides, np.float32(own["ratios"]), np.float32(own["scales"]))
    training = training_model(setting, anchors)
    inference = retinanet_bbox(training, anchor_params=anchors, **setting.filters)
    case = RecordedCase(
        framework="keras-retinanet",
        version=VERSION,
        setting=setting.text,
        recorded_by="tests/support/record/keras_retinanet_cases.py",
        pictures=detect(inference, setting),
        options=setting.options,
        environment={"tensorflow": tf.__version__, "tf2onnx": tf2onnx.__version__, "opencv": cv2.__version__},
    )
    path = case.write(name)
    signature = [tf.TensorSpec((None, None, None, 3), tf.float32, name="input_1")]
    exported = inference if setting.whole else training
    tf2onnx.convert.from_keras(
        exported, input_signature=signature, opset=13, output_path=str(path.with_suffix(".onnx"))
    )
    sizes = path.stat().st_size, path.with_suffix(".onnx").stat().st_size
    print(name, sizes, "bytes;", [len(item.scores) for item in case.pictures], "boxes")


def main(folder: str) -> None:
    sys.path.insert(0, folder)
    for name, setting in SETTINGS.items():
        record(name, setting)


if __name__ == "__main__":
    main(sys.argv[1])
