"""Records cases of pytorch-retinanet: exports and boxes of its own code.

    git clone https://github.com/yhenon/pytorch-retinanet && cd pytorch-retinanet && git checkout 0348a9d
    pip install torch torchvision onnx onnxruntime scikit-image pycocotools
    python tests/support/record/pytorch_retinanet.py pytorch-retinanet

Recorded with torch 2.14.1 and scikit-image 0.26.0. The boxes are those of its evaluation on a CSV data set, with its
`Normalizer` and `Resizer`; `Resizer` takes its sides as arguments, which its scripts leave at 608 and 1024.
"""

from __future__ import annotations

import sys
import tempfile
import types
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tiny_torch import narrow, normalized, settle
from torch import nn

sys.path.append(str(Path(__file__).parents[1]))
from recorded_case import RecordedCase, RecordedPicture, picture

VERSION = "0348a9d"


class Heads(nn.Module):
    """The network up to its heads, with its sigmoid."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        model = self.model
        c3 = model.layer2(model.layer1(model.maxpool(model.relu(model.bn1(model.conv1(images))))))
        c4 = model.layer3(c3)
        features = model.fpn([c3, c4, model.layer4(c4)])
        classes = torch.cat([model.classificationModel(item) for item in features], dim=1)
        return classes, torch.cat([model.regressionModel(item) for item in features], dim=1)


@dataclass
class Setting:
    """A case.

    Attributes:
        text: What is special about it.
        sides: Shorter and longer side of `Resizer`.
        sizes: (height, width) of the pictures.
        export: (height, width) of an export of the whole model, or None for one of the heads with a dynamic size.
        logits: Mean and deviation of the logits.
        limit: Detections of an image in the evaluation.
        options: What a user has to tell the import.
    """

    text: str
    sides: tuple[int, int]
    seed: int
    sizes: Sequence[tuple[int, int]] = ()
    classes: int = 3
    export: tuple[int, int] | None = None
    logits: tuple[float, float] = (-7.5, 2.0)
    limit: int = 1 << 20
    options: dict[str, Any] = field(default_factory=dict)


SETTINGS = {
    "usual": Setting(
        "heads, dynamic size, 608 to 1024, all detections",
        (608, 1024),
        seed=8,
        sizes=[(500, 640), (450, 330)],
        logits=(-9.0, 2.0),
    ),
    "small": Setting(
        "heads, dynamic size, 224 to 320, at most 100 detections",
        (224, 320),
        seed=2,
        sizes=[(120, 160), (224, 320), (300, 200)],
        classes=60,
        limit=100,
        logits=(-4.0, 2.0),
        options={"resize": "shortest:224,320", "max_detections": 100},
    ),
    "whole": Setting(
        "whole model, exported at 96 x 128, used at other sizes",
        (224, 320),
        seed=3,
        sizes=[(224, 320), (120, 160), (222, 133)],
        export=(96, 128),
        options={"resize": "shortest:224,320"},
    ),
    "whole_one_class": Setting(
        "whole model, 1 class, exported at 128 x 96",
        (192, 300),
        seed=9,
        logits=(-5.5, 2.0),
        sizes=[(120, 160), (222, 133)],
        classes=1,
        export=(128, 96),
        options={"resize": "shortest:192,300"},
    ),
}


def network(setting: Setting) -> Any:
    """Builds its network with one block in each stage."""
    from retinanet.model import BasicBlock, ResNet

    with narrow():
        model = ResNet(setting.classes, BasicBlock, [1, 1, 1, 1])
    heads = model.classificationModel.output, model.regressionModel.output
    inputs = torch.cat([normalized(picture(seed, 256, 384)) for seed in range(90, 98)])
    settle(Heads(model), heads, inputs, seed=setting.seed, logits=setting.logits, deltas=(2.0, 2.0, 1.0, 1.0))
    return model.eval()


def export(model: Any, setting: Setting, path: Path) -> None:
    """Exports the whole model as its users do, or the heads."""
    if setting.export is not None:
        trace = normalized(picture(90, *setting.export))  # Classes that it does not contain are missing in the export.
        outputs = ["scores", "labels", "boxes"]
        torch.onnx.export(model, (trace,), path, dynamo=False, input_names=["images"], output_names=outputs)
        return
    axes = {"images": {0: "batch", 2: "height", 3: "width"}}
    outputs = ["classification", "regression"]
    torch.onnx.export(
        Heads(model),
        (torch.zeros(1, 3, 256, 352),),
        path,
        dynamo=False,
        input_names=["images"],
        output_names=outputs,
        dynamic_axes={**axes, **{name: {0: "batch", 1: "anchors"} for name in outputs}},
    )


def detect(model: Any, setting: Setting) -> list[RecordedPicture]:
    """Runs its evaluation on a CSV data set with the pictures."""
    from retinanet.csv_eval import _get_detections
    from retinanet.dataloader import CSVDataset, Normalizer, Resizer

    seeds = range(10 * setting.seed, 10 * setting.seed + len(setting.sizes))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed, size in zip(seeds, setting.sizes, strict=True):
            Image.fromarray(picture(seed, *size)).save(folder / f"{seed}.png")
        (folder / "pictures.csv").write_text("".join(f"{folder}/{seed}.png,,,,,\n" for seed in seeds))
        (folder / "classes.csv").write_text("".join(f"class {index},{index}\n" for index in range(setting.classes)))
        shorter, longer = setting.sides
        normalize, resize = Normalizer(), Resizer()
        dataset = CSVDataset(
            str(folder / "pictures.csv"),
            str(folder / "classes.csv"),
            lambda sample: resize(normalize(sample), min_side=shorter, max_side=longer),
        )
        found = _get_detections(dataset, model, max_detections=setting.limit)
    recorded = []
    for seed, size, each in zip(seeds, setting.sizes, found, strict=True):
        rows = np.concatenate(each)
        classes = np.repeat(np.arange(len(each)), [len(item) for item in each])
        recorded.append(RecordedPicture.of(seed, *size, rows[:, :4], rows[:, 4], classes))
    return recorded


def main(folder: str) -> None:
    import skimage

    sys.path.insert(0, folder)
    for module in ("matplotlib", "matplotlib.pyplot"):  # For its curves, which are not drawn here.
        sys.modules[module] = types.ModuleType(module)
    sys.modules["matplotlib"].pyplot = sys.modules["matplotlib.pyplot"]  # type: ignore[attr-defined]
    for name, setting in SETTINGS.items():
        model = network(setting)
        case = RecordedCase(
            framework="pytorch-retinanet",
            version=VERSION,
            setting=setting.text,
            recorded_by="tests/support/record/pytorch_retinanet.py",
            pictures=detect(model, setting),
            options={"flavour": "pytorch-retinanet", **setting.options},
            environment={"torch": torch.__version__, "scikit-image": skimage.__version__},
        )
        path = case.write(name)
        export(model, setting, path.with_suffix(".onnx"))
        sizes = path.stat().st_size, path.with_suffix(".onnx").stat().st_size
        print(name, sizes, "bytes;", [len(item.scores) for item in case.pictures], "boxes")


if __name__ == "__main__":
    main(sys.argv[1])
