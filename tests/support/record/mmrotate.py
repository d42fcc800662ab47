"""Records RotatedRetinaNets of mmrotate 0.3.4, with mmrotate's own test pipeline and head on the CPU.

mmrotate 0.x needs mmcv 1.7 and mmdet 2.28. Their pure Python parts install without a compiler:

    git clone https://github.com/open-mmlab/mmrotate   # main, commit b030f38
    pip download --no-deps --no-binary :all: mmcv-full==1.7.2 && tar xzf mmcv-full-1.7.2.tar.gz
    pip install torch onnx ninja "numpy<2" scipy "opencv-python-headless" matplotlib addict yapf pyyaml
    pip install --no-deps mmdet==2.28.2 terminaltables pycocotools
    python tests/support/record/mmrotate.py mmrotate mmcv-full-1.7.2

Of mmcv's operators, only `nms_rotated` is needed. It is compiled from mmcv's own source. The networks are those of
mmrotate's configuration files with fewer channels, so that the files are small.
"""

from __future__ import annotations

import platform
import sys
import types
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from torch import nn

# The folder above, and not this one: its files have the names of packages.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).parents[1]))
from recorded_case import RecordedCase, RecordedPicture, picture

VERSION = "0.3.4"
CLASSES = 4
CHANNELS = 8
CANDIDATES = 600
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
CONFIG = "configs/rotated_retinanet/rotated_retinanet_obb_r50_fpn_1x_dota_{}.py"
CASES: dict[str, dict[str, Any]] = {
    "le90": {"version": "le90", "setting": "le90, resize 256", "size": 256, "seed": 1},
    "le135": {"version": "le135", "setting": "le135, resize 224", "size": 224, "seed": 2},
    "oc": {"version": "oc", "setting": "oc, resize 200", "size": 200, "seed": 3},
    "resized": {
        "version": "le90",
        "setting": "le90, pictures of other sizes, resize 160",
        "size": 160,
        "seed": 21,
        "gain": 0.3,
    },
    "top-k": {
        "version": "oc",
        "setting": "oc, the best 40 anchors of a level, score 0.005, resize 192",
        "size": 192,
        "seed": 8,
        "test": {"nms_pre": 40, "score_thr": 0.005},
        "options": {"top_k": 40, "score_threshold": 0.005},
    },
    "strict": {
        "version": "le90",
        "setting": "le90, score 0.08, NMS 0.4, 20 boxes, resize 192",
        "size": 192,
        "seed": 4,
        "test": {"score_thr": 0.08, "nms": {"iou_thr": 0.4}, "max_per_img": 20},
        "options": {"score_threshold": 0.08, "nms_iou_threshold": 0.4, "max_detections": 20},
    },
    "anchors": {
        "version": "le135",
        "setting": "le135, 2 ratios x 2 scales",
        "size": 240,
        "seed": 5,
        "anchors": {"octave_base_scale": 3, "scales_per_octave": 2, "ratios": [1.0, 4.0]},
    },
}

_BINDING = """
#include <cassert>
#include "nms_rotated.cpp"
#include "cpu/nms_rotated.cpp"
PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) { m.def("nms_rotated", &nms_rotated); }
"""


class _Missing(types.ModuleType):
    """A module of which nothing is called: each of its names is a class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (nn.Module,), {})


def import_mmrotate(clone: Path, mmcv: Path) -> None:
    """Imports mmrotate with mmcv's own rotated NMS, and without the operators that no RetinaNet needs."""
    from torch.utils.cpp_extension import load_inline

    source = mmcv / "mmcv" / "ops" / "csrc"
    built = load_inline(
        "mmcv_nms_rotated", _BINDING, extra_include_paths=[str(source / "common"), str(source / "pytorch")]
    )
    extension = _Missing("mmcv._ext")
    extension.nms_rotated = built.nms_rotated  # type: ignore[attr-defined]
    sys.modules["mmcv._ext"] = extension
    # For a backbone that is not used.
    sys.modules["e2cnn"], sys.modules["e2cnn.nn"] = MagicMock(), _Missing("e2cnn.nn")
    sys.path[:0] = [str(mmcv), str(clone)]
    import mmrotate

    assert mmrotate.__version__ == VERSION, mmrotate.__version__


def build(clone: Path, case: dict[str, Any]) -> Any:
    """The network of mmrotate's configuration, with few channels and random weights."""
    import mmcv
    from mmrotate.models import build_detector

    config = mmcv.Config.fromfile(str(clone / CONFIG.format(case["version"])))
    model = config.model
    model.backbone.update(depth=18, base_channels=4, stem_channels=CHANNELS, frozen_stages=-1, init_cfg=None)
    model.neck.update(in_channels=[4, 8, 16, 32], out_channels=CHANNELS)
    model.bbox_head.update(num_classes=CLASSES, in_channels=CHANNELS, feat_channels=CHANNELS, stacked_convs=1)
    if "anchors" in case:
        model.bbox_head.anchor_generator.update(case["anchors"])
    model.test_cfg.update(case.get("test", {}))
    model.train_cfg = None
    for step in config.data.test.pipeline:
        if step["type"] == "MultiScaleFlipAug":
            step["img_scale"] = (case["size"], case["size"])
    torch.manual_seed(case["seed"])
    detector = build_detector(model)
    detector.init_weights()
    detector.cfg = config
    detector.CLASSES = tuple(f"class {index}" for index in range(CLASSES))
    spread(detector.eval(), case.get("gain", 0.8))
    return detector


