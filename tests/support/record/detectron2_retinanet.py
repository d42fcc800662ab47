"""Records RetinaNets of detectron2: exports, and the boxes that detectron2's own `DefaultPredictor` computes.

detectron2 is not on PyPI. Take its source (github.com/facebookresearch/detectron2, commit 02b5c4e2); RetinaNet needs
none of its compiled operators, so the source suffices, without a build:

    pip install torch torchvision onnx onnxruntime fvcore iopath omegaconf hydra-core pycocotools yacs cloudpickle \
        tabulate
    PYTHONPATH=DETECTRON2:. python tests/support/record/detectron2_retinanet.py
"""

from __future__ import annotations

import platform
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = [str(ROOT / "tests" / "support"), str(ROOT / "examples"), str(Path(__file__).resolve().parent)]
# This folder comes last: its scripts are named as the packages that they import.
sys.path = [entry for entry in sys.path if entry not in FOLDERS] + FOLDERS

import numpy as np  # noqa: E402
import PIL  # noqa: E402
import torch  # noqa: E402
from detectron2.checkpoint import DetectionCheckpointer  # noqa: E402
from detectron2.config import get_cfg  # noqa: E402
from detectron2.engine import DefaultPredictor  # noqa: E402
from detectron2.export import TracingAdapter  # noqa: E402
from detectron2.modeling import build_model  # noqa: E402
from export_other_frameworks import Detectron2Heads  # noqa: E402
from random_heads import blur, spread  # noqa: E402
from recorded_case import FOLDER, RecordedCase, RecordedPicture, picture  # noqa: E402

VERSION = "02b5c4e2"
# The sizes of the pictures: the first needs no resize, the others are enlarged or reduced.
SIZES = ((256, 320), (233, 301), (420, 331))
BASE: dict[str, Any] = {
    "MODEL.META_ARCHITECTURE": "RetinaNet",
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.BACKBONE.NAME": "build_retinanet_resnet_fpn_backbone",
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4", "res5"],
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 4,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 4,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 1,
    "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL.FPN.OUT_CHANNELS": 8,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[x, x * 2 ** (1 / 3), x * 2 ** (2 / 3)] for x in (32, 64, 128, 256, 512)],
    "MODEL.RETINANET.NUM_CLASSES": 3,
    "MODEL.RETINANET.NUM_CONVS": 2,
    "INPUT.MIN_SIZE_TEST": 256,
    "INPUT.MAX_SIZE_TEST": 384,
}
# Name, what is special, what differs from BASE, whether the whole model is exported, and arguments of the import.
CASES: list[tuple[str, str, dict[str, Any], bool, dict[str, Any]]] = [
    (
        "heads-usual",
        "heads; usual rules; shorter side 256, at most 384",
        {},
        False,
        {"flavour": "detectron2", "resize": "shortest:256,384"},
    ),
    (
        "heads-limits",
        "heads; score 0.2, top-k 60, NMS 0.35, 40 detections; by options",
        {
            "MODEL.RETINANET.SCORE_THRESH_TEST": 0.2,
            "MODEL.RETINANET.TOPK_CANDIDATES_TEST": 60,
            "MODEL.RETINANET.NMS_THRESH_TEST": 0.35,
            "TEST.DETECTIONS_PER_IMAGE": 40,
        },
        False,
        {
            "flavour": "detectron2",
            "resize": "shortest:256,384",
            "score_threshold": 0.2,
            "top_k": 60,
            "nms_iou_threshold": 0.35,
            "max_detections": 40,
        },
    ),
    (
        "heads-config",
        "heads; two sizes and ratios of anchors, offset 0.5, box weights 10 10 5 5, RGB, own mean and std, score 0.2, "
        "top-k 150, NMS 0.6, 70 detections; by --config",
        {
            "MODEL.ANCHOR_GENERATOR.SIZES": [[20, 30], [50, 65], [90, 120], [180, 220], [300, 420]],
            "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.4, 1.5]],
            "MODEL.ANCHOR_GENERATOR.OFFSET": 0.5,
            "MODEL.RETINANET.BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0),
            "MODEL.RETINANET.SCORE_THRESH_TEST": 0.2,
            "MODEL.RETINANET.TOPK_CANDIDATES_TEST": 150,
            "MODEL.RETINANET.NMS_THRESH_TEST": 0.6,
            "TEST.DETECTIONS_PER_IMAGE": 70,
            "INPUT.FORMAT": "RGB",
            "MODEL.PIXEL_MEAN": [120.0, 110.0, 100.0],
            "MODEL.PIXEL_STD": [57.0, 58.0, 59.0],
        },
        False,
        {"config": "heads-config.yaml"},
    ),
    (
        "heads-4-levels",
        "heads; levels P3 to P6, one size of anchors, four ratios of each level; by --config",
        {
            "MODEL.RETINANET.IN_FEATURES": ["p3", "p4", "p5", "p6"],
            "MODEL.ANCHOR_GENERATOR.SIZES": [[24], [48], [96], [192]],
            "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [
                [0.3, 0.6, 1.0, 2.0],
                [0.4, 0.8, 1.2, 2.2],
                [0.5, 1, 2, 3],
                [1, 2, 3, 4],
            ],
            "INPUT.MIN_SIZE_TEST": 320,
            "INPUT.MAX_SIZE_TEST": 400,
        },
        False,
        {"config": "heads-4-levels.yaml"},
    ),
    (
        "heads-3-levels",
        "heads; levels P3 to P5, as given by options",
        {
            "MODEL.RETINANET.IN_FEATURES": ["p3", "p4", "p5"],
            "MODEL.ANCHOR_GENERATOR.SIZES": [[16, 20.0], [40, 50.0], [100, 125.0]],
            "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
        },
        False,
        {
            "flavour": "detectron2",
            "resize": "shortest:256,384",
            "anchor_sizes": [16, 40, 100],
            "anchor_scales": [1, 1.25],
            "anchor_ratios": [0.5, 1, 2],
        },
    ),
    (
        "traced-usual",
        "whole model by TracingAdapter; usual rules",
        {},
        True,
        {"resize": "shortest:256,384"},
    ),
    (
        "traced-own",
        "whole model by TracingAdapter; own anchors, offset 0.5, box weights, mean, std, limits; resize by option",
        {
            "MODEL.ANCHOR_GENERATOR.SIZES": [[20, 30], [50, 65], [90, 120], [180, 220], [300, 420]],
            "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.4, 1.5]],
            "MODEL.ANCHOR_GENERATOR.OFFSET": 0.5,
            "MODEL.RETINANET.BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0),
            "MODEL.RETINANET.SCORE_THRESH_TEST": 0.25,
            "MODEL.RETINANET.TOPK_CANDIDATES_TEST": 30,
            "MODEL.RETINANET.NMS_THRESH_TEST": 0.4,
            "TEST.DETECTIONS_PER_IMAGE": 50,
            "MODEL.PIXEL_MEAN": [100.0, 110.0, 120.0],
            "MODEL.PIXEL_STD": [57.0, 58.0, 59.0],
        },
        True,
        {"resize": "shortest:256,384", "box_weights": [10, 10, 5, 5]},
    ),
]
# For cases in which other seeds give boxes whose scores are so near each other that rounding decides what NMS keeps.
SEEDS = {"heads-4-levels": 320}


