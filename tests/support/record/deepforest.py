"""Records boxes of DeepForest: its model by `torch.onnx.export`, boxes by `predict_image` on the uint8 pictures.

    pip install deepforest onnx onnxscript
    python tests/support/record/deepforest.py

Recorded with deepforest 2.1.0, torch 2.14.1 and torchvision 0.29.1. DeepForest takes the backbone out of torchvision's
model with ResNet 50; here a small one is in its place, so that the files are small. Nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # In place of this folder, whose files have the names of the frameworks.
    sys.path[0] = str(Path(__file__).parents[1])

import deepforest
import numpy as np
import torch
from deepforest import main as deepforest_main
from deepforest.models import retinanet as deepforest_retinanet
from recorded_case import record_cases

# What is special, the class names, DeepForest's configuration, options of `import_onnx`, picture sizes.
Case = tuple[str, list[str], dict[str, Any], dict[str, Any], list[tuple[int, int]]]
CASES: dict[str, Case] = {
    "defaults": (
        "predict_image, DeepForest's thresholds (score 0.1, NMS 0.05), dynamic size",
        ["Tree"],
        {},
        {"labels": ["Tree"]},
        [(400, 400), (300, 417)],
    ),
    "own-thresholds": (
        "predict_image, score 0.4, NMS 0.3, dynamic size",
        ["Bird"],
        {"score_thresh": 0.4, "nms_thresh": 0.3},
        {"labels": ["Bird"]},
        [(400, 400), (500, 233)],
    ),
    "two-classes": (
        "two classes, as predict_file does (NMS within each class), score 0.2, NMS 0.15",
        ["Alive", "Dead"],
        {"score_thresh": 0.2, "nms_thresh": 0.15},
        {"labels": ["Alive", "Dead"]},
        [(400, 400), (380, 500)],
    ),
}


def of_torchvision() -> Any:
    """The script that records torchvision, for its small backbone and its export."""
    specification = importlib.util.spec_from_file_location(
        "record_torchvision", Path(__file__).with_name("torchvision.py")
    )
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def forest(labels: list[str], config: dict[str, Any], seed: int) -> Any:
    """A DeepForest with a small backbone and random weights that finds some dozen boxes, loaded as usual."""
    scripts = of_torchvision()
    torch.manual_seed(seed)

    class Small:
        backbone = scripts.Backbone(5)

    original = deepforest_retinanet.torchvision.models.detection.retinanet_resnet50_fpn
    deepforest_retinanet.torchvision.models.detection.retinanet_resnet50_fpn = lambda **_: Small
    try:
        label_dict = {label: index for index, label in enumerate(labels)}
        hub = deepforest_retinanet.RetinaNetHub(num_classes=len(labels), label_dict=label_dict, score_thresh=0.5)
        scripts.spread(hub.eval())
        with tempfile.TemporaryDirectory() as folder:
            hub.save_pretrained(folder)
            os.environ["HF_HUB_OFFLINE"] = "1"
            return deepforest_main.deepforest(config_args={"model": {"name": folder}, **config})
    finally:
        deepforest_retinanet.torchvision.models.detection.retinanet_resnet50_fpn = original


def predict(model: Any, pixels: Any) -> tuple[Any, Any, Any]:
    """Returns boxes, scores and classes of one picture.

    For several classes, predict_image suppresses across classes after all other steps, and truncates the boxes to whole
    pixels. predict_file does not; its batches go through predict_step.
    """
    if len(model.label_dict) > 1:
        (item,) = model.predict_step(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255, 0)
        return item["boxes"].numpy(), item["scores"].numpy(), item["labels"].numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It misses the path of the picture.
        table = model.predict_image(image=pixels.astype("float32"))
    if table is None:  # Nothing was found.
        return np.empty((0, 4)), np.empty(0), np.empty(0, int)
    classes = np.array([model.label_dict[label] for label in table["label"]])
    return table[["xmin", "ymin", "xmax", "ymax"]].to_numpy(float), table["score"].to_numpy(float), classes


def run_case(name: str, path: Path) -> Callable[[Any], tuple[Any, Any, Any]]:
    """Exports the model of a case, and returns the framework's function from pixels to boxes, scores, classes."""
    _, labels, config, _, _ = CASES[name]
    model = forest(labels, config, seed=list(CASES).index(name) + 1)
    model.model.eval()
    of_torchvision().export(model.model, path, opset_version=17, dynamic=True)
    return lambda pixels: predict(model, pixels)


def main() -> None:
    about = {"torch": torch.__version__, "torchvision": deepforest_retinanet.torchvision.__version__}
    record_cases("deepforest", CASES, run_case, "deepforest.py", version=deepforest.__version__, environment=about)


if __name__ == "__main__":
    main()
