"""`ModelSpec`: the rules of preprocessing and post-processing of one model, as data.

The spec is stored as JSON beside the ONNX file (`people.onnx`, `people.json`), or in the metadata of the ONNX file
under the key `retinasdk.spec`. Decoding and NMS follow it in csrc/math/box_math.h, resizing in csrc/math/resize_math.h.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retinasdk._util.dataclass_json import dump_readable, from_json_object, to_json_object
from retinasdk._util.json_text import parse_json
from retinasdk.errors import ModelError

FORMAT = 1
METADATA_KEY = "retinasdk.spec"
ONNX_SHA256 = "onnx_sha256"  # Key in the JSON file: which ONNX file it belongs to. It is no rule, so no field.

_RESIZE_RULES = {"shortest": 2, "longest": 1, "native": 1, "squash": 2, "fit": 2}
_ROUNDINGS = ("floor", "half_up", "half_even")
_SOURCE_STEPS = ("sides", "scale")
_CODERS = {"center": 4, "corner": 4, "center_angle": 5, "center_sin_cos": 6}  # The number of deltas of each kind.
_ROTATED_CODERS = ("center_angle", "center_sin_cos")
_ROTATED_FIELDS = ("angle_version", "norm_factor", "edge_swap", "proj_xy")  # Those of BoxCoder.
_ANGLE_VERSIONS = ("oc", "le90", "le135")
_NMS_ANGLES = ("own", "lower_score")
_CLIPS = ("resized", "padded", "level", "original", "none")
_TOP_K_UNITS = ("pair", "anchor")
_CLIP_LIMITS = ("edge", "last_pixel")
_DROPS = ("never", "before_nms", "after_nms")
_COMPARISONS = (">", ">=")
_RESCALES = ("per_axis", "uniform")
_CHANNEL_ORDERS = ("RGB", "BGR")
_MAX_SIDE = 1 << 16


def _check(is_valid: bool, expected: str, given: object) -> None:
    if not is_valid:
        raise ModelError(f"model spec: {expected}, got {given!r}")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(*values: float) -> bool:
    return all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)


@dataclass(frozen=True)
class Level:
    """Describes one feature level: its two outputs of the network, and its anchors.

    N is the batch size, A the number of anchors of a cell, K the number of classes, and h x w the number of cells.

    Attributes:
        logits: Name of the output with the class logits, float32 of shape (N, A * K, h, w). Channel a * K + k belongs
            to anchor a and class k. Logits are the values before the sigmoid.
        deltas: Name of the output with the box deltas, float32 of shape (N, A * D, h, w). Channels a * D to
            a * D + D - 1 belong to anchor a. D is 4; 5 or 6 for rotated boxes, see `BoxCoder.kind`.
        base_anchors: The A anchors of the cell in row 0, column 0, as (x1, y1, x2, y2) in pixels of the network input.
            They contain the center offset (half a stride in ODTK and keras-retinanet, 0 in the others) and any
            rounding of the framework (torchvision and MLPerf round to whole pixels). The anchors of the other cells
            are these, moved by the stride. Anchors of rotated boxes are (center x, center y, width, height, angle),
            the angle in radians, clockwise.
        stride: Distance (y, x) between neighboring cells, in pixels of the network input. None: the padded input side
            divided by the number of cells and rounded down, for each axis. None is the rule of torchvision, MLPerf and
            ODTK; at 800 x 800 it gives 61 and 114 for the levels P6 and P7, instead of 64 and 128. detectron2,
            mmdetection, mmdeploy and keras-retinanet have fixed strides.

    Raises:
        ModelError: If a name is empty, an anchor has no area, or a value is not finite.
    """

    logits: str
    deltas: str
    base_anchors: tuple[tuple[float, ...], ...]
    stride: tuple[float, float] | None

    def __post_init__(self) -> None:
        _check(bool(self.logits) and bool(self.deltas), "logits and deltas of a level must be names of outputs", self)
        _check(len(self.base_anchors) > 0, "a level must have at least one base anchor", self.base_anchors)
        for anchor in self.base_anchors:
            if len(anchor) == 5:
                valid = _is_finite(*anchor) and anchor[2] > 0 and anchor[3] > 0
                _check(valid, "a rotated base anchor must be (x, y, width, height, angle), finite, with area", anchor)
                continue
            valid = len(anchor) == 4 and _is_finite(*anchor) and anchor[0] < anchor[2] and anchor[1] < anchor[3]
            _check(valid, "a base anchor must be (x1, y1, x2, y2), finite, with x1 < x2 and y1 < y2", anchor)
        if self.stride is not None:
            valid = len(self.stride) == 2 and _is_finite(*self.stride) and min(self.stride) > 0
            _check(valid, "a stride must be (y, x), both above 0, or null", self.stride)


@dataclass(frozen=True)
class BoxCoder:
    """Describes how the deltas that the network predicts for an anchor become a box.

    Attributes:
        weights: Each delta is divided by its weight, above 0. Defaults to 1 for all, as in most frameworks. Where
            a framework has a standard deviation, the weight is 1 / deviation (keras-retinanet: 0.2, so 5). Four
            numbers; a fifth for the angle may follow with the kind "center_angle".
        clamp_max: Upper bound of dw and dh before the exponential, or None for no bound. Defaults to ln(1000 / 16),
            as in torchvision, MLPerf, detectron2, mmdetection and mmdeploy. ODTK has no bound. Must be None for the
            kind "corner".
        clamp_min: Lower bound of dw and dh before the exponential, or None for no bound, which is the default.
            mmdetection, mmdeploy and mmrotate use -ln(1000 / 16). Must be None for the kind "corner".
        means: Added to the deltas after the division by the weights, as many as `weights`. Defaults to 0, as in all
            frameworks with their default configurations.
        kind: Meaning of the deltas. "center", the default: (dx, dy, dw, dh), as in Faster R-CNN (Ren et al., 2015,
            equation 2) and most frameworks. The center of the anchor moves by dx times its width and dy times its
            height, and its sides are multiplied by exp(dw) and exp(dh). "corner": (dx1, dy1, dx2, dy2), as in
            keras-retinanet. Each corner moves by dx times the width and dy times the height of the anchor.
            The other two kinds make the model one for rotated boxes. "center_angle": (dx, dy, dw, dh, da), as in
            mmrotate; da is added to the angle of the anchor. "center_sin_cos": (dx, dy, dw, dh, sin, cos), as in
            ODTK with `--rotated-bbox`; the angle is that of the direction (cos, sin).
        angle_version: Range of the angles of "center_angle" in radians, by the names of mmrotate. "oc", the default:
            as they come. "le90": -pi / 2 to pi / 2. "le135": -pi / 4 to 3 pi / 4.
        norm_factor: Unit of da in half turns. None, the default: da is in radians. mmrotate has 1 for "le135".
        edge_swap: Whether the longer side becomes the width of a "center_angle" box (mmrotate: for "le90").
        proj_xy: Whether dx and dy of "center_angle" are along the sides of the anchor, not of the image (mmrotate: for
            "le90" and "le135").

    Raises:
        ModelError: If a value is out of range, or the bounds contradict each other or the kind.
    """

    weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    clamp_max: float | None = math.log(1000.0 / 16)
    clamp_min: float | None = None
    means: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    kind: str = "center"
    angle_version: str = "oc"
    norm_factor: float | None = None
    edge_swap: bool = False
    proj_xy: bool = False

    def __post_init__(self) -> None:
        _check(self.kind in _CODERS, f"box_coder.kind must be one of {tuple(_CODERS)}", self.kind)
        counts = (4, 5) if self.kind == "center_angle" else (4,)
        many = " or ".join({4: "four", 5: "five"}[count] for count in counts)
        valid = len(self.weights) in counts and _is_finite(*self.weights) and min(self.weights) > 0
        _check(valid, f"box_coder.weights must be {many} numbers above 0", self.weights)
        valid = len(self.means) in counts and _is_finite(*self.means)
        _check(valid, f"box_coder.means must be {many} finite numbers", self.means)
        valid = self.angle_version in _ANGLE_VERSIONS
        _check(valid, f"box_coder.angle_version must be one of {_ANGLE_VERSIONS}", self.angle_version)
        valid = self.norm_factor is None or (_is_finite(self.norm_factor) and self.norm_factor > 0)
        _check(valid, "box_coder.norm_factor must be a number above 0 or null", self.norm_factor)
        for name in ("edge_swap", "proj_xy"):
            _check(
                isinstance(getattr(self, name), bool), f"box_coder.{name} must be true or false", getattr(self, name)
            )
        bounds = {"clamp_max": self.clamp_max, "clamp_min": self.clamp_min}
        for name, bound in bounds.items():
            _check(bound is None or _is_finite(bound), f"box_coder.{name} must be a finite number or null", bound)
        if self.clamp_max is not None and self.clamp_min is not None:
            _check(self.clamp_min <= self.clamp_max, "box_coder.clamp_min must be at most clamp_max", bounds)
        if self.kind == "corner":
            _check(
                not any(b is not None for b in bounds.values()),
                "box_coder.clamp_max and clamp_min must be null if kind is 'corner'",
                bounds,
            )

    @property
    def deltas(self) -> int:
        """The number of deltas of an anchor, D: 4, or 5 or 6 for rotated boxes."""
        return _CODERS[self.kind]

    @property
    def is_rotated(self) -> bool:
        """Whether the boxes are rotated."""
        return self.kind in _ROTATED_CODERS


@dataclass(frozen=True)
class Resize:
    """Describes how the size of an image becomes the size of the network input.

    Attributes:
        rule: "shortest": the shorter side becomes `size[0]`, unless the longer side would exceed `size[1]`; then the
            longer side becomes `size[1]` (the default of all frameworks but MLPerf). "longest": the longer side becomes
            `size[0]`. "native": the image keeps its size, unless the longer side exceeds `size[0]`; then the longer
            side becomes `size[0]`. "squash": exactly `size`, whatever the shape of the image (MLPerf). "fit": as large
            as fits into `size` with the same aspect ratio; the network input is then padded on the right and bottom to
            exactly `size`.
        size: Sides in pixels, from 1 to 65536: two for "shortest", one for "longest" and "native", (height, width) for
            "squash" and "fit". The frameworks' default for "shortest" is (800, 1333), MLPerf's for "squash" (800, 800).
        rounding: Rounding of the resized sides to whole pixels: "floor", the default (torchvision, MLPerf, ODTK),
            "half_up" (detectron2, mmdetection, mmdeploy), or "half_even" (keras-retinanet, as OpenCV's `resize` with
            `fx` and `fy`).
        antialias: True: bilinear interpolation that averages over the source pixels when it reduces an image, as
            Pillow does (detectron2, ODTK). False, the default: plain bilinear interpolation between the four nearest
            pixels (torchvision, MLPerf, mmdetection, mmdeploy, keras-retinanet).
        source_step: Distance between the source positions of neighboring pixels. "sides", the default: original side /
            resized side, for each axis. "scale": 1 / scale for both axes, before the sides are rounded, as OpenCV's
            `resize` does if it is called with `fx` and `fy` (keras-retinanet). "scale" does not work with
            `antialias` or with the rule "squash".
        eight_bit: True: images are resized as images of 8 bits, bit for bit as Pillow does if `antialias` is true
            (detectron2, ODTK), or as OpenCV's INTER_LINEAR does (mmdetection, mmdeploy, keras-retinanet). False, the
            default: as floating-point numbers (torchvision, MLPerf).

    Raises:
        ModelError: If a value is unknown, `size` does not fit the rule, or values contradict each other.
    """

    rule: str
    size: tuple[int, ...]
    rounding: str = "floor"
    antialias: bool = False
    source_step: str = "sides"
    eight_bit: bool = False

    def __post_init__(self) -> None:
        _check(self.rule in _RESIZE_RULES, f"resize.rule must be one of {sorted(_RESIZE_RULES)}", self.rule)
        count = _RESIZE_RULES[self.rule]
        valid = len(self.size) == count and all(_is_integer(side) and 0 < side <= _MAX_SIDE for side in self.size)
        sides = "1 side" if count == 1 else f"{count} sides"
        _check(valid, f"resize.size must have {sides} from 1 to {_MAX_SIDE} for the rule {self.rule!r}", self.size)
        _check(self.rounding in _ROUNDINGS, f"resize.rounding must be one of {_ROUNDINGS}", self.rounding)
        _check(
            self.source_step in _SOURCE_STEPS, f"resize.source_step must be one of {_SOURCE_STEPS}", self.source_step
        )
        _check(
            self.source_step == "sides" or not (self.antialias or self.rule == "squash"),
            "resize.source_step must be 'sides' if antialias is true or the rule is 'squash'",
            self.source_step,
        )

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """The (height, width) in pixels that the rules "squash" and "fit" give every image; None for other rules."""
        return (self.size[0], self.size[1]) if self.rule in ("squash", "fit") else None

    def scale(self, height: int, width: int) -> float:
        """Returns the factor by which both sides of an image are multiplied.

        Args:
            height: Height of the image in pixels.
            width: Width of the image in pixels.

        Returns:
            The factor, before the sides are rounded to whole pixels.

        Raises:
            ValueError: If the rule is "squash", which scales each axis on its own.
        """
        longer = max(height, width)
        if self.rule == "squash":
            raise ValueError("the resize rule 'squash' scales each axis on its own, so it has no common scale")
        if self.rule == "fit":
            return min(self.size[0] / height, self.size[1] / width)
        if self.rule == "longest":
            return self.size[0] / longer
        if self.rule == "native":
            return min(1.0, self.size[0] / longer)
        return min(self.size[0] / min(height, width), self.size[1] / longer)

    def target(self, height: int, width: int) -> tuple[int, int]:
        """Returns the size of an image after resizing, before padding.

        Args:
            height: Height of the image in pixels.
            width: Width of the image in pixels.

        Returns:
            (height, width) in pixels, at least 1 each.
        """
        if self.rule == "squash":
            return self.size[0], self.size[1]
        scale = self.scale(height, width)
        if self.rounding == "half_even":
            return max(1, round(height * scale)), max(1, round(width * scale))
        half = 0.5 if self.rounding == "half_up" else 0.0
        return max(1, math.floor(height * scale + half)), max(1, math.floor(width * scale + half))


@dataclass(frozen=True)
class Normalise:
    """Describes the normalization of pixels: (pixel - mean) / std, for pixel values from 0 to 255.

    Attributes:
        mean: Mean of each channel, in units of pixel values and in the order of `channels`. torchvision and others
            that state it for values from 0 to 1, such as 0.485, have 255 times as much here.
        std: Divisor of each channel, above 0, in the same units and order. 1 where a framework only subtracts the mean.
        channels: Channel order of the network input: "RGB", the default, or "BGR" (detectron2, keras-retinanet).

    Raises:
        ModelError: If a value is not finite, a divisor is not above 0, or the channel order is unknown.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: str = "RGB"

    def __post_init__(self) -> None:
        _check(len(self.mean) == 3 and _is_finite(*self.mean), "normalise.mean must be three finite numbers", self.mean)
        valid = len(self.std) == 3 and _is_finite(*self.std) and min(self.std) > 0
        _check(valid, "normalise.std must be three numbers above 0", self.std)
        _check(self.channels in _CHANNEL_ORDERS, f"normalise.channels must be one of {_CHANNEL_ORDERS}", self.channels)


