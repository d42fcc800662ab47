"""`ModelSpec`: the rules that turn the head outputs of a network into boxes, as data.

The spec is stored as JSON beside the ONNX file (`people.onnx`, `people.json`), and in the metadata of the ONNX file
under the key `retinasdk.spec`. The arithmetic that follows it is in csrc/math/box_math.h and csrc/math/resize_math.h.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retinasdk._util.dataclass_json import dump_readable, from_json_object, to_json_object
from retinasdk.errors import ModelError

FORMAT = 1
METADATA_KEY = "retinasdk.spec"

_RESIZE_RULES = {"shortest": 2, "longest": 1, "native": 1, "squash": 2, "fit": 2}
_ROUNDINGS = ("floor", "half_up")
_CODERS = ("center", "corner")
_CLIPS = ("resized", "padded", "original", "none")
_CLIP_LIMITS = ("edge", "last_pixel")
_DROPS = ("never", "before_nms", "after_nms")
_COMPARISONS = (">", ">=")
_RESCALES = ("per_axis", "uniform")
_CHANNEL_ORDERS = ("RGB", "BGR")
_MAX_SIDE = 1 << 16


def _check(condition: bool, wanted: str, given: object) -> None:
    if not condition:
        raise ModelError(f"model spec: {wanted}, got {given!r}")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(*values: float) -> bool:
    return all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)


@dataclass(frozen=True)
class Level:
    """Describes one feature level: its two outputs of the network, and its anchors.

    Attributes:
        logits: Name of the output with the class logits, `(N, A*K, h, w)`.
        deltas: Name of the output with the box deltas, `(N, A*4, h, w)`.
        base_anchors: The A anchors of the cell in row 0, column 0, as (x1, y1, x2, y2) in pixels of the network input.
            They include the center offset and any rounding of the framework.
        stride: Distance (y, x) between neighboring cells in pixels of the network input. None: the padded input side
            divided by the number of cells, for each axis, as torchvision computes it.
    """

    logits: str
    deltas: str
    base_anchors: tuple[tuple[float, float, float, float], ...]
    stride: tuple[float, float] | None

    def __post_init__(self) -> None:
        _check(bool(self.logits) and bool(self.deltas), "a level names its logits and deltas outputs", self)
        _check(len(self.base_anchors) > 0, "a level has at least one base anchor", self.base_anchors)
        for anchor in self.base_anchors:
            valid = len(anchor) == 4 and _is_finite(*anchor) and anchor[0] < anchor[2] and anchor[1] < anchor[3]
            _check(valid, "a base anchor is (x1, y1, x2, y2), finite, x1 < x2 and y1 < y2", anchor)
        if self.stride is not None:
            valid = len(self.stride) == 2 and _is_finite(*self.stride) and min(self.stride) > 0
            _check(valid, "a stride is (y, x), both above 0, or null", self.stride)


@dataclass(frozen=True)
class BoxCoder:
    """Describes how the four deltas that the network predicts for an anchor become a box.

    Attributes:
        weights: Each delta is divided by its weight. Where a framework has a standard deviation, the weight is
            1 / deviation.
        clamp_max: Upper bound of dw and dh before the exponential, or None for no bound. torchvision and detectron2
            use ln(1000 / 16). Must be None for kind "corner".
        clamp_min: Lower bound of dw and dh, or None for no bound. mmdetection uses the negative of its upper bound.
        means: Added to the deltas after the division by the weights.
        kind: "center": (dx, dy, dw, dh), as in Faster R-CNN and most frameworks; the center of the anchor moves by dx
            and dy times its sides, and its sides are multiplied by exp(dw) and exp(dh). "corner": (dx1, dy1, dx2, dy2),
            as in keras-retinanet; each corner moves by that many of the anchor's sides.
    """

    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    clamp_max: float | None = math.log(1000.0 / 16)
    clamp_min: float | None = None
    means: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    kind: str = "center"

    def __post_init__(self) -> None:
        valid = len(self.weights) == 4 and _is_finite(*self.weights) and min(self.weights) > 0
        _check(valid, "box coder weights are four numbers above 0", self.weights)
        _check(len(self.means) == 4 and _is_finite(*self.means), "box coder means are four finite numbers", self.means)
        bounds = {"clamp_max": self.clamp_max, "clamp_min": self.clamp_min}
        for name, bound in bounds.items():
            _check(bound is None or _is_finite(bound), f"{name} is a finite number or null", bound)
        if self.clamp_max is not None and self.clamp_min is not None:
            _check(self.clamp_min <= self.clamp_max, "clamp_min is at most clamp_max", bounds)
        _check(self.kind in _CODERS, f"box coder kind is one of {_CODERS}", self.kind)
        if self.kind == "corner":
            _check(not any(b is not None for b in bounds.values()), "a corner coder has no clamps (null)", bounds)


@dataclass(frozen=True)
class Resize:
    """Describes how the size of an image becomes the size of the network input.

    Attributes:
        rule: "shortest": the shorter side becomes `size[0]`, unless the longer side would exceed `size[1]`; then the
            longer side becomes `size[1]`. "longest": the longer side becomes `size[0]`. "native": the image keeps its
            size, unless the longer side exceeds `size[0]`. "squash": exactly `size`, whatever the shape of the image.
            "fit": as large as fits into `size` with the same aspect ratio; the network input is then padded on the
            right and bottom to exactly `size`.
        size: Sides in pixels: two for "shortest", one for "longest" and "native", (height, width) for "squash" and
            "fit".
        rounding: Rounding of the resized sides: "floor" (torchvision, ODTK) or "half_up" (detectron2, mmdetection).
        antialias: If true, averages over the source pixels when the image is reduced, as Pillow does. If false, plain
            bilinear interpolation, as torchvision.
    """

    rule: str
    size: tuple[int, ...]
    rounding: str = "floor"
    antialias: bool = False

    def __post_init__(self) -> None:
        _check(self.rule in _RESIZE_RULES, f"resize rule is one of {sorted(_RESIZE_RULES)}", self.rule)
        count = _RESIZE_RULES[self.rule]
        valid = len(self.size) == count and all(_is_integer(side) and 0 < side <= _MAX_SIDE for side in self.size)
        _check(valid, f"resize rule {self.rule!r} has {count} side(s) from 1 to {_MAX_SIDE}", self.size)
        _check(self.rounding in _ROUNDINGS, f"resize rounding is one of {_ROUNDINGS}", self.rounding)

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """(height, width) in pixels of the input for a rule that gives every image the same; None for other rules."""
        return (self.size[0], self.size[1]) if self.rule in ("squash", "fit") else None

    def scale(self, height: int, width: int) -> float:
        """Returns the factor by which both sides of an image are multiplied.

        Args:
            height: Height of the image in pixels.
            width: Width of the image in pixels.

        Raises:
            ValueError: If the rule is "squash", which scales each axis on its own.
        """
        longer = max(height, width)
        if self.rule == "squash":
            raise ValueError("resize rule 'squash' has a scale for each axis, and not one for both")
        if self.rule == "fit":
            return min(self.size[0] / height, self.size[1] / width)
        if self.rule == "longest":
            return self.size[0] / longer
        if self.rule == "native":
            return min(1.0, self.size[0] / longer)
        return min(self.size[0] / min(height, width), self.size[1] / longer)

    def target(self, height: int, width: int) -> tuple[int, int]:
        """Returns the resized (height, width) of an image, in pixels, at least 1 each.

        Args:
            height: Height of the image in pixels.
            width: Width of the image in pixels.
        """
        if self.rule == "squash":
            return self.size[0], self.size[1]
        scale = self.scale(height, width)
        half = 0.5 if self.rounding == "half_up" else 0.0
        return max(1, math.floor(height * scale + half)), max(1, math.floor(width * scale + half))


@dataclass(frozen=True)
class Normalise:
    """Describes the normalization of pixels: (pixel - mean) / std, on values from 0 to 255.

    Attributes:
        mean: Mean of each channel, in the order of `channels`.
        std: Standard deviation of each channel, above 0, in the order of `channels`.
        channels: Channel order of the network input: "RGB" or "BGR".
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: str = "RGB"

    def __post_init__(self) -> None:
        _check(len(self.mean) == 3 and _is_finite(*self.mean), "mean is three finite numbers", self.mean)
        valid = len(self.std) == 3 and _is_finite(*self.std) and min(self.std) > 0
        _check(valid, "std is three numbers above 0", self.std)
        _check(self.channels in _CHANNEL_ORDERS, f"channels is one of {_CHANNEL_ORDERS}", self.channels)


