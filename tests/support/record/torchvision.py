"""Records boxes of torchvision's RetinaNet: whole models and heads by `torch.onnx.export`, boxes by the model itself.

    pip install torch torchvision onnx onnxscript
    python tests/support/record/torchvision.py

Recorded with torch 2.14.1 and torchvision 0.29.1. The backbone is a small one of its own, since those of torchvision
have many megabytes; pyramid, heads, anchors, preprocessing and post-processing are torchvision's.
"""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # In place of this folder, whose files have the names of the frameworks.
    sys.path[0] = str(Path(__file__).parents[1])

import onnx
import torch
import torchvision
from recorded_case import picture, record_cases
from torch import nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

WIDTH = 8
OWN_ANCHORS = tuple((side, int(side * 1.5)) for side in (24, 48, 96, 192, 384))
# What is special, arguments of `torch.onnx.export`, arguments of RetinaNet, options of `import_onnx`, picture sizes.
Case = tuple[str, dict[str, Any], dict[str, Any], dict[str, Any], list[tuple[int, int]]]
CASES: dict[str, Case] = {
    "dynamic": (
        "whole model, dynamic size, opset 17, torchvision's thresholds",
        {"opset_version": 17, "dynamic": True},
        {"num_classes": 4, "min_size": 256, "max_size": 400},
        {},
        [(300, 400), (241, 163), (90, 512)],
    ),
    "fixed": (
        "whole model, fixed size, opset 11, score 0.3, top-k 100, NMS 0.3, 40 detections",
        {"opset_version": 11, "dynamic": False},
        {
            **{"num_classes": 3, "min_size": 200, "max_size": 333, "score_thresh": 0.3, "topk_candidates": 100},
            **{"nms_thresh": 0.3, "detections_per_img": 40},
        },
        {},
        [(240, 320), (300, 170)],
    ),
    "own-anchors": (
        "whole model, opset 14, 6 own anchors, own mean and std, score 0.15",
        {"opset_version": 14, "dynamic": True},
        {
            **{"num_classes": 2, "min_size": 224, "max_size": 500, "anchors": (OWN_ANCHORS, (0.4, 1.0, 2.5))},
            **{"image_mean": [0.5, 0.45, 0.4], "image_std": [0.2, 0.25, 0.3], "score_thresh": 0.15},
        },
        {"flavour": "torchvision"},
        [(224, 300), (401, 260)],
    ),
    "four-levels": (
        "whole model, four levels, opset 17, NMS 0.7, 150 detections",
        {"opset_version": 17, "dynamic": True},
        {
            **{"num_classes": 5, "min_size": 192, "max_size": 640, "nms_thresh": 0.7, "detections_per_img": 150},
            "anchors": (tuple((side, int(side * 1.26), int(side * 1.59)) for side in (16, 32, 64, 128)), (0.5, 1, 2)),
        },
        {"flavour": "torchvision"},
        [(260, 380), (192, 192)],
    ),
    "heads": (
        "heads only, by the dynamo exporter, everything given as options",
        {"opset_version": 20, "heads": True},
        {
            **{"num_classes": 3, "min_size": 320, "max_size": 480, "anchors": (OWN_ANCHORS, (0.5, 2.0))},
            **{"score_thresh": 0.1, "topk_candidates": 300, "nms_thresh": 0.45, "detections_per_img": 80},
        },
        {
            **{"flavour": "torchvision", "anchor_sizes": [24, 48, 96, 192, 384], "anchor_ratios": [0.5, 2.0]},
            **{"anchor_scales": [1, 1.5], "resize": "shortest:320,480", "score_threshold": 0.1, "top_k": 300},
            **{"nms_iou_threshold": 0.45, "max_detections": 80},
        },
        [(300, 400), (333, 500)],
    ),
}


class Backbone(nn.Module):
    """A few convolutions with outputs of stride 8, 16 and 32, and torchvision's pyramid behind them."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.out_channels = WIDTH
        channels = (3, 6, 8, 8, 8, 8)
        self.steps = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in itertools.pairwise(channels)
        )
        self.pyramid = FeaturePyramidNetwork(
            list(channels[3:]), WIDTH, LastLevelP6P7(WIDTH, WIDTH) if levels > 3 else None
        )
        self.levels = levels

    def forward(self, images: Any) -> dict[str, Any]:
        outputs: dict[str, Any] = {}
        for index, step in enumerate(self.steps):
            images = step(images)
            if index >= 2:
                outputs[str(index)] = images
        found = self.pyramid(outputs)
        return dict(list(found.items())[: self.levels])


class Heads(nn.Module):
    """The model without preprocessing and decoding."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone, self.head = model.backbone, model.head

    def forward(self, images: Any) -> tuple[Any, ...]:
        features = list(self.backbone(images).values())
        classify, regress = self.head.classification_head, self.head.regression_head
        logits = [classify.cls_logits(classify.conv(level)) for level in features]
        return (*logits, *(regress.bbox_reg(regress.conv(level)) for level in features))


