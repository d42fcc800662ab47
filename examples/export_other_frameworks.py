"""A RetinaNet of detectron2 or mmdetection to heads-only ONNX and its spec, with the rules of its config.

    python examples/export_other_frameworks.py detectron2 CONFIG.yaml WEIGHTS.pth OUT.onnx [LABEL ...]
    python examples/export_other_frameworks.py mmdet CONFIG.py WEIGHTS.pth OUT.onnx [LABEL ...]

Runs where the framework and `pip install 'retinasdk[export]'` are installed. Anchors, thresholds, image sizes, mean and
standard deviation are those of the config; it prints what it took from where.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

try:
    import torch
except ImportError as error:  # The classes below need it, so not even --help works without it.
    sys.exit(f"{__doc__}\nerror: {error}; install it with: pip install 'retinasdk[export]'")

import retinasdk
from retinasdk import import_onnx
from retinasdk.convert.export_torch import export_heads


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


def load_detectron2(config: str, weights: str) -> tuple[torch.nn.Module, str]:
    """Returns the heads, and the whole config with all defaults as text."""
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    settings = get_cfg()
    settings.merge_from_file(config)
    settings.MODEL.DEVICE = "cpu"
    model = build_model(settings)
    DetectionCheckpointer(model).load(weights)
    return Detectron2Heads(model), settings.dump()


def load_mmdet(config: str, weights: str) -> tuple[torch.nn.Module, str]:
    """Returns the heads, and the config with its base files as text."""
    from mmdet.apis import init_detector

    model = init_detector(config, weights, device="cpu")
    return MmdetHeads(model), model.cfg.pretty_text


LOADERS: dict[str, Callable[[str, str], tuple[torch.nn.Module, str]]] = {
    "detectron2": load_detectron2,
    "mmdet": load_mmdet,
}
SUFFIXES = {"detectron2": ".yaml", "mmdet": ".py"}


def export_raw(heads: torch.nn.Module, path: Path) -> None:
    """Writes the heads as plain ONNX, for images of any size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The exporter warns about its own deprecation.
        torch.onnx.export(
            heads.eval(),
            (torch.zeros(1, 3, 256, 256),),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=["images"],
            dynamic_axes={"images": {0: "n", 2: "height", 3: "width"}},
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Export a RetinaNet of detectron2 or mmdetection to ONNX.")
    parser.add_argument("framework", choices=LOADERS)
    parser.add_argument("config", help="the config of the training: .yaml of detectron2, .py of mmdetection")
    parser.add_argument("weights", help="the checkpoint")
    parser.add_argument("output", help="the ONNX file to write; its spec is written beside it")
    parser.add_argument("labels", nargs="*", help="class names in order (default: the framework's)")
    arguments = parser.parse_args()
    flavour, output, labels = arguments.framework, arguments.output, arguments.labels
    heads, text = LOADERS[flavour](arguments.config, arguments.weights)
    with tempfile.TemporaryDirectory() as folder:
        whole, raw = Path(folder) / f"config{SUFFIXES[flavour]}", Path(folder) / "heads.onnx"
        whole.write_text(text, encoding="utf-8")
        export_raw(heads, raw)
        # The import combines the network with the config. What it writes is exported again, compared with PyTorch.
        name = Path(output).stem
        report = import_onnx(
            raw, Path(folder) / "model.onnx", flavour=flavour, config=whole, labels=labels or None, name=name
        )
    print(report)
    made = export_heads(heads, output, report.spec)
    print(f"wrote {made.path}; heads within {made.largest_difference:.1e} of PyTorch's")


if __name__ == "__main__":
    try:
        main()
    except (retinasdk.RetinaSdkError, ImportError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
