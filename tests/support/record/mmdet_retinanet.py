"""Records RetinaNets of mmdetection: exports of the heads, and the boxes of mmdetection's own `inference_detector`.

    pip install torch torchvision onnx onnxruntime mmdet==3.3.0 mmengine opencv-python-headless setuptools wheel ninja
    MMCV_WITH_OPS=0 pip install --no-build-isolation mmcv==2.1.0
    python tests/support/record/mmdet_retinanet.py

Where mmcv is installed without its operators, its own NMS is compiled; see mmcv_nms.py.
"""

from __future__ import annotations

import platform
import sys
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = [str(ROOT / "tests" / "support"), str(ROOT / "examples"), str(Path(__file__).resolve().parent)]
# This folder comes last: its scripts are named as the packages that they import.
sys.path = [entry for entry in sys.path if entry not in FOLDERS] + FOLDERS

import mmcv_nms  # noqa: E402

mmcv_nms.install()

import cv2  # noqa: E402
import mmcv  # noqa: E402
import mmdet  # noqa: E402
import mmengine  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from export_other_frameworks import MmdetHeads  # noqa: E402
from mmdet.apis import inference_detector, init_detector  # noqa: E402
from mmengine.config import Config  # noqa: E402
from random_heads import blur, spread  # noqa: E402
from recorded_case import FOLDER, RecordedCase, RecordedPicture, picture  # noqa: E402

CLASSES = ("bolt", "nut", "washer")
# The sizes of the pictures: the first needs no resize, the others are enlarged or reduced.
SIZES = ((256, 320), (233, 301), (420, 331))
BASE = """
default_scope = 'mmdet'
model = dict(
    type='RetinaNet',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32),
    backbone=dict(
        type='ResNet', depth=18, base_channels=3, stem_channels=3, num_stages=4, out_indices=(0, 1, 2, 3),
        norm_cfg=dict(type='BN', requires_grad=True), norm_eval=True, style='pytorch'),
    neck=dict(
        type='FPN', in_channels=[3, 6, 12, 24], out_channels=8, start_level=1, add_extra_convs='on_input', num_outs=5),
    bbox_head=dict(
        type='RetinaHead', num_classes=3, in_channels=8, stacked_convs=2, feat_channels=8,
        anchor_generator=dict(
            type='AnchorGenerator', octave_base_scale=4, scales_per_octave=3, ratios=[0.5, 1.0, 2.0],
            strides=[8, 16, 32, 64, 128]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[.0, .0, .0, .0], target_stds=[1.0, 1.0, 1.0, 1.0]),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=1.0)),
    test_cfg=dict(
        nms_pre=1000, min_bbox_size=0, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))
test_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='Resize', scale=(384, 256), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
test_dataloader = dict(
    batch_size=1, num_workers=2,
    dataset=dict(
        type='CocoDataset', data_root='data/', ann_file='test.json', data_prefix=dict(img='test/'), test_mode=True,
        metainfo=dict(classes=('bolt', 'nut', 'washer')), pipeline=test_pipeline))
"""
_HEAD = "model.bbox_head."
# Name, what is special, what differs from BASE, and arguments of the import.
CASES: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    (
        "heads-usual",
        "heads; usual rules; shorter side 256, at most 384",
        {},
        {"flavour": "mmdet", "resize": "shortest:256,384"},
    ),
    (
        "heads-limits",
        "heads; score 0.2, top-k 60, NMS 0.35, 40 detections; by options",
        {
            "model.test_cfg.score_thr": 0.2,
            "model.test_cfg.nms_pre": 60,
            "model.test_cfg.nms.iou_threshold": 0.35,
            "model.test_cfg.max_per_img": 40,
        },
        {
            "flavour": "mmdet",
            "resize": "shortest:256,384",
            "score_threshold": 0.2,
            "top_k": 60,
            "nms_iou_threshold": 0.35,
            "max_detections": 40,
        },
    ),
    (
        "heads-config",
        "heads; own base scale, 2 scales and ratios of anchors, offset 0.5, target_means and target_stds, Caffe mean "
        "and BGR, padding to 64, score 0.2, top-k 150, NMS 0.6, 70 detections; by --config",
        {
            _HEAD + "anchor_generator.octave_base_scale": 3,
            _HEAD + "anchor_generator.scales_per_octave": 2,
            _HEAD + "anchor_generator.ratios": [0.4, 1.5],
            _HEAD + "anchor_generator.center_offset": 0.5,
            _HEAD + "bbox_coder.target_means": [0.02, -0.01, 0.03, 0.05],
            _HEAD + "bbox_coder.target_stds": [0.1, 0.1, 0.2, 0.2],
            "model.data_preprocessor.mean": [103.53, 116.28, 123.675],
            "model.data_preprocessor.std": [1.0, 1.0, 1.0],
            "model.data_preprocessor.bgr_to_rgb": False,
            "model.data_preprocessor.pad_size_divisor": 64,
            "model.test_cfg.score_thr": 0.2,
            "model.test_cfg.nms_pre": 150,
            "model.test_cfg.nms.iou_threshold": 0.6,
            "model.test_cfg.max_per_img": 70,
        },
        {"config": "heads-config.py"},
    ),
    (
        "heads-4-levels",
        "heads; levels of strides 8 to 64, free scales of anchors, stretched to 256 x 384; by --config",
        {
            "model.neck.num_outs": 4,
            _HEAD + "anchor_generator": {
                "_delete_": True,
                "type": "AnchorGenerator",
                "scales": [3.0, 5.5],
                "ratios": [0.5, 1.0, 2.0],
                "strides": [8, 16, 32, 64],
            },
            "test_pipeline.1": {"type": "Resize", "scale": (384, 256), "keep_ratio": False},
            "test_dataloader.dataset.pipeline.1": {"type": "Resize", "scale": (384, 256), "keep_ratio": False},
        },
        {"config": "heads-4-levels.py"},
    ),
    (
        "heads-base-sizes",
        "heads; own base sizes of anchors, means of a BGR network by options, no limit of candidates",
        {
            _HEAD + "anchor_generator.base_sizes": [10, 22, 40, 80, 150],
            "model.data_preprocessor.mean": [100.0, 110.0, 125.0],
            "model.data_preprocessor.std": [57.0, 58.0, 59.0],
            "model.data_preprocessor.bgr_to_rgb": False,
            "model.test_cfg.nms_pre": -1,
        },
        {
            "flavour": "mmdet",
            "resize": "shortest:256,384",
            "anchor_sizes": [40, 88, 160, 320, 600],
            "mean": [100, 110, 125],
            "std": [57, 58, 59],
            "channel_order": "BGR",
            "top_k": 1048576,
        },
    ),
]
# For cases in which other seeds give boxes whose scores are so near each other that rounding decides what NMS keeps.
SEEDS = {"heads-4-levels": 620, "heads-base-sizes": 620, "heads-usual": 650}


