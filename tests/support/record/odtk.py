"""Records cases of ODTK: exports and boxes of its own code.

    git clone https://github.com/NVIDIA/retinanet-examples && cd retinanet-examples && git checkout 65e6310
    pip install torch torchvision onnx onnxruntime pillow pycocotools requests
    python tests/support/record/odtk.py retinanet-examples

Recorded with torch 2.14.1. ODTK's CUDA extension is replaced by its own Python code, which needs the integer division
of the torch of its time; its TensorRT engine by its own network, with the padding that `csrc/extensions.cpp` does.
Everything else is ODTK's: `Model.export`, and `infer` from the picture's file to the boxes.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torchvision
from PIL import Image
from tiny_torch import narrow, normalized, settle

sys.path.append(str(Path(__file__).parents[1]))
from recorded_case import FOLDER, RecordedCase, RecordedPicture, picture

VERSION = "65e6310"
SIZES = [(240, 320), (333, 200), (150, 170)]


def use_odtk(folder: str) -> None:
    """Makes ODTK importable without its CUDA extension, Apex and DALI."""
    for name in ("odtk._C", "odtk.dali", "apex", "apex.parallel"):
        sys.modules[name] = types.ModuleType(name)
    for name in ("decode", "iou", "nms", "Engine"):
        setattr(sys.modules["odtk._C"], name, type(name, (), {}))
    sys.modules["apex"].amp = None  # type: ignore[attr-defined]
    sys.modules["apex.parallel"].DistributedDataParallel = type("ADDP", (), {})  # type: ignore[attr-defined]
    sys.modules["odtk.dali"].DaliDataIterator = None  # type: ignore[attr-defined]
    torchvision.models.resnet.model_urls = torchvision.models.mobilenet.model_urls = {}
    sys.path.insert(0, folder)


@contextlib.contextmanager
def old_division() -> Iterator[None]:
    """Integers divided by integers are integers, as in torch before 1.5, for which ODTK's Python code was written."""
    true_division = torch.Tensor.__truediv__

    def divide(first: torch.Tensor, second: Any) -> torch.Tensor:
        is_whole = not first.is_floating_point() and isinstance(second, int)
        return first // second if is_whole else true_division(first, second)

    torch.Tensor.__truediv__ = divide  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.__truediv__ = true_division  # type: ignore[method-assign]


class Engine:
    """Stands for ODTK's TensorRT engine: the network at one size, to which images are padded."""

    stride = 1

    def __init__(self, model: Any, size: Sequence[int]) -> None:
        self.model, self.input_size = model, list(size)

    def __call__(self, data: torch.Tensor, rotated: bool) -> Any:
        height, width = (side - mine for side, mine in zip(self.input_size, data.shape[2:], strict=True))
        return self.model(torch.constant_pad_nd(data, (0, width, 0, height)), rotated)


@dataclass
class Setting:
    """A case.

    Attributes:
        text: What is special about it.
        size: (height, width) of the export, or None for a dynamic one.
        sizes: Of the pictures.
        resize: (shorter, longer) side of `odtk infer`; the longer one follows from the size of an engine.
        model: Arguments of the network.
        config: Thresholds and limits.
        options: What a user has to tell the import.
    """

    text: str
    size: tuple[int, int] | None
    sizes: Sequence[tuple[int, int]]
    resize: tuple[int, int]
    seed: int
    classes: int = 3
    model: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


RATIOS, SCALES = [1.0, 3.0, 0.25, 0.5], [3.0, 5.5]
SETTINGS = {
    "dynamic": Setting(
        "height and width dynamic in the export, resize 256, at most 400",
        None,
        SIZES,
        (256, 400),
        seed=29,
        options={"resize": "shortest:256,400"},
    ),
    "dynamic_own": Setting(
        "dynamic, 80 classes, threshold 0.3, top_n 60, nms 0.3, detections 40, ratios 1 3 0.25 0.5, scales 3 5.5",
        None,
        SIZES,
        (256, 400),
        seed=14,
        classes=80,
        model={"ratios": RATIOS, "scales": SCALES},
        config={"threshold": 0.3, "top_n": 60, "nms": 0.3, "detections": 40},
        options={
            "resize": "shortest:256,400",
            "anchor_sizes": [8, 16, 32, 64, 128],
            "anchor_ratios": RATIOS,
            "anchor_scales": SCALES,
            "score_threshold": 0.3,
            "top_k": 60,
            "nms_iou_threshold": 0.3,
            "max_detections": 40,
        },
    ),
    "fixed_multiple": Setting(
        "fixed 256 x 384, images padded to it", (256, 384), [(240, 320), (200, 384)], (256, 384), seed=10, classes=1
    ),
    "fixed_large": Setting(
        "fixed 640 x 640, images padded to it", (640, 640), [(480, 640), (333, 200), (101, 120)], (640, 640), seed=11
    ),
    "fixed_320x480": Setting(
        "fixed 320 x 480, which 128 does not divide",
        (320, 480),
        [(320, 480), (200, 300), (150, 340)],
        (320, 480),
        seed=11,
    ),
    "fixed_250x313": Setting(
        "fixed 250 x 313, strides 7 to 104", (250, 313), [(250, 313), (120, 200)], (250, 313), seed=4, classes=1
    ),
    "fixed_480x288": Setting(
        "fixed 480 x 288, threshold 0.2, ratios 1 3 0.25 0.5, scales 3 5.5",
        (480, 288),
        [(480, 288), (300, 170)],
        (288, 480),
        seed=4,
        model={"ratios": RATIOS, "scales": SCALES},
        config={"threshold": 0.2, "detections": 30},
        options={
            "score_threshold": 0.2,
            "max_detections": 30,
            "anchor_sizes": [8, 16, 32, 64, 128],  # Nominal strides: ODTK's anchors are strides times scales.
            "anchor_ratios": RATIOS,
            "anchor_scales": SCALES,
        },
    ),
}


