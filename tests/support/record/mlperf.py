"""Records cases of MLPerf's RetinaNet: exports and boxes of its own code.

    git clone https://github.com/mlcommons/training && cd training && git checkout aa344c7f
    pip install torch torchvision onnx onnxruntime pillow
    python tests/support/record/mlperf.py training/retired_benchmarks/retinanet

Recorded with torch 2.14.1. The export is that of `scripts/pth_to_onnx.py`, with the exporter of its time; the boxes are
those of the model itself, on pictures that its `DetectionPresetEval` prepares.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torchvision
from PIL import Image
from tiny_torch import narrow, normalized, settle
from torch import nn

sys.path.append(str(Path(__file__).parents[1]))
from recorded_case import RecordedCase, RecordedPicture, picture

VERSION = "training aa344c7f"


class Heads(nn.Module):
    """The network up to its heads."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> Any:
        return self.model.head(list(self.model.backbone(images).values()))


@dataclass
class Setting:
    """A case.

    Attributes:
        text: What is special about it.
        arguments: Of `pth_to_onnx.py`.
        sizes: (height, width) of the pictures.
        limits: Thresholds and limits of the model, by the names of its attributes.
        logits: Mean and deviation of the logits.
        options: What a user has to tell the import.
    """

    text: str
    seed: int
    classes: int
    arguments: Sequence[str] = ()
    sizes: Sequence[tuple[int, int]] = ()
    limits: dict[str, Any] = field(default_factory=dict)
    logits: tuple[float, float] = (-4.5, 1.5)
    options: dict[str, Any] = field(default_factory=dict)


SETTINGS = {
    "official": Setting("264 classes, 800 x 800, dynamic input", seed=1, classes=264, sizes=[(480, 640), (900, 600)]),
    "fixed": Setting(
        "5 classes, 320 x 448, fixed input of that size",
        seed=2,
        classes=5,
        arguments=["--image-size", "320", "448", "--batch-size", "1"],
        sizes=[(320, 448), (240, 320), (333, 200)],
        options={"flavour": "mlperf"},
    ),
    "limits": Setting(
        "5 classes, 800 x 800, score 0.2, IoU 0.35, top-k 150, 60 detections",
        seed=3,
        classes=5,
        sizes=[(480, 640), (500, 333)],
        limits={"score_thresh": 0.2, "nms_thresh": 0.35, "topk_candidates": 150, "detections_per_img": 60},
        logits=(-2.0, 1.5),
        options={"flavour": "mlperf"},
    ),
}


def use_mlperf(folder: str) -> None:
    """Makes its modules importable without its logger, and its ResNet-50 one block deep in each stage."""
    sys.path[:0] = [f"{folder}/ssd", f"{folder}/scripts"]
    for name in ("ssd_logger", "mlperf_logging", "mlperf_logging.mllog", "mlperf_logging.mllog.constants"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["ssd_logger"].mllogger = mock.Mock()  # type: ignore[attr-defined]
    sys.modules["mlperf_logging.mllog.constants"].WEIGHTS_INITIALIZATION = ""  # type: ignore[attr-defined]
    from model import resnet

    resnet.resnet50 = lambda **options: resnet.ResNet(
        resnet.BasicBlock, [1, 1, 1, 1], norm_layer=options.get("norm_layer")
    )


def network(setting: Setting, image_size: Sequence[int]) -> Any:
    from model.retinanet import retinanet_from_backbone

    channels = 3 if setting.classes > 100 else 4
    frozen = torchvision.ops.misc.FrozenBatchNorm2d
    original = frozen.__init__
    with (
        narrow(channels=channels, divisor=256 // channels),
        mock.patch.object(
            frozen, "__init__", lambda self, count: original(self, max(channels, count * channels // 256))
        ),
    ):
        model = retinanet_from_backbone(
            backbone="resnet50",
            num_classes=setting.classes,
            image_size=list(image_size),
            pretrained=False,
            pretrained_backbone=False,
        )
    inputs = torch.cat([normalized(picture(seed, 256, 384)) for seed in range(90, 98)])
    heads = model.head.classification_head.cls_logits, model.head.regression_head.bbox_reg
    settle(Heads(model), heads, inputs, seed=setting.seed, logits=setting.logits)
    for name, value in setting.limits.items():
        setattr(model, name, value)
    return model.eval()


def export(model: Any, setting: Setting, path: Path) -> None:
    """Runs `pth_to_onnx.py` with this model in place of the one that it would load."""
    import pth_to_onnx

    exporter = torch.onnx.export
    arguments = ["pth_to_onnx.py", "--input", "-", "--output", str(path), "--device", "cpu", *setting.arguments]
    with (
        mock.patch.object(sys, "argv", arguments),
        mock.patch.object(pth_to_onnx, "retinanet_from_backbone", return_value=model),
        mock.patch.object(torch, "load", return_value={"model": model.state_dict()}),
        mock.patch.object(torch.onnx, "export", lambda *args, **options: exporter(*args, **options, dynamo=False)),
    ):
        pth_to_onnx.main(pth_to_onnx.parse_args())


def detect(model: Any, setting: Setting) -> list[RecordedPicture]:
    from presets import DetectionPresetEval

    recorded = []
    for seed, size in enumerate(setting.sizes, start=10 * setting.seed):
        image, _ = DetectionPresetEval()(Image.fromarray(picture(seed, *size)), {})
        with torch.no_grad():
            (found,) = model([image])
        recorded.append(RecordedPicture.of(seed, *size, found["boxes"], found["scores"], found["labels"]))
    return recorded


def main(folder: str) -> None:
    use_mlperf(folder)
    for name, setting in SETTINGS.items():
        size = [int(item) for item in setting.arguments[1:3]] or [800, 800]
        model = network(setting, size)
        case = RecordedCase(
            framework="mlperf",
            version=VERSION,
            setting=setting.text,
            recorded_by="tests/support/record/mlperf.py",
            pictures=detect(model, setting),
            options=setting.options,
            environment={"torch": torch.__version__, "torchvision": torchvision.__version__},
        )
        path = case.write(name)
        export(model, setting, path.with_suffix(".onnx"))
        sizes = path.stat().st_size, path.with_suffix(".onnx").stat().st_size
        print(name, sizes, "bytes;", [len(item.scores) for item in case.pictures], "boxes")


if __name__ == "__main__":
    main(sys.argv[1])
