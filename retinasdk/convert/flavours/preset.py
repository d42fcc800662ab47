"""`Preset`: the rules of a training framework as data, and their translation to a `ModelSpec`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from retinasdk.convert.flavours.coco import COCO_80, COCO_91
from retinasdk.convert.flavours.dota import DOTA_15
from retinasdk.convert.flavours.openimages import OPENIMAGES_264
from retinasdk.spec import BoxCoder, Level, ModelSpec, Normalise, Resize

BaseAnchors = tuple[tuple[float, ...], ...]

FIRST_LEVEL = 3  # P3, the level of stride 8.
ANCHORS_PER_CELL = 9  # In every framework here.
OCTAVES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
_LABELS = {
    "coco80": COCO_80,
    "coco90": COCO_91[1:],
    "coco91": COCO_91,
    "openimages264": OPENIMAGES_264,
    "dota15": DOTA_15,
}


@dataclass(frozen=True)
class AnchorRule:
    """How a framework computes its base anchors.

    Attributes:
        sizes: Base size of each level, in pixels of the network input. The sizes of a level are this one times each of
            `scales`. A size is the square root of an anchor's area.
        ratios: Height / width of the anchors.
        order: Which varies slowest in the list of nine anchors: "ratio" (torchvision, MLPerf, mmdetection, mmdeploy,
            keras-retinanet, KerasHub) or "size" (detectron2, ODTK, TF Model Garden).
        whole_pixels: Whether sizes are truncated to integers and half sides rounded half to even (torchvision, MLPerf,
            KerasHub).
        centre: Center of the anchors of cell (0, 0), in strides: 0.0, or 0.5 (ODTK, keras-retinanet,
            pytorch-retinanet, TF Model Garden).
        scales: Factors of the base size.
        angles: Angles of the rotated anchors in radians. Each has all sizes and ratios, before those of the next angle
            (ODTK with rotated boxes). Empty: one angle of 0.
        whole_strides: Whether the sides of an anchor as large as a stride are rounded half to even before they are
            scaled (ODTK with rotated boxes).
    """

    sizes: tuple[float, ...]
    ratios: tuple[float, ...]
    order: str
    whole_pixels: bool
    centre: float
    scales: tuple[float, ...] = OCTAVES
    angles: tuple[float, ...] = ()
    whole_strides: bool = False

    @property
    def count(self) -> int:
        """Number of anchors per cell."""
        return len(self.scales) * len(self.ratios) * max(1, len(self.angles))

    def base_anchors(self, level: int, stride: float | None = None) -> BaseAnchors:
        """Computes the anchors of the cell in row 0, column 0.

        Args:
            level: Index of the level; 0 is the finest.
            stride: Stride of the level in pixels. Defaults to that of a pyramid that begins with P3.

        Returns:
            One box (x1, y1, x2, y2) for each scale and ratio, in pixels of the network input.
        """
        sizes = [self.sizes[level] * scale for scale in self.scales]
        if self.whole_pixels:
            sizes = [float(int(size)) for size in sizes]
        nominal = 2 ** (level + FIRST_LEVEL)
        step = (nominal if stride is None else stride) if self.whole_strides else None
        by_ratio = [[_around_origin(size, ratio, step) for size in sizes] for ratio in self.ratios]
        rows = by_ratio if self.order == "ratio" else [list(row) for row in zip(*by_ratio, strict=True)]
        centre = self.centre * (nominal if stride is None else stride)
        boxes = (half_sides for row in rows for half_sides in row)
        if self.whole_pixels:
            boxes = ((round(x), round(y)) for x, y in boxes)
        return tuple((centre - x, centre - y, centre + x, centre + y) for x, y in boxes) * max(1, len(self.angles))

    def rotated(self, boxes: BaseAnchors) -> BaseAnchors:
        """Converts the anchors of `base_anchors` to rotated ones: center x, center y, width, height, angle.

        Anchors that are rotated already stay as they are.
        """
        angles = self.angles or (0.0,)
        each = len(boxes) // len(angles) or 1
        return tuple(
            box if len(box) == 5 else _with_angle(box, angles[index // each % len(angles)])
            for index, box in enumerate(boxes)
        )


def _with_angle(box: tuple[float, ...], angle: float) -> tuple[float, ...]:
    """Returns center x, center y, width, height and angle of a box xyxy."""
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1], angle


def _around_origin(size: float, ratio: float, step: float | None) -> tuple[float, float]:
    """Returns half the width and half the height of a box with area size * size.

    With `step`, the sides of a box with area step * step are rounded, and then scaled.
    """
    if step is None:
        return size / math.sqrt(ratio) / 2, size * math.sqrt(ratio) / 2
    width = round(step / math.sqrt(ratio))
    return width * (size / step) / 2, round(width * ratio) * (size / step) / 2


@dataclass(frozen=True)
class Preset:
    """The rules of one framework's RetinaNet with its default configuration.

    Fields that `ModelSpec` has too mean the same there.

    Attributes:
        flavour: Name of the framework, as in `list_flavours()`.
        title: Default model name, for people.
        labels: Default class labels: "coco80" (80 COCO names), "coco91" (indexed by COCO category id, with a background
            and unused ids; torchvision, KerasHub), "coco90" (the same without the background; TF Model Garden),
            "openimages264" (MLPerf), or "dota15" (mmrotate).
        classes: Number of classes of the published models.
        anchors: How base anchors are computed.
        fixed_strides: True: strides are 8, 16, 32, 64 and 128 pixels (detectron2, mmdetection, mmdeploy,
            keras-retinanet, TF Model Garden). False: a stride is the padded input side divided by the number of cells,
            rounded down, for each axis (torchvision, MLPerf, ODTK, KerasHub).
        stride_from_width: Whether a network of a fixed size has one stride for both axes, the input width divided by
            the number of columns and rounded down, and anchors in proportion to it (ODTK).
        box_coder: How deltas become boxes: center and size with exp, corner offsets (keras-retinanet), or rotated.
        clip: What boxes are clipped to: "resized" image before NMS (torchvision, MLPerf, mmdetection), "padded"
            network input before NMS (mmdeploy, keras-retinanet, TF Model Garden), the cells of their "level" before
            NMS (ODTK), "original" image after NMS (detectron2), or "none" (KerasHub).
        score_threshold: Candidates have a score strictly above this, 0 to 1.
        top_k: Candidates per level, counted as `top_k_unit` says. 65536 stands for no limit (keras-retinanet,
            KerasHub, pytorch-retinanet, TF Model Garden).
        top_k_unit: "pair": `top_k` counts pairs of anchor and class. "anchor": it counts anchors (mmdeploy).
        nms_iou_threshold: NMS removes a box if its IoU with a better one of its class is strictly above this.
        max_detections: Detections per image, all classes together. 65536 stands for no limit (pytorch-retinanet).
        resize: How the size of an image becomes the size of the network input, pixels.
        normalise: Mean, standard deviation (pixels of 0 to 255) and channel order.
        pad_multiple: The network input is padded on the right and bottom to a multiple of this many pixels.
        clip_limit: "edge": coordinates go from 0 to the side. "last_pixel": to the side - 1 (ODTK, keras-retinanet).
        drop_empty: When boxes without area are removed: "before_nms" (mmdetection), "after_nms" (detectron2) or
            "never".
        inclusive_pixels: Whether x2 and y2 are the last pixel inside the box, so that a width is x2 - x1 + 1 (ODTK).
        pad_at_least: Pixels by which the network input grows at least before it is rounded up (pytorch-retinanet: 1).
        rescale: How boxes return to the original image: with a scale for each axis ("per_axis"), or with the one scale
            of the resize ("uniform"; ODTK, keras-retinanet, pytorch-retinanet).
        nms_angle: Angle of two rotated boxes in NMS: "own", or "lower_score" (ODTK).
        nms_comparison: Whether an IoU equal to the threshold suppresses: ">" (it does not), or ">=" (KerasHub,
            TF Model Garden).
        nms_across_classes: Whether boxes of different classes suppress each other (KerasHub).
        first_class: First class of the class head that is detected. 1: class 0 is a background that the framework never
            reports, so the import leaves it out (TF Model Garden).
        delta_order: Order of the four deltas of an anchor in the box head: "xywh", or "yxhw" (TF Model Garden), which
            the import reorders.
        source: Framework, version and source files that the rules were read from.
    """

    flavour: str
    title: str
    labels: str
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
    stride_from_width: bool = False
    top_k_unit: str = "pair"
    clip_limit: str = "edge"
    drop_empty: str = "never"
    inclusive_pixels: bool = False
    rescale: str = "per_axis"
    nms_angle: str = "own"
    nms_comparison: str = ">"
    nms_across_classes: bool = False
    pad_at_least: int = 0
    first_class: int = 0
    delta_order: str = "xywh"
    source: Mapping[str, str] = field(default_factory=dict)

    def spec(
        self,
        *,
        labels: Sequence[str] | None = None,
        name: str | None = None,
        base_anchors: Sequence[BaseAnchors] | None = None,
        strides: Sequence[int] | None = None,
    ) -> ModelSpec:
        """Builds a `ModelSpec` from the rules.

        Args:
            labels: Class labels by class index. Defaults to those of the published models.
            name: Name of the model. Defaults to `title`.
            base_anchors: Anchors of each level. Defaults to the framework's.
            strides: Nominal stride of each level in pixels, powers of 2. Defaults to 8, 16, 32 and so on.

        Raises:
            ModelError: The values contradict each other.
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
            top_k_unit=self.top_k_unit,
            clip=self.clip,
            nms_iou_threshold=self.nms_iou_threshold,
            max_detections=self.max_detections,
            clip_limit=self.clip_limit,
            drop_empty=self.drop_empty,
            inclusive_pixels=self.inclusive_pixels,
            rescale=self.rescale,
            nms_angle=self.nms_angle,
            nms_comparison=self.nms_comparison,
            nms_across_classes=self.nms_across_classes,
            pad_at_least=self.pad_at_least,
            source=self.source,
        )

    def stored(self, anchors: BaseAnchors) -> BaseAnchors:
        """Returns anchors xyxy as `Level.base_anchors` has them: the same, or rotated ones."""
        return self.anchors.rotated(anchors) if self.box_coder.is_rotated else anchors

    def class_names(self) -> tuple[str, ...]:
        """Returns the labels of the published models."""
        return _LABELS[self.labels]

    def _level(self, anchors: BaseAnchors, stride: int) -> Level:
        name = level_name(stride)
        anchors = self.stored(anchors)
        return Level(f"logits_{name}", f"deltas_{name}", anchors, (stride, stride) if self.fixed_strides else None)


def level_name(stride: int) -> str:
    """Returns the name of the level with this stride (pixels, a power of 2): "p3" for 8."""
    return f"p{stride.bit_length() - 1}"