def network(setting: Setting) -> Any:
    """Builds ODTK's network on its ResNet with one block in each stage."""
    from odtk import backbones
    from odtk.backbones.fpn import FPN
    from odtk.backbones.resnet import ResNet
    from odtk.model import Model
    from torchvision.models.resnet import BasicBlock

    backbones.TinyFPN = lambda: FPN(ResNet(layers=[1, 1, 1, 1], bottleneck=BasicBlock, outputs=[3, 4, 5]))
    with narrow():
        model = Model("TinyFPN", classes=setting.classes, config=setting.config, **setting.model)
    inputs = torch.cat([normalized(picture(seed, 256, 384)) for seed in range(90, 98)])
    heads = model.cls_head[-1], model.box_head[-1]
    model.exporting = True
    settle(model, heads, inputs, seed=setting.seed)
    model.exporting = False
    return model


def export(model: Any, setting: Setting) -> bytes:
    """Returns the ONNX of `odtk export model.pth model.onnx --size H W`; with axes added for a dynamic size."""
    original = torch.onnx.export
    cuda = torch.Tensor.cuda, torch.nn.Module.cuda

    def exporter(*args: Any, dynamic_axes: dict[str, Any], **options: Any) -> None:
        if setting.size is None:
            dynamic_axes = {name: {0: "batch", 2: f"{name}_h", 3: f"{name}_w"} for name in dynamic_axes}
        original(*args, dynamic_axes=dynamic_axes, dynamo=False, **options)  # The exporter of ODTK's time.

    torch.onnx.export = exporter  # type: ignore[assignment]
    torch.Tensor.cuda = torch.nn.Module.cuda = lambda self: self  # type: ignore[method-assign,assignment]
    try:
        content = model.export(setting.size or (256, 384), None, "FP32", [], None, False, onnx_only=True)
    finally:
        torch.onnx.export = original
        torch.Tensor.cuda, torch.nn.Module.cuda = cuda  # type: ignore[method-assign]
    assert isinstance(content, bytes)
    return content


def detect(model: Any, setting: Setting) -> list[RecordedPicture]:
    """Runs ODTK's `infer` on the files of the pictures."""
    from odtk.infer import infer

    runs = model if setting.size is None else Engine(model, setting.size)
    recorded = []
    for seed, (height, width) in enumerate(setting.sizes, start=10 * setting.seed):
        with tempfile.TemporaryDirectory() as folder, old_division():
            images = Path(folder) / "images"
            images.mkdir()
            Image.fromarray(picture(seed, height, width)).save(images / "picture.png")
            found = Path(folder) / "found.json"
            infer(runs, images, [found], *setting.resize, batch_size=1, world=1, use_dali=False, verbose=False)
            items = json.loads(found.read_text())["annotations"]
        boxes = [(x, y, x + w - 1, y + h - 1) for x, y, w, h in (item["bbox"] for item in items)]
        scores, classes = [item["score"] for item in items], [item["category_id"] for item in items]
        recorded.append(RecordedPicture.of(seed, height, width, boxes, scores, classes))
    return recorded


def main(folder: str) -> None:
    use_odtk(folder)
    for name, setting in SETTINGS.items():
        model = network(setting)
        content = export(model, setting)
        pictures = detect(model, setting)
        canvas = {"resize": f"fit:{setting.size[0]}x{setting.size[1]}"} if setting.size else {}
        case = RecordedCase(
            framework="odtk",
            version=VERSION,
            setting=setting.text,
            recorded_by="tests/support/record/odtk.py",
            pictures=pictures,
            options={"flavour": "odtk", **canvas, **setting.options},
            environment={"torch": torch.__version__, "torchvision": torchvision.__version__},
        )
        case.write(name).with_suffix(".onnx").write_bytes(content)
        print(name, len(content), "bytes;", [len(item.scores) for item in pictures], "boxes", FOLDER)


if __name__ == "__main__":
    main(sys.argv[1])
