"""A framework's rules as data, and their translation to a `ModelSpec`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from retinasdk.convert.flavours.coco import COCO_80, COCO_91
from retinasdk.spec import BoxCoder, Level, ModelSpec, Normalise, Resize

BaseAnchors = tuple[tuple[float, float, float, float], ...]

FIRST_LEVEL = 3  # P3: the level whose cells are 8 pixels apart
ANCHORS = 9  # of a cell, in every framework here
_OCTAVE_STEPS = 3  # sizes of a level: the base size times 2^(0/3), 2^(1/3) and 2^(2/3)
_LABELS = {"coco80": COCO_80, "coco91": COCO_91}


@dataclass(frozen=True)
class AnchorRule:
    """How a framework makes base anchors.

    sizes: pixels, one a level. ratios: height / width. order: what changes slowly, "ratio" or "size".
    whole_pixels: sizes are cut to integers, and half sides rounded half to even. centre: of a cell, in strides.
    """

    sizes: tuple[float, ...]
    ratios: tuple[float, ...]
    order: str
    whole_pixels: bool
    centre: float

    def base_anchors(self, level: int) -> BaseAnchors:
        """Anchors xyxy of the cell in row 0, column 0, in input pixels; level counts from 0 for P3."""
        sizes = [self.sizes[level] * 2 ** (step / _OCTAVE_STEPS) for step in range(_OCTAVE_STEPS)]
        if self.whole_pixels:
            sizes = [float(int(size)) for size in sizes]
        by_ratio = [[_around_origin(size, ratio) for size in sizes] for ratio in self.ratios]
        rows = by_ratio if self.order == "ratio" else [list(row) for row in zip(*by_ratio, strict=True)]
        centre = self.centre * 2 ** (level + FIRST_LEVEL)
        boxes = (half_sides for row in rows for half_sides in row)
        if self.whole_pixels:
            boxes = ((round(x), round(y)) for x, y in boxes)
        return tuple((centre - x, centre - y, centre + x, centre + y) for x, y in boxes)


def _around_origin(size: float, ratio: float) -> tuple[float, float]:
    """Half the width and half the height of a box of area size x size."""
    return size / math.sqrt(ratio) / 2, size * math.sqrt(ratio) / 2


@dataclass(frozen=True)
class Preset:
    """One framework's rules.

    labels: "coco80" or "coco91"; None: the names of its classes are not here. fixed_strides: 8 to 128, twice as far
    from level to level; else padded side // cells. Everything else is as in `ModelSpec`.
    """

    flavour: str
    title: str
    labels: str | None
    classes: int
    anchors: AnchorRule
    fixed_strides: bool
    box_coder: BoxCoder
    clip: str
    score_threshold: float
    top_k: int
    nms_iou_threshold: float
    max_detections: int
    resize: Resize
    normalise: Normalise
    pad_multiple: int
    clip_limit: str = "edge"
    drop_empty: str = "never"
    inclusive_pixels: bool = False
    rescale: str = "per_axis"
    source: Mapping[str, str] = field(default_factory=dict)

    def spec(
        self,
        *,
        labels: Sequence[str] | None = None,
        name: str | None = None,
        base_anchors: Sequence[BaseAnchors] | None = None,
        strides: Sequence[int] | None = None,
    ) -> ModelSpec:
        """The rules as a `ModelSpec`.

        labels, name, base_anchors (one entry a level) and strides (pixels, powers of 2) replace the framework's own.
        """
        if base_anchors is None:
            base_anchors = [self.anchors.base_anchors(level) for level in range(len(self.anchors.sizes))]
        if strides is None:
            strides = [1 << (index + FIRST_LEVEL) for index in range(len(base_anchors))]
        return ModelSpec(
            name=name or self.title,
            flavour=self.flavour,
            labels=tuple(labels) if labels is not None else self.class_names(),
            levels=tuple(map(self._level, base_anchors, strides)),
            resize=self.resize,
            normalise=self.normalise,
            pad_multiple=self.pad_multiple,
            box_coder=self.box_coder,
            score_threshold=self.score_threshold,
            top_k=self.top_k,
            clip=self.clip,
            nms_iou_threshold=self.nms_iou_threshold,
            max_detections=self.max_detections,
            clip_limit=self.clip_limit,
            drop_empty=self.drop_empty,
            inclusive_pixels=self.inclusive_pixels,
            rescale=self.rescale,
            source=self.source,
        )

    def class_names(self) -> tuple[str, ...]:
        """Of the data that the framework's published models are trained on, or "class 0" and so on."""
        if self.labels is None:
            return tuple(f"class {index}" for index in range(self.classes))
        return _LABELS[self.labels]

    def _level(self, anchors: BaseAnchors, stride: int) -> Level:
        name = level_name(stride)
        return Level(f"logits_{name}", f"deltas_{name}", anchors, (stride, stride) if self.fixed_strides else None)


def level_name(stride: int) -> str:
    """Of the level whose cells are so many pixels apart, a power of 2: p3 for 8."""
    return f"p{stride.bit_length() - 1}"
