"""What a user can tell an import about a network, instead of leaving it to the graph or the framework."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from retinasdk.convert.configs import ConfigRules
from retinasdk.errors import ModelError
from retinasdk.spec import Resize

LevelAnchors = Sequence[Sequence[Sequence[float]]]
Three = Sequence[float]

_RULES = {"shortest": 2, "longest": 1, "native": 1, "squash": 2, "fit": 2}
_MAX_DIGITS = 9
_FIXED = ("squash", "fit")  # Rules that can take their size from a network of a fixed size.


@dataclass(frozen=True)
class ImportOptions:
    """What the user gave. None means: not given.

    The fields are the arguments of `import_onnx`, but for the last two.

    Attributes:
        config: The rules of the config file that the user gave. `with_config` has entered them into the other fields.
        origins: For the fields that it entered, or would have entered: where they stand in that file.
    """

    flavour: str = "auto"
    labels: Sequence[str] | None = None
    name: str | None = None
    base_anchors: LevelAnchors | None = None
    anchor_sizes: Sequence[float] | None = None
    anchor_ratios: Sequence[float] | None = None
    anchor_scales: Sequence[float] | None = None
    strides: Sequence[float] | None = None
    mean: Three | None = None
    std: Three | None = None
    channel_order: str | None = None
    resize: Resize | str | None = None
    score_threshold: float | None = None
    nms_iou_threshold: float | None = None
    top_k: int | None = None
    max_detections: int | None = None
    box_weights: Sequence[float] | None = None
    box_means: Sequence[float] | None = None
    pad_multiple: int | None = None
    box_head: str | None = None
    force: bool = False
    config: ConfigRules | None = None
    origins: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.base_anchors is not None and self.has_anchor_rule:
            raise ModelError(
                "base anchors are given twice. Give either the boxes (--anchors; in Python: base_anchors=) or the rule "
                "(--anchor-sizes, --anchor-ratios, --anchor-scales)"
            )
        if (self.mean is None) != (self.std is None):
            raise ModelError("mean and std belong together: give both, on a scale of 0 to 255 (--mean and --std)")

        for option, values, count in (
            ("--mean", self.mean, 3),
            ("--std", self.std, 3),
            ("--box-weights", self.box_weights, 4),
            ("--box-means", self.box_means, 4),
        ):
            if values is not None and len(values) != count:
                raise ModelError(f"{option} takes {count} numbers, but there are {len(values)}")

    def origin(self, name: str) -> str:
        """Returns the end of a sentence that says from where in a config a field comes; empty if from none."""
        return f", {self.origins[name]}" if name in self.origins else ""

    def given(self, name: str, what: str) -> str:
        """Returns a sentence that says of a field that the user gave it, or in which config it stands."""
        return f"{'' if self.is_from_config(name) else 'you gave '}{what}{self.origin(name)}"

    def is_from_config(self, name: str) -> bool:
        """Whether a field has the value of a config, and not one that the user gave besides."""
        return self.origins.get(name, "").startswith("from ")

    @property
    def has_anchor_rule(self) -> bool:
        """Whether sizes, ratios or scales of the anchors are given."""
        return any(item is not None for item in (self.anchor_sizes, self.anchor_ratios, self.anchor_scales))

    @property
    def anchors_per_cell(self) -> int | None:
        """Number of anchors per cell of the given boxes; None if none are given."""
        return len(self.base_anchors[0]) if self.base_anchors is not None and len(self.base_anchors) else None


def read_resize(given: Resize | str | None, usual: Resize, fixed: tuple[int, int] | None) -> Resize | None:
    """Returns the resize rule that the user gave, or None. See `parse_resize`."""
    return parse_resize(given, usual, fixed) if isinstance(given, str) else given


def padded_size(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Returns (height, width) in pixels, rounded up to a multiple."""
    return -(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple


def parse_resize(text: str, usual: Resize, fixed: tuple[int, int] | None) -> Resize:
    """Reads a resize rule such as "shortest:800,1333", "longest:768", "squash:800x800" or "fit".

    Args:
        text: The rule, and its sides in pixels. "squash" and "fit" take height x width; for a network of a fixed size
            these can be left out.
        usual: The rule of the framework, for rounding and filter.
        fixed: (height, width) of a network of a fixed size, or of an export at that size.

    Raises:
        ModelError: The text is no such rule.
    """
    rule, _, sides = text.partition(":")
    given = re.findall(r"\d+", sides)
    numbers = [int(item) for item in given if len(item) <= _MAX_DIGITS]
    if not sides and rule in _FIXED and fixed is not None:
        numbers = given = list(fixed)
    if rule not in _RULES or not len(given) == len(numbers) == _RULES[rule] or re.sub(r"[\d,x ]", "", sides):
        raise ModelError(
            f"the resize rule {reprlib.repr(text)} is unknown. Give one of shortest:800,1333 (shorter side, longer "
            "side at most), longest:768, native:1333, squash:HEIGHTxWIDTH or fit:HEIGHTxWIDTH"
        )
    return resize_like(usual, rule, tuple(numbers))


def resize_like(usual: Resize, rule: str, size: tuple[int, ...]) -> Resize:
    """Returns a resize rule with the rounding and the filter of a framework's usual one."""
    step = "sides" if rule == "squash" else usual.source_step  # A squash has a scale for each axis.
    return Resize(rule, size, usual.rounding, usual.antialias, step, usual.eight_bit)
