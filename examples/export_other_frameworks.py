"""A RetinaNet of detectron2 or mmdetection to heads-only ONNX and its spec.

    python examples/export_other_frameworks.py detectron2 CONFIG.yaml WEIGHTS.pth OUT.onnx [LABEL ...]
    python examples/export_other_frameworks.py mmdet CONFIG.py WEIGHTS.pth OUT.onnx [LABEL ...]

Runs where the framework and `pip install 'retinasdk[export]'` are installed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from retinasdk.convert.export_torch import export_heads
from retinasdk.convert.flavours import flavour_spec


class Detectron2Heads(torch.nn.Module):
    """Of a detectron2 RetinaNet, without its normalisation, padding, decoding and NMS."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone, self.head, self.levels = model.backbone, model.head, model.head_in_features

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features = self.backbone(images)
        logits, deltas = self.head([features[level] for level in self.levels])
        return (*logits, *deltas)


class MmdetHeads(torch.nn.Module):
    """Of an mmdetection RetinaNet, likewise."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits, deltas = self.model.bbox_head(self.model.extract_feat(images))
        return (*logits, *deltas)


def load_detectron2(config: str, weights: str) -> torch.nn.Module:
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    settings = get_cfg()
    settings.merge_from_file(config)
    settings.MODEL.DEVICE = "cpu"
    model = build_model(settings)
    DetectionCheckpointer(model).load(weights)
    return Detectron2Heads(model)


def load_mmdet(config: str, weights: str) -> torch.nn.Module:
    from mmdet.apis import init_detector

    return MmdetHeads(init_detector(config, weights, device="cpu"))


LOADERS: dict[str, Callable[[str, str], torch.nn.Module]] = {"detectron2": load_detectron2, "mmdet": load_mmdet}


def main() -> None:
    flavour, config, weights, output, *labels = sys.argv[1:]
    spec = flavour_spec(flavour, labels=labels or None, name=Path(output).stem)
    made = export_heads(LOADERS[flavour](config, weights), output, spec)
    print(f"wrote {made.path}; heads within {made.largest_difference:.1e} of PyTorch's")


if __name__ == "__main__":
    main()
