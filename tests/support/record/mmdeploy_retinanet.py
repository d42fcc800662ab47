"""Records RetinaNets that mmdeploy exports: its `torch2onnx`, and the boxes of its own ONNX Runtime model.

Take mmdeploy from its source (github.com/open-mmlab/mmdeploy, commit 3f8604bd) beside what mmdet_retinanet.py needs:

    pip install aenum grpcio multiprocess prettytable six
    PYTHONPATH=MMDEPLOY python tests/support/record/mmdeploy_retinanet.py MMDEPLOY

mmdeploy was written for PyTorch 1 and 2.0. With newer releases, `recent_torch` does what it expects of them. The boxes
are those of mmdeploy's preprocessing, of its ONNX file in ONNX Runtime, and of its postprocessing.
"""

from __future__ import annotations

import functools
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

# This folder comes last: its scripts are named as the packages that they import.
sys.path.append(sys.path.pop(0))

import mmdet_retinanet  # First, because it builds the NMS of mmcv.
import numpy as np
import torch
from mmdeploy.apis import torch2onnx
from mmdeploy.apis.utils import build_task_processor
from mmdeploy.core.rewriters import function_rewriter
from mmdeploy.utils import get_input_shape
from mmdet_retinanet import CLASSES, SIZES, config_of, environment, model_of
from mmengine.config import Config
from recorded_case import FOLDER, RecordedCase, RecordedPicture, picture

VERSION = "1.3.1, 3f8604bd"
_HEAD = "model.bbox_head."
# Name, what is special, what differs in the config of the model, the config of mmdeploy, what differs in it, and
# arguments of the import.
CASES: list[tuple[str, str, dict[str, Any], str, dict[str, Any], dict[str, Any]]] = [
    (
        "dynamic-usual",
        "dynamic size; usual rules but score 0.5; shorter side 256, at most 384",
        {"model.test_cfg.score_thr": 0.5},
        "detection_onnxruntime_dynamic.py",
        {},
        {"resize": "shortest:256,384"},
    ),
    (
        "dynamic-config",
        "dynamic size; 2 scales and ratios of anchors, offset 0.5, target_stds, Caffe mean and BGR, padding to 64, "
        "score 0.4, NMS 0.6, 60 detections; by --config",
        {
            _HEAD + "anchor_generator.octave_base_scale": 3,
            _HEAD + "anchor_generator.scales_per_octave": 2,
            _HEAD + "anchor_generator.ratios": [0.4, 1.5],
            _HEAD + "anchor_generator.center_offset": 0.5,
            _HEAD + "bbox_coder.target_stds": [0.1, 0.1, 0.2, 0.2],
            "model.data_preprocessor.mean": [103.53, 116.28, 123.675],
            "model.data_preprocessor.std": [1.0, 1.0, 1.0],
            "model.data_preprocessor.bgr_to_rgb": False,
            "model.data_preprocessor.pad_size_divisor": 64,
            "model.test_cfg.score_thr": 0.4,
            "model.test_cfg.nms.iou_threshold": 0.6,
            "model.test_cfg.max_per_img": 60,
        },
        "detection_onnxruntime_dynamic.py",
        {},
        {"config": "dynamic-config.py"},
    ),
    (
        "static",
        "fixed size 128 x 192, to which images are stretched; score 0.5; by --config",
        {"model.test_cfg.score_thr": 0.5},
        "detection_onnxruntime_static.py",
        {"onnx_config.input_shape": [192, 128]},
        {"config": "static.py"},
    ),
    (
        "dynamic-top-k",
        "dynamic size; the best 40 anchors of a level by their best class, of which more than 40 pairs pass; "
        "200 detections",
        {"model.test_cfg.score_thr": 0.01, "model.test_cfg.nms_pre": 40, "model.test_cfg.max_per_img": 200},
        "detection_onnxruntime_dynamic.py",
        {},
        {"resize": "shortest:256,384"},
    ),
    (
        "dynamic-limits",
        "dynamic size; at most 12 boxes of a class",
        {"model.test_cfg.score_thr": 0.3},
        "detection_onnxruntime_dynamic.py",
        {"codebase_config.post_processing.max_output_boxes_per_class": 12},
        {"resize": "shortest:256,384"},
    ),
]
# For cases in which other seeds give boxes whose scores are so near each other that rounding decides what NMS keeps.
SEEDS = {"static": 730, "dynamic-top-k": 780, "dynamic-limits": 800}


def recent_torch() -> None:
    """Gives mmdeploy the exporter that it was written for, and a list that newer releases hold in another form."""
    torch.onnx.export = functools.partial(torch.onnx.export, dynamo=False)
    function_rewriter._wrapped_fns_to_patch = []  # Functions of torch.fx; RetinaNet has none.


def record(
    mmdeploy: Path,
    seed: int,
    name: str,
    setting: str,
    changes: dict[str, Any],
    deploy: str,
    deploy_changes: dict[str, Any],
    options: dict[str, Any],
) -> None:
    config = config_of(changes)
    deploy_config = Config.fromfile(mmdeploy / "configs" / "mmdet" / "detection" / deploy)
    deploy_config.merge_from_dict(deploy_changes)
    folder = FOLDER / "mmdeploy"
    folder.mkdir(parents=True, exist_ok=True)
    if "config" in options:
        config.dump(folder / options["config"])
    with tempfile.TemporaryDirectory() as temporary:
        weights = Path(temporary) / "epoch_1.pth"
        model = model_of(config, seed)
        torch.save({"state_dict": model.state_dict(), "meta": {"dataset_meta": {"classes": CLASSES}}}, weights)
        bgr = np.ascontiguousarray(picture(seed, 256, 320)[..., ::-1])
        torch2onnx(bgr, str(folder), f"{name}.onnx", deploy_config, config, str(weights), device="cpu")
    processor = build_task_processor(config, deploy_config, "cpu")
    backend = processor.build_backend_model(
        [str(folder / f"{name}.onnx")], data_preprocessor_updater=processor.update_data_preprocessor
    )
    pictures = []
    for index, (height, width) in enumerate(SIZES):
        bgr = np.ascontiguousarray(picture(seed + index, height, width)[..., ::-1])
        data, _ = processor.create_input(bgr, get_input_shape(deploy_config))
        found = backend.test_step(data)[0].pred_instances
        pictures.append(RecordedPicture.of(seed + index, height, width, found.bboxes, found.scores, found.labels))
    RecordedCase(
        framework="mmdeploy",
        version=VERSION,
        setting=setting,
        recorded_by="tests/support/record/mmdeploy_retinanet.py",
        pictures=pictures,
        options=options,
        environment={**environment(), "mmdet": mmdet_retinanet.mmdet.__version__},
    ).write(name)
    size = (folder / f"{name}.onnx").stat().st_size
    print(f"{name}: {[len(item.boxes) for item in pictures]} boxes, {size / 1024:.0f} KB")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    recent_torch()
    source, *wanted = sys.argv[1:]
    for position, case in enumerate(CASES):
        if not wanted or case[0] in wanted:
            record(Path(source), SEEDS.get(case[0], 700 + 10 * position), *case)