def config_of(changes: dict[str, Any]) -> Config:
    config = Config.fromstring(BASE, ".py")
    config.merge_from_dict(changes)
    return config


def model_of(config: Config, seed: int) -> Any:
    """Builds the detector of a config with seeded weights."""
    model = init_detector(config, None, device="cpu", palette="random")
    blur(model, seed)
    heads = MmdetHeads(model)
    pixels = torch.from_numpy(picture(seed, 256, 320)[..., ::-1].transpose(2, 0, 1).copy())
    images = model.data_preprocessor({"inputs": [pixels]})["inputs"]
    levels = config.model.neck.num_outs

    def run() -> Any:
        outputs = heads(images)
        return outputs[:levels], outputs[levels:]

    weight = 1 / config.model.bbox_head.bbox_coder.target_stds[0]
    head = model.bbox_head
    spread(run, head.retina_cls, head.retina_reg, seed, std=0.25, delta=0.01 * weight, means=0.3 * weight)
    return model.eval()


def environment() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "mmengine": mmengine.__version__,
        "mmcv": mmcv.__version__,
        "opencv": cv2.__version__,
    }


def record(seed: int, name: str, setting: str, changes: dict[str, Any], options: dict[str, Any]) -> None:
    config = config_of(changes)
    folder = FOLDER / "mmdet"
    folder.mkdir(parents=True, exist_ok=True)
    if "config" in options:
        config.dump(folder / options["config"])
    model = model_of(config, seed)
    torch.onnx.export(
        MmdetHeads(model),
        (torch.zeros(1, 3, 128, 192),),
        str(folder / f"{name}.onnx"),
        dynamo=False,
        opset_version=17,
        input_names=["images"],
        dynamic_axes={"images": {0: "n", 2: "height", 3: "width"}},
    )
    pictures = []
    for index, (height, width) in enumerate(SIZES):
        bgr = np.ascontiguousarray(picture(seed + index, height, width)[..., ::-1])
        found = inference_detector(model, bgr).pred_instances
        pictures.append(RecordedPicture.of(seed + index, height, width, found.bboxes, found.scores, found.labels))
    RecordedCase(
        framework="mmdet",
        version=mmdet.__version__,
        setting=setting,
        recorded_by="tests/support/record/mmdet_retinanet.py",
        pictures=pictures,
        options=options,
        environment=environment(),
    ).write(name)
    size = (folder / f"{name}.onnx").stat().st_size
    print(f"{name}: {[len(item.boxes) for item in pictures]} boxes, {size / 1024:.0f} KB")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    wanted = sys.argv[1:]
    for position, case in enumerate(CASES):
        if not wanted or case[0] in wanted:
            record(SEEDS.get(case[0], 500 + 10 * position), *case)