@dataclass(frozen=True)
class ModelSpec:
    """Describes everything besides the network that is needed to compute the right boxes.

    A spec cannot be changed; `replace` returns a changed copy. All values are checked when a spec is created.

    Attributes:
        name: Name of the model, for people. It has no effect on the results.
        flavour: The framework whose rules apply, such as "torchvision". It has no effect on the results, which follow
            from the other fields alone.
        labels: Class labels by class index, as many as the network has classes. torchvision counts the background
            as class 0.
        levels: The feature levels, finest first. All have the same number of anchors per cell. Of candidates with
            equal scores, those of earlier levels come first.
        resize: How images are resized before they enter the network.
        normalise: How pixel values are normalized.
        pad_multiple: After resizing, the network input is padded with 0 on the right and at the bottom, so that its
            sides are multiples of this number of pixels, from 1 to 4096. 32 in most frameworks, 128 in ODTK, 1 (no
            padding) in keras-retinanet.
        pad_at_least: Number of pixels, from 0 to 4096, by which each side grows at least before it is rounded up to
            `pad_multiple`. Defaults to 0. 1 in pytorch-retinanet, which pads a side of 608 pixels to 640.
        input: Name of the network's input, float32 of shape (N, 3, H, W). Defaults to "images".
        box_coder: How box deltas become boxes. Defaults to `BoxCoder()`, the rule of torchvision, MLPerf and
            detectron2.
        ignore_labels: Labels that are never reported, such as the unused COCO ids of torchvision. Each must be one of
            `labels`. Defaults to none.
        score_threshold: Default confidence threshold, from 0 to 1. Pairs of anchor and class with a score above it
            become candidates. Defaults to 0.05, as in all frameworks. `Detector` and its calls can override it.
        top_k: Number of candidates with the highest scores that are kept on each level, counted as `top_k_unit` says,
            from 1 to 1048576. Defaults to 1000, as in most frameworks. keras-retinanet keeps all: its preset has
            65536, a number that is not reached in practice.
        clip: Where boxes are clipped. "resized", the default: to the resized image, before NMS (torchvision, MLPerf,
            mmdetection). "padded": to the network input with its padding, before NMS (mmdeploy, keras-retinanet).
            "level": to the number of cells of the box's feature level times their stride, before NMS (ODTK; equal to
            "padded" where all strides divide the sides of the input).
            "original": to the original image, after NMS (detectron2). "none": not at all (KerasHub). Rotated
            boxes are not cut: with "center_angle" their center is clipped; with "center_sin_cos" the box before it is
            turned is, and each of its edges on its own side only. "original" does not work with rotated boxes.
        nms_iou_threshold: A box that overlaps a better box of its class with an IoU above this threshold is dropped.
            From 0 to 1. Defaults to 0.5, as in all frameworks but DeepForest. `Suppression` can override it.
        max_detections: Maximum number of detections of an image, over all classes, from 1 to 1048576. Defaults to 300,
            as in torchvision, MLPerf and keras-retinanet. 100 in detectron2, mmdetection, mmdeploy and ODTK.
        max_per_class: Maximum number of detections of one class in an image, from 1 to 1048576. Defaults to None, no
            limit. Further boxes of a full class are dropped and suppress no other box (ONNX's
            NonMaxSuppression). `Suppression` can override it.
        score_comparison: Whether a score equal to the threshold passes. ">", the default: it does not, as in all
            frameworks on the GPU. ">=": it does (ODTK on the CPU). A score of exactly 0 never passes.
        nms_comparison: Whether an IoU equal to the threshold suppresses. ">", the default: it does not, as in all
            frameworks but KerasHub. ">=": it does.
        nms_across_classes: False, the default: only boxes of one class suppress each other. True: boxes of different
            classes do so too (KerasHub). `Suppression.across_classes` asks for the same.
        clip_limit: Largest coordinate of clipped boxes. "edge", the default: the width of the image for x, the height
            for y. "last_pixel": the width - 1 and the height - 1 (ODTK, keras-retinanet).
        drop_empty: When boxes without area are dropped. "never", the default. "before_nms": after clipping, before
            NMS (mmdetection). "after_nms": after rescaling and clipping to the original image (detectron2).
        inclusive_pixels: False, the default: x2 and y2 are the right and lower edge of a box, so its width is x2 - x1.
            True: x2 and y2 name the last pixel inside the box, so its width is x2 - x1 + 1 (ODTK). This applies to
            anchors, the IoU in NMS, boxes without area, and the detections that are reported. For "center_sin_cos": the
            center and the sides of a box are those of its outermost pixels, and so are the IoUs. It must be false for
            "center_angle".
        rescale: How boxes return to pixels of the original image. "per_axis", the default: each axis is multiplied by
            its ratio of original to resized size. "uniform": both axes are divided by the one scale of the resize
            rule, before rounding (ODTK, keras-retinanet). "uniform" does not work with the resize rule "squash".
            With "per_axis", the width of a rotated box is multiplied by the ratio of x and its height by that of y, and
            its angle stays, as in mmrotate 0.x.
        nms_angle: Angle of two rotated boxes in NMS. "own", the default: each its own. "lower_score": both that of the
            box with the lower score (ODTK).
        top_k_unit: What `top_k` counts. "pair", the default: pairs of anchor and class. "anchor": anchors, by the score
            of their best class; all classes of a kept anchor that pass the threshold become candidates (mmdeploy).
        source: Free notes about the origin of the model, as names and texts. Defaults to none. They have no effect on
            the results.

    Raises:
        ModelError: If a value is out of range, or values contradict each other.
    """

    name: str
    flavour: str
    labels: tuple[str, ...]
    levels: tuple[Level, ...]
    resize: Resize
    normalise: Normalise
    pad_multiple: int
    input: str = "images"
    box_coder: BoxCoder = BoxCoder()
    ignore_labels: tuple[str, ...] = ()
    score_threshold: float = 0.05
    top_k: int = 1000
    clip: str = "resized"
    nms_iou_threshold: float = 0.5
    max_detections: int = 300
    score_comparison: str = ">"
    nms_comparison: str = ">"
    clip_limit: str = "edge"
    drop_empty: str = "never"
    inclusive_pixels: bool = False
    rescale: str = "per_axis"
    nms_angle: str = "own"
    top_k_unit: str = "pair"
    max_per_class: int | None = None
    nms_across_classes: bool = False
    pad_at_least: int = 0
    source: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("labels", "ignore_labels", "levels"):
            values = getattr(self, name)
            _check(isinstance(values, (list, tuple)), f"{name} must be a tuple or a list", values)
            object.__setattr__(self, name, tuple(values))  # The caller could still change a list.
        names = self.labels + self.ignore_labels
        _check(all(isinstance(name, str) for name in names), "labels and ignore_labels must be strings", names)
        _check(len(self.labels) > 0, "labels must have at least one entry", self.labels)
        unknown = sorted(set(self.ignore_labels) - set(self.labels))
        _check(not unknown, "ignore_labels must be entries of labels", unknown)
        _check(len(self.levels) > 0, "levels must have at least one entry", self.levels)
        counts = [len(level.base_anchors) for level in self.levels]
        _check(len(set(counts)) == 1, "all levels must have the same number of base anchors", counts)
        outputs = [name for level in self.levels for name in (level.logits, level.deltas)]
        _check(len(set(outputs)) == len(outputs), "every output of the network must be named once", outputs)
        _check(0 <= self.score_threshold <= 1, "score_threshold must be from 0 to 1", self.score_threshold)
        _check(0 <= self.nms_iou_threshold <= 1, "nms_iou_threshold must be from 0 to 1", self.nms_iou_threshold)
        for name in ("top_k", "max_detections", "pad_multiple", "pad_at_least"):
            _check(_is_integer(getattr(self, name)), f"{name} must be an integer", getattr(self, name))
        _check(1 <= self.top_k <= 1 << 20, "top_k must be from 1 to 1048576", self.top_k)
        _check(1 <= self.max_detections <= 1 << 20, "max_detections must be from 1 to 1048576", self.max_detections)
        if self.max_per_class is not None:
            valid = _is_integer(self.max_per_class) and 1 <= self.max_per_class <= 1 << 20
            _check(valid, "max_per_class must be an integer from 1 to 1048576, or null", self.max_per_class)
        _check(1 <= self.pad_multiple <= 4096, "pad_multiple must be from 1 to 4096", self.pad_multiple)
        _check(self.top_k_unit in _TOP_K_UNITS, f"top_k_unit must be one of {_TOP_K_UNITS}", self.top_k_unit)
        if self.top_k_unit == "anchor":
            most = len(self.levels) * self.top_k * len(self.labels)
            _check(most <= 1 << 24, "levels x top_k x labels must be at most 16777216 if top_k counts anchors", most)
        _check(0 <= self.pad_at_least <= 4096, "pad_at_least must be from 0 to 4096", self.pad_at_least)
        _check(self.clip in _CLIPS, f"clip must be one of {_CLIPS}", self.clip)
        _check(self.clip_limit in _CLIP_LIMITS, f"clip_limit must be one of {_CLIP_LIMITS}", self.clip_limit)
        _check(self.drop_empty in _DROPS, f"drop_empty must be one of {_DROPS}", self.drop_empty)
        _check(self.rescale in _RESCALES, f"rescale must be one of {_RESCALES}", self.rescale)
        _check(
            self.rescale == "per_axis" or self.resize.rule != "squash",
            "rescale must be 'per_axis' if the resize rule is 'squash', which scales each axis on its own",
            self.rescale,
        )
        for name in ("score_comparison", "nms_comparison"):
            _check(getattr(self, name) in _COMPARISONS, f"{name} must be one of {_COMPARISONS}", getattr(self, name))
        for name in ("inclusive_pixels", "nms_across_classes"):
            _check(isinstance(getattr(self, name), bool), f"{name} must be true or false", getattr(self, name))
        self._check_rotation()

    def _check_rotation(self) -> None:
        kind = self.box_coder.kind
        sizes = {len(anchor) for level in self.levels for anchor in level.base_anchors}
        expected = 5 if self.is_rotated else 4
        _check(sizes == {expected}, f"base anchors must have {expected} numbers for boxes of the kind {kind!r}", sizes)
        _check(self.nms_angle in _NMS_ANGLES, f"nms_angle must be one of {_NMS_ANGLES}", self.nms_angle)
        if self.is_rotated:
            _check(self.clip != "original", "clip must not be 'original' for rotated boxes", self.clip)
            _check(self.drop_empty != "after_nms", "drop_empty must not be 'after_nms' for rotated boxes", "after_nms")
        if kind == "center_angle":
            _check(not self.inclusive_pixels, "inclusive_pixels must be false for the kind 'center_angle'", True)

    @property
    def is_rotated(self) -> bool:
        """Whether the model detects rotated boxes, which follows from the kind of its box coder."""
        return self.box_coder.is_rotated

    @property
    def anchors_per_cell(self) -> int:
        """The number of anchors of each cell, A; the same on every level."""
        return len(self.levels[0].base_anchors)

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """Returns the size of the network input.

        Args:
            height: Height of the resized image in pixels.
            width: Width of the resized image in pixels.

        Returns:
            (height, width) of the network input in pixels.
        """
        multiple = self.pad_multiple
        if self.resize.rule == "fit":
            height, width = self.resize.size
        height, width = height + self.pad_at_least, width + self.pad_at_least
        return -(-height // multiple) * multiple, -(-width // multiple) * multiple

    def replace(self, **changes: Any) -> ModelSpec:
        """Returns a copy with some fields changed. The copy is checked again.

        Example:
            >>> import retinasdk
            >>> spec = retinasdk.list_models()[0].spec
            >>> spec.replace(nms_iou_threshold=0.4).nms_iou_threshold
            0.4

        Args:
            **changes: New values, by the names of the fields.

        Raises:
            ModelError: If the changed spec is not valid.
            TypeError: If a field does not exist.
        """
        return dataclasses.replace(self, **changes)

    def to_json(self, *, onnx_sha256: str | None = None) -> str:
        """Returns the spec as JSON text, which this and every later version can read.

        Args:
            onnx_sha256: SHA-256 of the ONNX file that the text will lie beside, as hexadecimal text. A `Detector`
                refuses the text beside another ONNX file. Defaults to none: it fits any. `save` computes it.
        """
        content = to_json_object(self)
        if not self.is_rotated:  # Most models are not, and older versions can read their specs.
            for name in _ROTATED_FIELDS:
                del content["box_coder"][name]
            del content["nms_angle"]
        bound = {} if onnx_sha256 is None else {ONNX_SHA256: onnx_sha256}
        return dump_readable({"format": FORMAT, **bound, **content})

    @classmethod
    def from_json(cls, text: str, *, origin: str = "spec") -> ModelSpec:
        """Reads a spec from JSON text.

        Args:
            text: The JSON text, as `to_json` writes it. Fields that are left out get their defaults.
            origin: What error messages call the text, for example the path of the file it comes from.

        Raises:
            ModelError: If the text is not a valid spec.
        """
        try:
            content = parse_json(text)
        except ValueError as error:
            raise ModelError(f"{origin}: this is not a model spec, because it is not valid JSON: {error}") from error
        if not isinstance(content, dict):
            raise ModelError(f"{origin}: a model spec must be a JSON object, got {type(content).__name__}")
        version = content.pop("format", None)
        if not _is_integer(version) or version != FORMAT:
            raise ModelError(
                f'{origin}: a model spec must have "format": {FORMAT}, got {version!r}. If a newer retinasdk wrote it, '
                "update this one: pip install --upgrade retinasdk"
            )
        onnx_sha256 = content.pop(ONNX_SHA256, "")  # Compared where the ONNX file is known: onnx_graph/model_pair.py.
        if not isinstance(onnx_sha256, str):
            raise ModelError(f"{origin}: {ONNX_SHA256} must be a text, got {onnx_sha256!r}")
        if "plus_one" in content:  # The name of inclusive_pixels in specs that were written before 0.1.0.
            content["inclusive_pixels"] = content.pop("plus_one")
        try:
            return from_json_object(cls, content)
        except ModelError as error:
            raise ModelError(f"{origin}: {error}") from error

    def save(self, path: str | Path, *, onnx: str | Path | None = None) -> None:
        """Writes the spec as a JSON file. If writing fails, an existing file stays as it was.

        Args:
            path: The path of the file.
            onnx: The ONNX file that the spec belongs to. Its SHA-256, with that of its external data, is written into
                the JSON file, and a `Detector` refuses the spec beside any other ONNX file. Defaults to None: the JSON
                file is accepted beside any ONNX file that does not contradict it.

        Raises:
            OSError: If the file cannot be written, or the ONNX file cannot be read.
        """
        from retinasdk._util.files import write_atomically
        from retinasdk._util.onnx_files import model_sha256

        sha256 = None if onnx is None else model_sha256(Path(onnx))
        write_atomically(Path(path), self.to_json(onnx_sha256=sha256).encode())

    @classmethod
    def load(cls, path: str | Path) -> ModelSpec:
        """Reads a spec from a JSON file.

        Args:
            path: The path of the file.

        Raises:
            ModelError: If the file cannot be read or is not a valid spec.
        """
        return cls.from_json(spec_text(path), origin=str(path))


def spec_text(path: str | Path) -> str:
    """Returns the content of a spec file.

    Raises:
        ModelError: If it cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: the model spec cannot be read: {error}") from error
