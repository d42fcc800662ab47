"""Builds the model spec: a framework's rules, with the numbers that the graph itself contains in their place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from retinasdk.convert.flavours import Preset
from retinasdk.convert.flavours.preset import FIRST_LEVEL, BaseAnchors, level_name
from retinasdk.convert.importing.graph_postprocessing import GraphPostprocessing
from retinasdk.convert.importing.inputs import GraphNormalise, NetworkInput
from retinasdk.convert.importing.subgraph import Dimension
from retinasdk.errors import ModelError
from retinasdk.spec import ModelSpec, Normalise, Resize

if TYPE_CHECKING:
    import numpy.typing as npt

LevelAnchors = Sequence[Sequence[Sequence[float]]]


def build_spec(
    preset: Preset,
    *,
    classes: int,
    anchors: int,
    strides: Sequence[int],
    network: NetworkInput,
    postprocessing: GraphPostprocessing,
    dimensions: tuple[Dimension, Dimension, Dimension],
    labels: Sequence[str] | None,
    name: str | None,
    base_anchors: LevelAnchors | None,
    source: Mapping[str, str],
) -> tuple[ModelSpec, list[str]]:
    """Builds the spec of an imported model.

    Args:
        preset: Rules of the framework.
        classes: Number of classes of the network.
        anchors: Number of anchors per cell of the network.
        strides: Nominal stride of each level, pixels.
        network: Input of the network, with the preprocessing that the graph does.
        postprocessing: Rules that were read in the graph. They replace those of the preset.
        dimensions: Batch, height and width of the network's input; a number where it is fixed.
        labels: Class labels that the user gave, or None.
        name: Model name that the user gave, or None.
        base_anchors: Base anchors that the user gave, or None.
        source: Where the model comes from; becomes a part of `ModelSpec.source`.

    Returns:
        The spec, and a note for each rule that is not the framework's default.

    Raises:
        ModelError: The labels or anchors do not fit the network, or the framework's anchors do not and none are given.
    """
    notes: list[str] = []
    spec = preset.spec(
        labels=_labels(preset, classes, labels, notes),
        name=name,
        base_anchors=_anchors(preset, anchors, strides, base_anchors, postprocessing.base_anchors, notes),
        strides=strides,
    )
    changes: dict[str, object] = {"source": {**preset.source, **source}}
    if network.normalise is not None:
        changes["normalise"] = _normalise(network.normalise, spec.normalise, notes)
    elif not network.is_normalise_known:
        notes.append(
            f"the graph normalizes in a way that cannot be read; mean and std are the defaults of {preset.flavour}: "
            "check them in the spec"
        )
    changes |= _resize(preset, spec, network, dimensions, notes)
    for field, value in (
        ("score_threshold", postprocessing.score_threshold),
        ("nms_iou_threshold", postprocessing.nms_iou_threshold),
    ):
        if value is not None and not math.isclose(value, getattr(spec, field), rel_tol=1e-5):
            changes[field] = value
            notes.append(
                f"{field} {value} was read from the graph (default of {preset.flavour}: {getattr(spec, field)})"
            )
    factor, usual = postprocessing.size_decoding.factor, 1 / spec.box_coder.weights[2]
    if spec.box_coder.kind == "center" and not math.isclose(factor, usual, rel_tol=1e-4):
        notes.append(
            f"the graph multiplies dw and dh by {factor:g} before exp, but {preset.flavour} by {usual:g}. Boxes will "
            "be wrong unless you set box_coder.weights and box_coder.means in the spec to those of the network"
        )
    return spec.replace(**changes), notes


def _resize(
    preset: Preset,
    spec: ModelSpec,
    network: NetworkInput,
    dimensions: tuple[Dimension, Dimension, Dimension],
    notes: list[str],
) -> dict[str, object]:
    """Returns the fields of the spec that follow from a resize in the graph, or from a fixed input size."""
    resize, (_, height, width) = spec.resize, dimensions
    if isinstance(height, int) and isinstance(width, int):
        if resize.rule != "squash" or resize.size != (height, width):
            notes.append(
                f"the network accepts only {height} x {width}, so images are resized to exactly that size and lose "
                f"their aspect ratio, unlike in {preset.flavour}. To keep the aspect ratio, export the network with "
                "dynamic height and width"
            )
        return {
            "resize": Resize("squash", (height, width), resize.rounding, resize.antialias),
            "rescale": "per_axis",  # After a squash each axis has its own scale.
            "pad_multiple": 1,
        }
    limits = network.resize_limits
    if limits is not None and resize.rule == "shortest" and limits != resize.size:
        notes.append(f"resize sides {limits[0]} (shorter) and {limits[1]} (longer, at most) were read from the graph")
        return {"resize": Resize("shortest", limits, resize.rounding, resize.antialias)}
    return {}


def _labels(preset: Preset, classes: int, labels: Sequence[str] | None, notes: list[str]) -> tuple[str, ...]:
    if labels is None:
        usual = preset.class_names()
        if len(usual) == classes:
            return usual
        notes.append(
            f"the {classes} classes have no names and are called 'class 0' and so on; name them with --labels A,B,C "
            "(in Python: labels=[...])"
        )
        return tuple(f"class {index}" for index in range(classes))
    if len(labels) != classes:
        hint = (
            ". If index 0 is the background, as in torchvision, put '__background__' first"
            if len(labels) + 1 == classes
            else ""
        )
        raise ModelError(f"the network has {classes} classes, but there are {len(labels)} labels{hint}")
    return tuple(labels)


def _anchors(
    preset: Preset,
    count: int,
    strides: Sequence[int],
    given: LevelAnchors | None,
    in_graph: Sequence[BaseAnchors] | None,
    notes: list[str],
) -> list[BaseAnchors]:
    """Returns the anchors that the user gave, else those in the graph, else those of the framework."""
    if given is not None:
        values = np.asarray(given, np.float64) if len({len(level) for level in given}) == 1 else np.empty(0)
        if values.shape != (len(strides), count, 4):
            raise ModelError(
                f"base_anchors has shape {values.shape if values.size else '(levels of different length)'}; this "
                f"network needs ({len(strides)}, {count}, 4): levels, anchors per cell, x1 y1 x2 y2"
            )
        return [_boxes(level) for level in values]
    usual = [preset.anchors.base_anchors(level) for level in range(len(preset.anchors.sizes))]
    fits = len(usual[0]) == count and list(strides) == [1 << (FIRST_LEVEL + i) for i in range(len(usual))]
    if in_graph is None:
        if not fits:
            raise ModelError(
                f"the network has {count} anchor{'' if count == 1 else 's'} per cell on the levels "
                f"{', '.join(map(level_name, strides))}, but {preset.flavour} has {len(usual[0])} on {len(usual)} "
                f"levels from {level_name(1 << FIRST_LEVEL)} on, and the graph contains no anchors. Give them "
                "in Python: import_onnx(..., base_anchors=[...]), one list of (x1, y1, x2, y2) in pixels for each level"
            )
        return usual
    found = []
    for boxes, stride in zip(np.array(in_graph), strides, strict=True):
        # Some exports write the center of the cell into the anchors, others add it later; the framework's rule is
        # known, so it is added here where the anchors in the graph lie around zero.
        center = (boxes[:, :2] + boxes[:, 2:]) / 2
        offset = preset.anchors.centre * stride if np.abs(center).max() <= 1 else 0.0
        found.append(boxes + offset)
    if fits and np.allclose(found, np.array(usual), atol=0.02):
        return usual
    notes.append(f"base anchors were read from the graph; they differ from the defaults of {preset.flavour}")
    return [_boxes(level) for level in found]


def _boxes(values: npt.NDArray[np.float64]) -> BaseAnchors:
    return tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in values.tolist())


def _normalise(found: GraphNormalise, usual: Normalise, notes: list[str]) -> Normalise:
    """Returns the normalization of the graph, which the import removes from it."""
    if np.allclose(found.mean, usual.mean, atol=0.05) and np.allclose(found.std, usual.std, atol=0.05):
        return usual  # The same, without the rounding of float32.
    # The mean of photos is lower in blue than in red.
    gap = found.mean[2] - found.mean[0]
    channels = usual.channels if abs(gap) < 10 else "BGR" if gap > 0 else "RGB"
    notes.append(f"mean and std were read from the graph; the channel order {channels} is concluded from the mean")
    return Normalise(found.mean, found.std, channels)
