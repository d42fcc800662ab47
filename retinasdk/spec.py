"""`ModelSpec`: everything that turns a network's head outputs into right boxes, as data.

The spec lies beside the ONNX file as JSON (`people.onnx`, `people.json`) and inside the ONNX file's metadata under
the key `retinasdk.spec`. Two hops: the fields here, the arithmetic in csrc/box_math.h and csrc/resize_math.h.
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
    """One pyramid level: which two outputs of the network it is, and where its anchors lie.

    base_anchors: A boxes xyxy in network-input pixels, around the origin of the cell in row 0, column 0. The centre
        offset and any rounding that the framework does are in the numbers.
    stride: (y, x) pixels from one cell to the next; None: padded input side // cells, for each axis, as torchvision
        computes it (61 and 114 instead of 64 and 128 at 800 x 800).
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
    """How the network's four numbers for an anchor become a box.

    kind "center": (dx, dy, dw, dh), as Faster R-CNN and most after it: the anchor's centre moves by dx and dy of its
        sides, and its sides grow by exp(dw) and exp(dh).
    kind "corner": (dx1, dy1, dx2, dy2), as keras-retinanet: each corner moves by so many of the anchor's sides.
    weights, means: each number is divided by its weight, then its mean is added; where a framework speaks of std, the
        weight is 1 / std.
    clamp_max, clamp_min: bounds of dw and dh before exp; None: no bound. torchvision and detectron2 have an upper
        one, ln(1000 / 16); mmdetection has also its negative as the lower; ODTK has none. "corner" takes none.
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
    """How an image's size becomes the network's.

    rule "shortest": size (s, m): the shorter side becomes s, unless the longer would pass m; then that becomes m.
    rule "longest": size (m,): the longer side becomes m.
    rule "native": size (m,): as it is, unless the longer side passes m; then that becomes m.
    rule "squash": size (height, width): exactly that, whatever the image's shape.
    rule "fit": size (height, width): as large as fits into that without a change of the aspect ratio; the network input
        is padded on the right and bottom to exactly that size.
    rounding: "floor" (torchvision, ODTK) or "half_up" (detectron2, mmdetection).
    antialias: average over the source pixels when reducing, as Pillow does; False: plain bilinear, as torchvision.
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
        """(height, width) of the network input, before `pad_multiple`, if it is the same for all images, else None."""
        return (self.size[0], self.size[1]) if self.rule in ("squash", "fit") else None

    def scale(self, height: int, width: int) -> float:
        """What both sides of an image of that size are multiplied by. "squash" has no such scale: ValueError."""
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
        """Resized (height, width) of an image of that size, in pixels; never below 1."""
        if self.rule == "squash":
            return self.size[0], self.size[1]
        scale = self.scale(height, width)
        half = 0.5 if self.rounding == "half_up" else 0.0
        return max(1, math.floor(height * scale + half)), max(1, math.floor(width * scale + half))


@dataclass(frozen=True)
class Normalise:
    """(pixel - mean) / std on values 0 to 255, in the order of `channels`, which is what the network takes."""

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
    """What a RetinaNet needs of its pre- and post-processing. Frozen, and checked when made.

    name: of the model, for people. flavour: whose rules it follows ("torchvision", "retinasdk").
    labels: one name per class index; ignore_labels: names that are never reported (torchvision's unused COCO ids).
    score_threshold: sigmoid scores strictly above are candidates; with score_comparison ">=" also those at it, as in
        ODTK's CPU path. A score of exactly 0 never is.
    top_k: best (anchor, class) pairs of each level. Where a framework takes all of them, as keras-retinanet does, a
        number that is never reached, such as 65536.
    clip: boxes are clipped before NMS to the "resized" image or to the "padded" network input, after NMS to the
        "original" image (detectron2), or not ("none").
    clip_limit: x is clipped to 0..width ("edge") or to 0..width - 1 ("last_pixel": ODTK, keras-retinanet); so is y.
    drop_empty: boxes without area, as they are clipped by then, are dropped "before_nms" (mmdetection) or "after_nms"
        (detectron2), or "never".
    inclusive_pixels: x2 and y2 name the last pixel inside the box (ODTK), so that a width is x2 - x1 + 1: an anchor's,
        in NMS, and in what is empty. Detections are reported so, too.
    nms_iou_threshold: strictly above, a worse box of the same class is dropped; with nms_comparison ">=" also at it.
    max_detections: per image, of all classes; a limit per class that is no lower changes nothing.
    rescale: boxes go back to the original image by the ratio of original to resized size on each axis ("per_axis"), or
        both axes by the one scale of the resize rule, before rounding to pixels ("uniform": ODTK, keras-retinanet).
    pad_multiple: network-input sides are padded right and below with 0 to multiples of this.
    source: free notes of where the model comes from.

    Raises `ModelError` on contradictions.
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
        return len(self.levels[0].base_anchors)

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """Network-input (height, width) for a resized image of that size."""
        multiple = self.pad_multiple
        if self.resize.rule == "fit":
            height, width = self.resize.size
        return -(-height // multiple) * multiple, -(-width // multiple) * multiple

    def replace(self, **changes: Any) -> ModelSpec:
        """A copy with some fields changed, checked again."""
        return dataclasses.replace(self, **changes)

    def to_json(self) -> str:
        """The spec as JSON text, readable again by every later version."""
        return dump_readable({"format": FORMAT, **to_json_object(self)})

    @classmethod
    def from_json(cls, text: str, *, origin: str = "spec") -> ModelSpec:
        """The spec in JSON `text`; `origin` names the text in errors. Raises `ModelError`."""
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
        """Writes the spec as JSON, whole or not at all."""
        from retinasdk._util.files import write_atomically

        write_atomically(Path(path), self.to_json().encode())

    @classmethod
    def load(cls, path: str | Path) -> ModelSpec:
        """Reads a spec from a JSON file. Raises `ModelError`."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"cannot read the model spec {path}: {error}") from error
        return cls.from_json(text, origin=str(path))
