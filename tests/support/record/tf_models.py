"""Records boxes of TF Model Garden's RetinaNet: heads by tf2onnx, boxes by its serving module from the uint8 pictures.

In an environment of its own, Python 3.11 (`--no-deps`, because the package asks for much that RetinaNet does not use;
`python -c "from official.vision.serving import detection"` names what is missing):

    pip install "tensorflow-cpu==2.15.1" "tf2onnx==1.17.0" "onnx==1.16.2" "numpy<2" tensorflow-metadata==1.15.0
    pip install --no-deps "tf-models-official==2.15.0"
    python tests/support/record/tf_models.py

The backbone, the pyramid and the heads have few channels, so that the files are small; all code is the framework's.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # In place of this folder, whose files have the names of the frameworks.
    sys.path[0] = str(Path(__file__).parents[1])

import numpy as np
import tensorflow as tf
import tf2onnx
from official.core import exp_factory
from official.vision import registry_imports  # noqa: F401
from official.vision.serving import detection
from recorded_case import FOLDER, RecordedCase, RecordedPicture, picture

VERSION = "2.15.0"
WIDTH = 8

# What is special, values of the configuration, options of `import_onnx`, and the sizes of the pictures.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], list[tuple[int, int]]]] = {
    "defaults": (
        "usual rules; 256 x 384, 6 classes",
        {"size": (256, 384), "classes": 6, "seed": 1},
        {"resize": "fit"},
        [(256, 384), (301, 333), (180, 500)],
    ),
    "own-anchors": (
        "256 x 256; 8 own anchors, box weights 10 10 5 4, score 0.2, NMS 0.6, 40 detections",
        {
            "size": (256, 256),
            "classes": 5,
            "seed": 2,
            "anchor": {"num_scales": 2, "aspect_ratios": [0.4, 1.0, 1.6, 3.0], "anchor_size": 3.0},
            "detection_generator": {
                "pre_nms_score_threshold": 0.2,
                "nms_iou_threshold": 0.6,
                "max_num_detections": 40,
                "box_coder_weights": [10.0, 10.0, 4.0, 5.0],  # y, x, height, width.
            },
        },
        {
            "resize": "fit",
            "anchor_sizes": [24, 48, 96, 192, 384],
            "anchor_scales": [1, 2**0.5],
            "anchor_ratios": [1 / 0.4, 1, 1 / 1.6, 1 / 3],
            "box_weights": [10, 10, 5, 4],
            "score_threshold": 0.2,
            "nms_iou_threshold": 0.6,
            "max_detections": 40,
        },
        [(256, 256), (400, 271), (97, 203)],
    ),
    "four-levels": (
        "192 x 320, levels P3 to P6, 9 classes, score 0.3, NMS 0.35 of version v1",
        {
            "size": (192, 320),
            "classes": 9,
            "seed": 3,
            "max_level": 6,
            "detection_generator": {
                "pre_nms_score_threshold": 0.3,
                "nms_iou_threshold": 0.35,
                "nms_version": "v1",
            },
        },
        {
            "resize": "fit",
            "score_threshold": 0.3,
            "nms_iou_threshold": 0.35,
            "anchor_sizes": [32, 64, 128, 256],
            "force": True,  # Version v2 has other rules below 0.5, which the import refuses.
        },
        [(192, 320), (427, 640)],
    ),
}


def module(
    *,
    size: tuple[int, int],
    classes: int,
    seed: int,
    max_level: int = 7,
    anchor: dict[str, Any] | None = None,
    detection_generator: dict[str, Any] | None = None,
) -> Any:
    """The framework's serving module, for the usual configuration with a small network of random weights."""
    tf.keras.utils.set_random_seed(seed)
    params = exp_factory.get_exp_config("retinanet_resnetfpn_coco")
    model = params.task.model
    model.override(
        {
            "input_size": [*size, 3],
            "num_classes": classes + 1,  # With the background.
            "max_level": max_level,
            "anchor": anchor or {},
            "detection_generator": detection_generator or {},
            "backbone": {"resnet": {"model_id": 10, "depth_multiplier": WIDTH / 64, "stem_type": "v0"}},
            "decoder": {"fpn": {"num_filters": WIDTH}},
            "head": {"num_filters": WIDTH, "num_convs": 1},
        }
    )
    made = detection.DetectionModule(
        params=params, batch_size=1, input_image_size=list(size), input_type="image_tensor"
    )
    spread(made, size)
    return made


def heads(made: Any, images: Any) -> dict[str, Any]:
    """The raw outputs of the network: what is exported."""
    outputs = made.model(images, training=False)
    return {
        f"{name}_{level}": values for name in ("cls_outputs", "box_outputs") for level, values in outputs[name].items()
    }


def spread(made: Any, size: tuple[int, int]) -> None:
    """Scales the last layers so that 30 scores are above 0.9, and 600 above 0.2."""
    images, _, _ = made.preprocess(picture(99, *size)[None])
    for name, layer in (("cls", made.model.head._classifier), ("box", made.model.head._box_regressor)):
        layer.bias.assign(tf.zeros_like(layer.bias))
        found = heads(made, images)
        values = np.concatenate([found[key].numpy().ravel() for key in found if key.startswith(name)])
        low, high = np.sort(values)[[-600, -30]]
        factor, bias = 3.6 / (high - low), -1.4 - low * 3.6 / (high - low)
        if name == "box":
            factor, bias = 0.3 / values.std(), 0.0
            weights = made.params.task.model.detection_generator.box_coder_weights
            factor *= 1 if weights is None else float(np.mean(weights))
        layer.kernel.assign(layer.kernel * factor)
        layer.bias.assign(tf.fill(layer.bias.shape, np.float32(bias)))


def found(made: Any, pixels: Any) -> tuple[Any, Any, Any]:
    """Returns boxes xyxy, scores and classes of one picture.

    The framework's boxes are in pixels of the resized picture; its evaluation divides them by the scale of each axis.
    Its class 0 is the background, which it never reports, and which the imported network does not have.
    """
    result = made.serve(tf.constant(pixels[None]))
    _, _, image_info = made.preprocess(pixels[None])
    count = int(result["num_detections"][0])
    boxes = (result["detection_boxes"] / tf.tile(image_info[:, 2:3, :], [1, 1, 2]))[0, :count].numpy()
    scores, classes = (result[f"detection_{name}"][0, :count].numpy() for name in ("scores", "classes"))
    return boxes[:, [1, 0, 3, 2]], scores, classes - 1


def record(name: str) -> None:
    setting, values, options, sizes = CASES[name]
    made = module(**values)
    path = FOLDER / "tf-models" / f"{name}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    signature = [tf.TensorSpec((1, *values["size"], 3), tf.float32, name="images")]
    function = tf.function(lambda images: heads(made, images), input_signature=signature)
    tf2onnx.convert.from_function(function, input_signature=signature, opset=13, output_path=str(path))
    pictures = []
    for seed, (height, width) in enumerate(sizes, 1):
        pictures.append(RecordedPicture.of(seed, height, width, *found(made, picture(seed, height, width))))
        scores = pictures[-1].scores
        print(f"{name}: {len(scores)} boxes, scores {min(scores):.2f} to {max(scores):.2f}")
    RecordedCase(
        framework="tf-models",
        version=VERSION,
        setting=setting,
        recorded_by="tests/support/record/tf_models.py",
        pictures=pictures,
        options={"flavour": "tf-models", **options},
        environment={"tensorflow": tf.__version__, "tf2onnx": tf2onnx.__version__},
    ).write(name)
    print(f"{name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    for case in sys.argv[1:] or CASES:
        record(case)
