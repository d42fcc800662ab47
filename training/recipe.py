"""What a model is trained on and how: one frozen dataclass, read from ``recipes/<name>.json``."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from anchors import AnchorRule
from assign import AssignRule

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Recipe:
    """A training run, complete: the same recipe, seed and step give the same samples.

    Data: `dataset` is a folder of the data root; `splits` are trained on; those of `late_splits` join at
    share `late_from` of the steps, so that choices can be made on them before. `classes` come first in the
    head and are exported; `auxiliary` names groups of further labels, dropped at export. Labels in neither
    are ignored.

    Samples: squares of `canvas` pixels. A photo's longest side is scaled to `long_side` (0: not scaled), times a factor
    drawn from `jitter` (from `late_from` on, `late_jitter` if given). `mosaic` is the share of samples made of four
    photos; the last `plain_end` of the steps have none. `turns`: also quarter turns and upside down.
    `repeats`: photos that show the last of `classes`, a rare one, come so many times as often.

    Inference: `eval_side` is the longest side (0: native size); `top_k` candidates of a level and `max_detections` of
    an image are kept; `nms_iou` is the IoU above which NMS suppresses a box. The SDK reports scores above
    `report_above` by default. It is where F1 on the val split was best, with two exceptions: `people`, whose card
    explains both values, and tree crowns, whose val photo is of another landscape: near the best F1 on the training
    photos. Lower scores count in AP.
    """

    name: str
    dataset: str
    classes: tuple[str, ...]
    steps: int
    splits: tuple[str, ...] = ("train",)
    late_splits: tuple[str, ...] = ()
    late_from: float = 1.0
    auxiliary: str = ""
    canvas: int = 384
    long_side: int = 512
    jitter: tuple[float, float] = (0.5, 1.6)
    late_jitter: tuple[float, float] | None = None
    mosaic: float = 0.0
    plain_end: float = 0.15
    turns: bool = False
    repeats: int = 1
    eval_side: int = 512
    top_k: int = 1000
    max_detections: int = 300
    nms_iou: float = 0.5
    report_above: float = 0.05
    channels: int = 80
    depth: int = 2
    frozen_blocks: int = 3
    anchor_scale: float = 4.0
    best_k: int = 6
    batch: int = 8
    head_rate: float = 1e-3
    backbone_rate: float = 2.5e-4
    weight_decay: float = 0.01
    warmup: int = 150
    ema: float = 0.998
    alpha: float = 0.25
    gamma: float = 2.0
    box_weight: float = 2.0
    seed: int = 1

    @property
    def anchors(self) -> AnchorRule:
        return AnchorRule(scale=self.anchor_scale)

    @property
    def assigning(self) -> AssignRule:
        return AssignRule(best_k=self.best_k)

    @property
    def head_classes(self) -> int:
        """Classes of the head in training, auxiliary ones included."""
        from data import auxiliary_groups

        return len(self.classes) + len(auxiliary_groups(self.auxiliary))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Recipe:
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"a recipe has the fields of Recipe, got also {sorted(unknown)}; remove them")
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def load_recipe(name: str) -> Recipe:
    """The recipe `name` of ``recipes/``, or one at a path that ends in .json."""
    path = Path(name) if name.endswith(".json") else HERE / "recipes" / f"{name}.json"
    if not path.is_file():
        known = sorted(p.stem for p in (HERE / "recipes").glob("*.json"))
        raise ValueError(f"a recipe's name or file wanted, got {name!r}; use one of {known}")
    return Recipe.from_json(json.loads(path.read_text()))


def data_root() -> Path:
    """Where the data sets are: RETINASDK_DATA, or ../shared/data from the project's root."""
    root = Path(os.environ.get("RETINASDK_DATA", HERE.parent.parent / "shared" / "data"))
    if not root.is_dir():
        raise FileNotFoundError(f"data sets wanted in {root}, which is absent; set RETINASDK_DATA to their folder")
    return root


def runs_dir() -> Path:
    """Where checkpoints and logs go (ignored by git)."""
    return HERE / "runs"