def spread(detector: Any, gain: float) -> None:
    """Sets weights with which about `CANDIDATES` scores are above 0.05, and a gray level has no large effect."""
    head = detector.bbox_head
    with torch.no_grad():
        first = detector.backbone.conv1.weight  # Means of 7 x 7 pixels.
        first.copy_(torch.randn(first.shape[:2])[:, :, None, None].expand_as(first) / 49)
        for layer in (*detector.neck.modules(), *head.modules()):
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=(1.0 / layer.weight[0].numel()) ** 0.5)
                nn.init.zeros_(layer.bias)
        image = torch.from_numpy(picture(*sizes("", 224)[0]).astype(np.float32)).permute(2, 0, 1)
        image = ((image - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None])[None]
        scores, deltas = head(detector.extract_feat(image))
        head.retina_cls.weight.mul_(gain / torch.cat([level.flatten() for level in scores]).std())
        head.retina_reg.weight.mul_(0.06 / torch.cat([level.flatten() for level in deltas]).std())
        nn.init.normal_(head.retina_cls.bias, std=0.5)
        head.retina_reg.bias.copy_(
            torch.randn(5 * head.num_anchors) * torch.tensor([0.2] * 4 + [0.7]).repeat(head.num_anchors)
        )
        scores, _ = head(detector.extract_feat(image))
        last = torch.cat([level.flatten() for level in scores]).sort(descending=True).values[CANDIDATES]
        head.retina_cls.bias.sub_(last + 2.94)


def found_in(detector: Any, seed: int, height: int, width: int) -> RecordedPicture:
    from mmdet.apis import inference_detector

    (by_class,) = inference_detector(detector, [np.ascontiguousarray(picture(seed, height, width)[:, :, ::-1])])
    boxes = np.concatenate(by_class)
    classes = np.repeat(np.arange(CLASSES), [len(item) for item in by_class])
    return RecordedPicture.of(seed, height, width, boxes[:, :5], boxes[:, 5], classes)


def sizes(name: str, side: int) -> list[tuple[int, int, int]]:
    """Seeds and sizes of the pictures. Most need no resize, so that its rounding to gray levels plays no part."""
    if name == "resized":
        return [(1, 150, 210), (2, 97, 131)]
    return [(1, side, side * 3 // 4), (2, side * 2 // 3, side)]


class Heads(nn.Module):
    """mmrotate's network up to the outputs of its head."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, image: Any) -> Any:
        scores, deltas = self.detector.bbox_head(self.detector.extract_feat(image))
        return (*scores, *deltas)


def export(detector: Any, path: Path) -> None:
    names = [f"{kind}_{level}" for kind in ("cls_score", "bbox_pred") for level in range(5)]
    axes = {name: {0: "batch", 2: "height", 3: "width"} for name in ("input", *names)}
    torch.onnx.export(
        Heads(detector), torch.zeros(1, 3, 256, 256), str(path), opset_version=13, input_names=["input"],
        output_names=names, dynamic_axes=axes, dynamo=False,
    )  # fmt: skip


def anchors_of(detector: Any) -> list[list[list[float]]]:
    generator = detector.bbox_head.anchor_generator
    own = [generator.single_level_grid_priors((1, 1), level, device="cpu") for level in range(5)]
    return [level.double().tolist() for level in own]


def main(clone: Path, mmcv_source: Path) -> None:
    import_mmrotate(clone, mmcv_source)
    import cv2
    import mmcv
    import mmdet

    for name, case in CASES.items():
        detector = build(clone, case)
        pictures = [found_in(detector, *size) for size in sizes(name, case["size"])]
        print(name, [len(item.boxes) for item in pictures])
        options = {"flavour": f"mmrotate-{case['version']}", "resize": f"shortest:{case['size']},{case['size']}"}
        if "anchors" in case:
            options["base_anchors"] = anchors_of(detector)
        recording = RecordedCase(
            framework="mmrotate",
            version=VERSION,
            setting=case["setting"],
            recorded_by="tests/support/record/mmrotate.py",
            pictures=pictures,
            options={**options, **case.get("options", {})},
            environment={
                "python": platform.python_version(),
                "torch": torch.__version__,
                "mmcv": mmcv.__version__,
                "mmdet": mmdet.__version__,
                "opencv": cv2.__version__,
            },
        )
        export(detector, recording.write(name).with_suffix(".onnx"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