@dataclass(frozen=True)
class ModelSpec:
    """Describes everything besides the network that is needed to compute the right boxes.

    A spec is frozen, and checked when it is made.

    Attributes:
        name: Name of the model, for people.
        flavour: The framework whose rules apply, such as "torchvision".
        labels: Class labels by class index.
        levels: The feature levels, finest first.
        resize: How images are resized.
        normalise: How pixels are normalized.
        pad_multiple: The sides of the network input are padded with 0, on the right and at the bottom, to multiples of
            this.
        input: Name of the network's input, `(N, 3, H, W)` float32.
        box_coder: How box deltas are decoded.
        ignore_labels: Labels that are never reported, such as the unused COCO ids of torchvision.
        score_threshold: Anchors with a score strictly above this are candidates.
        top_k: Number of best (anchor, class) pairs that are kept of each level. Where a framework keeps all, use a
            number that is never reached, such as 65536.
        clip: Boxes are clipped before NMS to the "resized" image or to the "padded" network input, or after NMS to the
            "original" image (detectron2), or not at all ("none").
        nms_iou_threshold: A box that overlaps a better one of its class by an IoU strictly above this is dropped.
        max_detections: Largest number of detections of an image, over all classes.
        score_comparison: ">", or ">=" if a score equal to the threshold passes too (ODTK on the CPU). A score of
            exactly 0 never passes.
        nms_comparison: ">", or ">=" if an IoU equal to the threshold suppresses too.
        clip_limit: x is clipped to 0..width ("edge") or to 0..width - 1 ("last_pixel": ODTK, keras-retinanet). The same
            holds for y.
        drop_empty: When boxes without area are dropped: "before_nms" (mmdetection), "after_nms" (detectron2) or
            "never".
        inclusive_pixels: If true, x2 and y2 name the last pixel inside the box (ODTK), so a width is x2 - x1 + 1. This
            holds for anchors, NMS, empty boxes, and the detections that are reported.
        rescale: How boxes return to the original image: by the ratio of original to resized size of each axis
            ("per_axis"), or by the one scale of the resize rule before rounding ("uniform": ODTK, keras-retinanet).
        source: Free notes about the origin of the model.

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
    source: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("labels", "ignore_labels", "levels"):
            values = getattr(self, name)
            _check(isinstance(values, (list, tuple)), f"{name} is a tuple", values)
            object.__setattr__(self, name, tuple(values))  # a list would stay open to changes
        names = self.labels + self.ignore_labels
        _check(all(isinstance(name, str) for name in names), "labels and ignore_labels are names", names)
        _check(len(self.labels) > 0, "labels has at least one name", self.labels)
        unknown = sorted(set(self.ignore_labels) - set(self.labels))
        _check(not unknown, "ignore_labels are names from labels", unknown)
        _check(len(self.levels) > 0, "levels has at least one entry", self.levels)
        counts = [len(level.base_anchors) for level in self.levels]
        _check(len(set(counts)) == 1, "every level has the same number of base anchors", counts)
        outputs = [name for level in self.levels for name in (level.logits, level.deltas)]
        _check(len(set(outputs)) == len(outputs), "every output is named once", outputs)
        _check(0 <= self.score_threshold <= 1, "score_threshold is from 0 to 1", self.score_threshold)
        _check(0 <= self.nms_iou_threshold <= 1, "nms_iou_threshold is from 0 to 1", self.nms_iou_threshold)
        for name in ("top_k", "max_detections", "pad_multiple"):
            _check(_is_integer(getattr(self, name)), f"{name} is an integer", getattr(self, name))
        _check(1 <= self.top_k <= 1 << 20, "top_k is from 1 to 1048576", self.top_k)
        _check(1 <= self.max_detections <= 1 << 20, "max_detections is from 1 to 1048576", self.max_detections)
        _check(1 <= self.pad_multiple <= 4096, "pad_multiple is from 1 to 4096", self.pad_multiple)
        _check(self.clip in _CLIPS, f"clip is one of {_CLIPS}", self.clip)
        _check(self.clip_limit in _CLIP_LIMITS, f"clip_limit is one of {_CLIP_LIMITS}", self.clip_limit)
        _check(self.drop_empty in _DROPS, f"drop_empty is one of {_DROPS}", self.drop_empty)
        _check(self.rescale in _RESCALES, f"rescale is one of {_RESCALES}", self.rescale)
        _check(
            self.rescale == "per_axis" or self.resize.rule != "squash",
            "rescale is per_axis where the resize rule is squash, which has no one scale",
            self.rescale,
        )
        for name in ("score_comparison", "nms_comparison"):
            _check(getattr(self, name) in _COMPARISONS, f"{name} is one of {_COMPARISONS}", getattr(self, name))
        _check(isinstance(self.inclusive_pixels, bool), "inclusive_pixels is true or false", self.inclusive_pixels)

    @property
    def anchors_per_cell(self) -> int:
        """The number of anchors of each cell, A; the same on every level."""
        return len(self.levels[0].base_anchors)

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """Returns the (height, width) of the network input for a resized image of that size, in pixels."""
        multiple = self.pad_multiple
        if self.resize.rule == "fit":
            height, width = self.resize.size
        return -(-height // multiple) * multiple, -(-width // multiple) * multiple

    def replace(self, **changes: Any) -> ModelSpec:
        """Returns a copy with some fields changed. The copy is checked again.

        Args:
            **changes: New values by the names of the fields.

        Raises:
            ModelError: If the changed spec is not valid.
        """
        return dataclasses.replace(self, **changes)

    def to_json(self) -> str:
        """Returns the spec as JSON text, which every later version can read."""
        return dump_readable({"format": FORMAT, **to_json_object(self)})

    @classmethod
    def from_json(cls, text: str, *, origin: str = "spec") -> ModelSpec:
        """Reads a spec from JSON text.

        Args:
            text: The JSON text.
            origin: Name of the text in error messages.

        Raises:
            ModelError: If the text is not a valid spec.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{origin}: wanted a model spec in JSON, but it does not parse: {error}") from error
        if not isinstance(content, dict):
            raise ModelError(f"{origin}: wanted a JSON object, got {type(content).__name__}")
        version = content.pop("format", None)
        if not _is_integer(version) or version != FORMAT:
            raise ModelError(
                f"{origin}: wanted a model spec of format {FORMAT}, got {version!r}; "
                "write it with this version of retinasdk, or update retinasdk"
            )
        if "plus_one" in content:  # its name in specs written before 0.1.0
            content["inclusive_pixels"] = content.pop("plus_one")
        try:
            return from_json_object(cls, content)
        except ModelError as error:
            raise ModelError(f"{origin}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Writes the spec as a JSON file. If writing fails, an existing file stays as it was."""
        from retinasdk._util.files import write_atomically

        write_atomically(Path(path), self.to_json().encode())

    @classmethod
    def load(cls, path: str | Path) -> ModelSpec:
        """Reads a spec from a JSON file.

        Args:
            path: The path of the file.

        Raises:
            ModelError: If the file cannot be read or is not a valid spec.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"cannot read the model spec {path}: {error}") from error
        return cls.from_json(text, origin=str(path))