def model_of(cfg: Any, seed: int) -> Any:
    model = build_model(cfg)
    blur(model, seed)
    heads = Detectron2Heads(model)
    pixels = torch.from_numpy(picture(seed, 256, 320)[..., ::-1].astype("float32").transpose(2, 0, 1).copy())
    images = ((pixels - model.pixel_mean) / model.pixel_std)[None]
    levels = len(model.head_in_features)

    def run() -> Any:
        outputs = heads(images)
        return outputs[:levels], outputs[levels:]

    weight = cfg.MODEL.RETINANET.BBOX_REG_WEIGHTS[0]
    spread(run, model.head.cls_score, model.head.bbox_pred, seed, delta=0.02 * weight, means=0.3 * weight)
    return model.eval()


def export(model: Any, path: Path, is_whole: bool) -> None:
    if is_whole:
        pixels = torch.from_numpy(picture(0, 256, 320).astype("float32").transpose(2, 0, 1).copy())
        adapter = TracingAdapter(model, [{"image": pixels}])
        torch.onnx.export(
            adapter,
            adapter.flattened_inputs,
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=["image"],
            dynamic_axes={"image": {1: "height", 2: "width"}},
        )
        return
    torch.onnx.export(
        Detectron2Heads(model),
        (torch.zeros(1, 3, 128, 160),),
        str(path),
        dynamo=False,
        opset_version=17,
        input_names=["images"],
        dynamic_axes={"images": {0: "n", 2: "height", 3: "width"}},
    )


def record(
    seed: int, name: str, setting: str, changes: dict[str, Any], is_whole: bool, options: dict[str, Any]
) -> None:
    cfg = get_cfg()
    cfg.merge_from_list([item for pair in {**BASE, **changes}.items() for item in pair])
    model = model_of(cfg, seed)
    folder = FOLDER / "detectron2"
    folder.mkdir(parents=True, exist_ok=True)
    export(model, folder / f"{name}.onnx", is_whole)
    if "config" in options:
        (folder / options["config"]).write_text(cfg.dump())
    with tempfile.TemporaryDirectory() as temporary:
        weights = Path(temporary) / "model.pth"
        DetectionCheckpointer(model, temporary).save("model")
        cfg.MODEL.WEIGHTS = str(weights)
        predictor = DefaultPredictor(cfg)
    pictures = []
    for index, (height, width) in enumerate(SIZES):
        bgr = picture(seed + index, height, width)[..., ::-1]
        found = predictor(np.ascontiguousarray(bgr))["instances"]
        pictures.append(
            RecordedPicture.of(seed + index, height, width, found.pred_boxes.tensor, found.scores, found.pred_classes)
        )
    RecordedCase(
        framework="detectron2",
        version=VERSION,
        setting=setting,
        recorded_by="tests/support/record/detectron2_retinanet.py",
        pictures=pictures,
        options=options,
        environment={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pillow": PIL.__version__,
        },
    ).write(name)
    size = (folder / f"{name}.onnx").stat().st_size
    print(f"{name}: {[len(item.boxes) for item in pictures]} boxes, {size / 1024:.0f} KB")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    wanted = sys.argv[1:]
    for position, case in enumerate(CASES):
        if not wanted or case[0] in wanted:
            record(SEEDS.get(case[0], 200 + 10 * position), *case)
