"""From a framework's rules and what the graph says of its own to the spec of the model at hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from retinasdk.convert.flavours import Preset
from retinasdk.convert.flavours.preset import FIRST_LEVEL, BaseAnchors, level_name
from retinasdk.convert.importing.evidence import Behind
from retinasdk.convert.importing.inputs import GraphNormalise, NetworkInput
from retinasdk.errors import ModelError
from retinasdk.spec import ModelSpec, Normalise, Resize

if TYPE_CHECKING:
    import numpy.typing as npt

Side = int | str
AnchorsOfLevels = Sequence[Sequence[Sequence[float]]]


def make_spec(
    preset: Preset,
    *,
    classes: int,
    anchors: int,
    strides: Sequence[int],
    network: NetworkInput,
    behind: Behind,
    sides: tuple[Side, Side, Side],
    labels: Sequence[str] | None,
    name: str | None,
    base_anchors: AnchorsOfLevels | None,
    source: Mapping[str, str],
) -> tuple[ModelSpec, list[str]]:
    """The spec, and notes on where it is not the framework's usual one. strides: of the levels, nominal, pixels.

    Raises `ModelError` where the framework's usual labels or anchors do not fit, and none are given.
    """
    notes: list[str] = []
    spec = preset.spec(
        labels=_labels(preset, classes, labels, notes),
        name=name,
        base_anchors=_anchors(preset, anchors, strides, base_anchors, behind.base_anchors, notes),
        strides=strides,
    )
    changes: dict[str, object] = {"source": {**preset.source, **source}}
    if network.normalise is not None:
        changes["normalise"] = _normalise(network.normalise, spec.normalise, notes)
    elif not network.is_read:
        notes.append(f"how the graph normalises cannot be read; mean and std are {preset.flavour}'s usual ones")
    if network.limits is not None and spec.resize.rule == "shortest" and network.limits != spec.resize.size:
        changes["resize"] = Resize("shortest", network.limits, spec.resize.rounding, spec.resize.antialias)
        notes.append(f"the graph resizes to {network.limits[0]} and at most {network.limits[1]}; so does the spec")
    _, height, width = sides
    if isinstance(height, int) and isinstance(width, int):
        changes["resize"] = Resize("squash", (height, width), spec.resize.rounding, spec.resize.antialias)
        changes["rescale"] = "per_axis"  # squashed, each axis has a scale of its own
        changes["pad_multiple"] = 1
        if spec.resize.rule != "squash" or spec.resize.size != (height, width):
            notes.append(
                f"the network runs at {height} x {width} only, so images are squashed to that, which {preset.flavour} "
                "does not do; export it with dynamic height and width to keep their shape"
            )
    for field, value in (
        ("score_threshold", behind.score_threshold),
        ("nms_iou_threshold", behind.nms_iou_threshold),
    ):
        if value is not None and not math.isclose(value, getattr(spec, field), rel_tol=1e-5):
            changes[field] = value
            notes.append(f"{field} {value} is the graph's own")
    usual = 1 / spec.box_coder.weights[2]
    if spec.box_coder.kind == "center" and not math.isclose(behind.growth_factor, usual, rel_tol=1e-4):
        notes.append(
            f"the graph multiplies dw and dh by {behind.growth_factor:g} before exp, {preset.flavour} by {usual:g}: "
            "set box_coder's weights and means in the spec to the network's own, or boxes will be wrong"
        )
    return spec.replace(**changes), notes


def _labels(preset: Preset, classes: int, labels: Sequence[str] | None, notes: list[str]) -> tuple[str, ...]:
    if labels is None:
        usual = preset.class_names()
        if len(usual) == classes:
            return usual
        notes.append(f"the {classes} classes have no names; give them with labels=")
        return tuple(f"class {index}" for index in range(classes))
    if len(labels) != classes:
        hint = (
            "; does its index 0 stand for the background? Then put '__background__' first"
            if len(labels) + 1 == classes
            else ""
        )
        raise ModelError(f"wanted {classes} labels, one per class of the network, got {len(labels)}{hint}")
    return tuple(labels)


def _anchors(
    preset: Preset,
    count: int,
    strides: Sequence[int],
    given: AnchorsOfLevels | None,
    in_graph: Sequence[BaseAnchors] | None,
    notes: list[str],
) -> list[BaseAnchors]:
    """Those given; else the framework's, unless the graph holds others; else the graph's."""
    if given is not None:
        values = np.asarray(given, np.float64) if len({len(level) for level in given}) == 1 else np.empty(0)
        if values.shape != (len(strides), count, 4):
            raise ModelError(
                f"wanted base_anchors of shape ({len(strides)}, {count}, 4) for this network's levels and anchors, got "
                f"{values.shape if values.size else 'levels of different length'}"
            )
        return [_boxes(level) for level in values]
    usual = [preset.anchors.base_anchors(level) for level in range(len(preset.anchors.sizes))]
    fits = len(usual[0]) == count and list(strides) == [1 << (FIRST_LEVEL + i) for i in range(len(usual))]
    if in_graph is None:
        if not fits:
            raise ModelError(
                f"wanted {len(usual)} levels from {level_name(1 << FIRST_LEVEL)} on with {len(usual[0])} anchors, as "
                f"{preset.flavour} has, got {', '.join(map(level_name, strides))} with {count}; say where the anchors "
                "lie, with base_anchors=, one list of (x1, y1, x2, y2) for each level"
            )
        return usual
    found = []
    for boxes, stride in zip(np.array(in_graph), strides, strict=True):
        # Whether a graph writes the centre of the cell into its anchors or its shifts: the framework's rule is known.
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = preset.anchors.centre * stride if np.abs(centre).max() <= 1 else 0.0
        found.append(boxes + inside)
    if fits and np.allclose(found, np.array(usual), atol=0.02):
        return usual
    notes.append("base anchors are the graph's own")
    return [_boxes(level) for level in found]


def _boxes(values: npt.NDArray[np.float64]) -> BaseAnchors:
    return tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in values.tolist())


def _normalise(found: GraphNormalise, usual: Normalise, notes: list[str]) -> Normalise:
    """The graph's numbers: what was cut has to be done again. Where they are the usual ones, these, unrounded."""
    same = np.allclose(found.mean, usual.mean, atol=0.05) and np.allclose(found.std, usual.std, atol=0.05)
    if same:
        return usual
    # The mean of photos is lower in blue than in red.
    gap = found.mean[2] - found.mean[0]
    channels = usual.channels if abs(gap) < 10 else "BGR" if gap > 0 else "RGB"
    notes.append(f"mean, std and channel order {channels} are the graph's own")
    return Normalise(found.mean, found.std, channels)