def retinanet(*, seed: int, num_classes: int, anchors: Any = None, **rules: Any) -> Any:
    """A RetinaNet with random weights that finds some dozen boxes."""
    torch.manual_seed(seed)
    if anchors is not None:
        sizes, ratios = anchors
        rules["anchor_generator"] = AnchorGenerator(sizes, (ratios,) * len(sizes))
    levels = len(anchors[0]) if anchors is not None else 5
    count = len(anchors[0][0]) * len(anchors[1]) if anchors is not None else 9
    model = RetinaNet(Backbone(levels), num_classes, head=RetinaNetHead(WIDTH, count, num_classes), **rules).eval()
    spread(model)
    return model


def spread(model: Any) -> None:
    """Scales the last layers so that one score in 2000 is above 0.9, one in 100 above 0.2, and deltas are tenths."""
    (images, _) = model.transform([as_tensor(picture(99, 300, 400))])
    heads, count = Heads(model), len(model.anchor_generator.sizes)
    lasts = model.head.classification_head.cls_logits, model.head.regression_head.bbox_reg
    with torch.no_grad():
        for last, part in zip(lasts, (slice(count), slice(count, None)), strict=True):
            nn.init.normal_(last.weight, std=0.1)
            last.bias.zero_()
            values = torch.cat([level.flatten() for level in heads(images.tensors)[part]])
            low, high = torch.quantile(values[torch.randperm(len(values))[:1_000_000]], torch.tensor([0.99, 0.9995]))
            is_logits = last is lasts[0]
            factor = 3.6 / (high - low) if is_logits else 0.3 / values.std()
            last.weight.mul_(factor)
            last.bias.fill_(-1.4 - low * factor if is_logits else 0.0)


def as_tensor(pixels: Any) -> Any:
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def export(model: Any, path: Path, *, opset_version: int, dynamic: bool = False, heads: bool = False) -> None:
    """Exports as torchvision's users do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The exporter warns about its own deprecation.
        if heads:
            axes = {"images": {0: torch.export.Dim("n"), 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}}
            program = torch.onnx.export(
                Heads(model).eval(),
                (torch.zeros(2, 3, 256, 320),),
                opset_version=opset_version,
                dynamo=True,
                verbose=False,
                dynamic_shapes=axes,
            )
            program.save(str(path))
            without_traces(path)
            return
        names = ["boxes", "scores", "labels"]
        torch.onnx.export(
            model,
            ([as_tensor(picture(98, 240, 320))],),
            str(path),
            dynamo=False,
            opset_version=opset_version,
            input_names=["image"],
            output_names=names,
            dynamic_axes={"image": {1: "H", 2: "W"}, **{name: {0: "n"} for name in names}} if dynamic else None,
        )
        without_traces(path)


def without_traces(path: Path) -> None:
    """Removes the source files and shapes that PyTorch writes to every node, which are most of a small file."""
    model = onnx.load(path)
    del model.graph.value_info[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    onnx.save(model, path)
    path.with_suffix(".onnx.data").unlink(missing_ok=True)


def run_case(name: str, path: Path) -> Callable[[Any], tuple[Any, Any, Any]]:
    """Exports the model of a case, and returns the framework's function from pixels to boxes, scores, classes."""
    _, exporting, rules, _, _ = CASES[name]
    model = retinanet(seed=list(CASES).index(name) + 1, **rules)
    export(model, path, **exporting)

    def found(pixels: Any) -> tuple[Any, Any, Any]:
        with torch.inference_mode():
            (item,) = model([as_tensor(pixels)])
        return item["boxes"].numpy(), item["scores"].numpy(), item["labels"].numpy()

    return found


def main() -> None:
    about = {"torch": torch.__version__, "onnx": onnx.__version__}
    record_cases("torchvision", CASES, run_case, "torchvision.py", version=torchvision.__version__, environment=about)


if __name__ == "__main__":
    main()
