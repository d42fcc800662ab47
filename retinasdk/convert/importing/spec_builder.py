"""Builds the model spec: what the user gave, what the graph contains, and the framework's rules for the rest."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from retinasdk.convert.flavours import Preset, list_flavours, load_preset
from retinasdk.convert.importing.anchors import LevelGeometry
from retinasdk.convert.importing.graph_postprocessing import GraphPostprocessing
from retinasdk.convert.importing.inputs import GraphNormalise, NetworkInput
from retinasdk.convert.importing.options import ImportOptions, padded_size, resize_like
from retinasdk.convert.importing.report import KINDS, Finding
from retinasdk.convert.importing.subgraph import Dimension
from retinasdk.errors import ModelError
from retinasdk.spec import ModelSpec, Normalise, Resize

# The limits of post-processing, and the options of the command that set them.
_OPTIONS = {
    "score_threshold": "--score-threshold",
    "nms_iou_threshold": "--nms-iou",
    "top_k": "--top-k",
    "max_detections": "--max-detections",
}
_CLEAR_GAP = 10  # Between the means of red and blue; 20 in ImageNet.
# Frameworks that resize images to exactly the size of a network with a fixed size.
SQUASHING = ("mlperf", "mmdeploy")


def build_spec(
    preset: Preset,
    options: ImportOptions,
    *,
    classes: int,
    names: list[str],
    geometry: LevelGeometry,
    network: NetworkInput,
    postprocessing: GraphPostprocessing,
    dimensions: tuple[Dimension, Dimension, Dimension],
    declared: tuple[int, int] | None,
    given_resize: Resize | None,
    source: Mapping[str, str],
    command: str,
) -> tuple[ModelSpec, list[Finding]]:
    """Builds the spec of an imported model.

    Args:
        preset: Rules of the framework.
        options: What the user gave.
        classes: Number of classes of the network.
        names: Name of each level, such as "p3".
        geometry: Anchors and strides.
        network: Input of the network, with the preprocessing that the graph does.
        postprocessing: Rules that were read in the graph. They replace those of the preset.
        dimensions: Batch, height and width of the network's input; a number where it is fixed.
        declared: (height, width) that the graph declares for its input, or None.
        given_resize: The resize rule that the user gave, or None.
        source: Where the model comes from; becomes a part of `ModelSpec.source`.
        command: The command that the user can repeat with further options; quoted in error messages.

    Returns:
        The spec, and the origin of each of its rules, except that of the framework itself.

    Raises:
        ModelError: What the user gave does not fit the network, or something that determines boxes is not known.
    """
    if postprocessing.has_best_class and not options.force:
        raise ModelError(
            "the graph keeps only the best class of each anchor (ArgMax), as keras-retinanet does with "
            "class_specific_filter=False, and a model spec cannot say that. Import it with --force (in Python: "
            "force=True), and detect with --across-classes (in Python: Suppression(across_classes=True)), which gives "
            "the same boxes"
        )
    findings: list[Finding] = list(geometry.findings)
    usual = preset.spec(labels=_labels(preset, classes, options, findings), name=options.name)
    changes: dict[str, Any] = {"source": {**preset.source, **source}}
    changes["levels"] = tuple(
        dataclasses.replace(usual.levels[0], logits=f"logits_{name}", deltas=f"deltas_{name}", base_anchors=a, stride=s)
        for name, a, s in zip(names, geometry.base_anchors, geometry.strides, strict=True)
    )
    changes["normalise"] = _normalise(preset, options, network, findings, command)
    changes |= _resize(preset, options, given_resize, network, dimensions, declared, findings, command)
    for field in _OPTIONS:
        changes[field] = _threshold(preset, options, postprocessing, field, findings, command)
    most = postprocessing.top_k_of_levels
    if most is not None and most < len(names) * changes["top_k"] and not options.force:
        raise ModelError(
            f"the graph keeps at most {most} candidates of all levels together, after {changes['top_k']:g} of each of "
            f"{len(names)} levels. A model spec cannot say that. Export it again with a limit (pre_top_k in mmdeploy) "
            f"of at least {len(names) * changes['top_k']}, or insist on importing it without with --force (in Python: "
            "force=True)"
        )
    limit = postprocessing.max_per_class
    if limit is not None and limit < changes["max_detections"]:
        changes["max_per_class"] = limit
        findings.append(Finding("read", "max_per_class", f"at most {limit} detections of each class"))
    changes["box_coder"] = _box_coder(preset, options, postprocessing, findings, command)
    if options.config is not None and options.config.drop_empty is not None and preset.drop_empty != "never":
        changes["drop_empty"] = options.config.drop_empty
        text = f"boxes without area are kept, from {options.config.path.name}: min_bbox_size"
        findings.append(Finding("given", "drop_empty", text))
    return usual.replace(**changes), findings


def with_findings(spec: ModelSpec, findings: list[Finding]) -> ModelSpec:
    """Returns the spec with the findings in its notes, one note for each kind."""
    texts = {kind: "; ".join(item.text for item in findings if item.kind == kind) for kind in KINDS}
    return spec.replace(source={**spec.source, **{kind: text for kind, text in texts.items() if text}})


def _labels(preset: Preset, classes: int, options: ImportOptions, findings: list[Finding]) -> tuple[str, ...]:
    labels = options.labels
    if labels is not None:
        if len(labels) != classes:
            is_background = len(labels) + 1 == classes
            hint = ". If index 0 is the background, as in torchvision, put '__background__' first" * is_background
            raise ModelError(f"the network has {classes} classes, but there are {len(labels)} labels{hint}")
        findings.append(Finding("given", "labels", options.given("labels", f"{classes} labels")))
        return tuple(labels)
    usual = preset.class_names()
    if len(usual) == classes:
        findings.append(Finding("assumed", "labels", f"the {classes} labels of the published models"))
        return usual
    text = (
        f"the {classes} classes have no names and are called 'class 0' and so on; name them with --labels A,B,C "
        "(in Python: labels=[...])"
    )
    findings.append(Finding("assumed", "labels", text))
    return tuple(f"class {index}" for index in range(classes))


def _threshold(
    preset: Preset,
    options: ImportOptions,
    postprocessing: GraphPostprocessing,
    field: str,
    findings: list[Finding],
    command: str,
) -> float | int:
    given, found = getattr(options, field), getattr(postprocessing, field)
    usual: float | int = getattr(preset, field)
    if given is not None:
        if found is not None and options.is_from_config(field) and not math.isclose(found, given, rel_tol=1e-5):
            raise ModelError(
                f"the graph has {field} {found:g}, but {given:g} is the value {options.origins[field]}. Give the one "
                f"that applies: {command} {_OPTIONS[field]} N (in Python: {field}=)"
            )
        findings.append(Finding("given", field, f"{field} {given:g}{options.origin(field)}"))
        return type(usual)(given)
    if field in postprocessing.several:
        listed = ", ".join(f"{value:g}" for value in postprocessing.several[field])
        raise ModelError(
            f"the graph contains several values of {field}: {listed}. Give the one that applies: {command} "
            f"{_OPTIONS[field]} N (in Python: {field}=)"
        )
    if found is not None:
        value = usual if math.isclose(found, usual, rel_tol=1e-5) else found
        compared = "as usual" if value == usual else f"usual: {usual:g}"
        findings.append(Finding("read", field, f"{field} {value:g} ({compared} for {preset.flavour})"))
        return value
    findings.append(Finding("assumed", field, f"{field} {usual:g}, as usual for {preset.flavour}"))
    return usual


def _box_coder(
    preset: Preset, options: ImportOptions, postprocessing: GraphPostprocessing, findings: list[Finding], command: str
) -> Any:
    """Returns the box coder. Raises `ModelError` if the graph scales deltas otherwise than the framework."""
    coder = preset.box_coder
    if options.box_means is not None:
        x, y, width, height = map(float, options.box_means)
        coder = dataclasses.replace(coder, means=(x, y, width, height))
        text = f"box means {x:g} {y:g} {width:g} {height:g}{options.origin('box_means')}"
        findings.append(Finding("given", "box_coder", text))
    if options.box_weights is not None:
        x, y, width, height = map(float, options.box_weights)
        weights = (x, y, width, height)
        text = f"box weights {' '.join(f'{item:g}' for item in weights)}{options.origin('box_weights')}"
        findings.append(Finding("given", "box_coder", text))
        decoding = postprocessing.size_decoding
        is_same = math.isclose(decoding.factor * width, 1, rel_tol=1e-4)
        if options.is_from_config("box_weights") and decoding.has_exp and not is_same and not options.force:
            raise ModelError(
                f"the graph multiplies dw and dh by {decoding.factor:g} before exp, which does not fit the "
                f"box weights {options.origins['box_weights']}. Give those that apply with --box-weights X,Y,W,H "
                "(in Python: box_weights=)"
            )
        return dataclasses.replace(coder, weights=weights)
    decoding = postprocessing.size_decoding
    listed = " ".join(f"{item:g}" for item in coder.weights)
    if not decoding.has_exp or coder.kind != "center":
        findings.append(Finding("assumed", "box_coder", f"box weights {listed}, as usual for {preset.flavour}"))
        return coder
    if not math.isclose(decoding.factor, 1 / coder.weights[2], rel_tol=1e-4) and not options.force:
        raise ModelError(
            f"the graph multiplies dw and dh by {decoding.factor:g} before exp, but {preset.flavour} by "
            f"{1 / coder.weights[2]:g}. Give the four weights that deltas are divided by, x y width height: {command} "
            f"--box-weights X,Y,{1 / decoding.factor:g},{1 / decoding.factor:g} (in Python: box_weights=)"
        )
    findings.append(Finding("read", "box_coder", f"dw and dh are multiplied by {decoding.factor:g} before exp"))
    return coder


def _resize(
    preset: Preset,
    options: ImportOptions,
    given: Resize | None,
    network: NetworkInput,
    dimensions: tuple[Dimension, Dimension, Dimension],
    declared: tuple[int, int] | None,
    findings: list[Finding],
    command: str,
) -> dict[str, Any]:
    """Returns the fields of the spec that determine the size of the network's input."""
    _, height, width = dimensions
    fixed = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    resize, multiple = preset.resize, options.pad_multiple or preset.pad_multiple
    if given is not None:
        resize = given
        findings.append(Finding("given", "resize", f"the resize rule {_in_words(resize)}{options.origin('resize')}"))
        is_padded = resize.fixed_size is not None and padded_size(resize.fixed_size, multiple) == fixed
        if fixed is not None and resize.fixed_size != fixed and not is_padded:
            raise ModelError(
                f"the network accepts only {fixed[0]} x {fixed[1]}, so the resize rule must be --resize squash or "
                f"--resize fit (in Python: resize='squash' or resize='fit'), and not {_in_words(resize)}"
            )
    elif fixed is not None:
        resize = _fixed_resize(preset, fixed, findings, command)
    elif network.resize_limits is not None:
        resize = resize_like(resize, "shortest", network.resize_limits)
        findings.append(Finding("read", "resize", f"the resize rule {_in_words(resize)}"))
    else:
        text = f"the resize rule {_in_words(resize)}, as usual for {preset.flavour}"
        if declared is not None:
            text += (
                f"; the graph declares an input of {declared[0]} x {declared[1]}, but the network takes any size. To "
                "give all images that size, choose --resize fit or --resize squash"
            )
        findings.append(Finding("assumed", "resize", text))
    changes: dict[str, Any] = {"resize": resize}
    if resize.rule == "squash":
        changes["rescale"] = "per_axis"  # After a squash each axis has its own scale.
    if fixed is not None and resize.fixed_size == fixed:
        changes |= {"pad_multiple": 1, "pad_at_least": 0}
    elif fixed is not None:
        changes |= {"pad_multiple": multiple, "pad_at_least": 0}
    elif options.pad_multiple is not None:
        changes["pad_multiple"] = options.pad_multiple
        text = f"padding to a multiple of {options.pad_multiple} pixels{options.origin('pad_multiple')}"
        findings.append(Finding("given", "pad_multiple", text))
    return changes


def _fixed_resize(preset: Preset, fixed: tuple[int, int], findings: list[Finding], command: str) -> Resize:
    """Returns the resize rule for a network of a fixed size. Raises `ModelError` if the framework does not tell it."""
    if preset.flavour == "keras-hub":
        raise ModelError(
            f"the network accepts only {fixed[0]} x {fixed[1]}, and nothing shows how images get that size. If the "
            "image converter stretches them, or all your images have that aspect ratio: "
            f"{command} --flavour {preset.flavour} --resize squash (in Python: resize='squash'). Other images that it "
            "pads or crops to the aspect ratio have to be padded or cropped before you pass them to the detector"
        )
    if preset.flavour not in SQUASHING:
        raise ModelError(
            f"the network accepts only {fixed[0]} x {fixed[1]}, and nothing shows how images get that size. If they "
            f"are stretched to exactly that size: {command} --flavour {preset.flavour} --resize squash (in Python: "
            "resize='squash'). If they keep their aspect ratio and are padded on the right and bottom: "
            f"{command} --flavour {preset.flavour} --resize fit (in Python: resize='fit')"
        )
    text = (
        f"images are resized to exactly {fixed[0]} x {fixed[1]} and lose their aspect ratio, because the network "
        f"accepts only that size and {preset.flavour} does so. If your configuration has a smaller size, which is "
        f"padded to a multiple of {preset.pad_multiple}, give it: --resize squash:HEIGHTxWIDTH"
    )
    findings.append(Finding("concluded", "resize", text))
    return resize_like(preset.resize, "squash", fixed)


def _in_words(resize: Resize) -> str:
    return f"{resize.rule} {' x '.join(map(str, resize.size))}"


def _normalise(
    preset: Preset, options: ImportOptions, network: NetworkInput, findings: list[Finding], command: str
) -> Normalise:
    """Returns mean, std and channel order. Raises `ModelError` if the graph normalizes in an unknown way."""
    usual, found = preset.normalise, network.normalise
    given = None if options.mean is None or options.std is None else (_three(options.mean), _three(options.std))
    if found is None and given is None and not network.is_normalise_known and not options.force:
        raise ModelError(
            "the graph normalizes images in a way that cannot be read, and the import removes that. Give the mean and "
            f"the standard deviation of each channel, pixels of 0 to 255: {command} --mean M1,M2,M3 --std S1,S2,S3 "
            "--channel-order RGB (in Python: mean=, std=, channel_order=)"
        )
    mean, std = (found.mean, found.std) if found is not None else (usual.mean, usual.std)
    is_usual = found is None or (
        np.allclose(found.mean, usual.mean, atol=0.05) and np.allclose(found.std, usual.std, atol=0.05)
    )
    if is_usual:
        mean, std = usual.mean, usual.std  # The same, without the rounding of float32.
    numbers = f"mean {_listed(mean)}, std {_listed(std)} (pixels of 0 to 255)"
    if given is not None:
        is_same = np.allclose(given[0], mean, atol=0.05) and np.allclose(given[1], std, atol=0.05)
        if found is not None and not is_same and not options.force:
            raise ModelError(
                f"the mean and std that you gave differ from those in the graph: {numbers}. Leave them out, or insist "
                "on them with --force (in Python: force=True)"
            )
        mean, std = given
        text = f"mean {_listed(mean)}, std {_listed(std)} (pixels of 0 to 255){options.origin('mean')}"
        findings.append(Finding("given", "normalise", text))
    elif found is not None:
        findings.append(Finding("read", "normalise", numbers))
    else:
        findings.append(Finding("assumed", "normalise", f"{numbers}, as usual for {preset.flavour}"))
    return Normalise(mean, std, _channels(preset, options, found, findings, command))


def _channels(
    preset: Preset, options: ImportOptions, found: GraphNormalise | None, findings: list[Finding], command: str
) -> str:
    """Returns the channel order. Raises `ModelError` if the mean contradicts the usual one of the framework."""
    if options.channel_order is not None:
        text = f"the channel order {options.channel_order}{options.origin('channel_order')}"
        findings.append(Finding("given", "normalise", text))
        return options.channel_order
    usual = preset.normalise.channels
    known = None if found is None else _order_of_known_mean(found.mean)
    if known is not None:
        text = f"the channel order {known}, because the mean is that of ImageNet in this order"
        findings.append(Finding("concluded", "normalise", text))
        return known
    gap = 0.0 if found is None else found.mean[2] - found.mean[0]
    if abs(gap) < _CLEAR_GAP:
        findings.append(Finding("assumed", "normalise", f"the channel order {usual}, as usual for {preset.flavour}"))
        return usual
    shown = "BGR" if gap > 0 else "RGB"  # The mean of photos is lower in blue than in red.
    if shown != usual and not options.force:
        raise ModelError(
            f"the mean in the graph looks like the channel order {shown} (photos have less blue than red), but "
            f"{preset.flavour} has {usual}. Name the order in which the network takes its channels: {command} "
            f"--channel-order {usual}, or {shown} (in Python: channel_order=)"
        )
    text = f"the channel order {usual}, from the rules of {preset.flavour}; the mean does not contradict it"
    findings.append(Finding("concluded", "normalise", text))
    return usual


def _order_of_known_mean(mean: Sequence[float]) -> str | None:
    """Returns the channel order if the mean is that of ImageNet, as one of the frameworks writes it."""
    for flavour in list_flavours():
        known = load_preset(flavour).normalise
        reverse = "RGB" if known.channels == "BGR" else "BGR"
        for order, values in ((known.channels, known.mean), (reverse, known.mean[::-1])):
            if np.allclose(mean, values, atol=0.1):
                return order
    return None


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    first, second, third = values
    return float(first), float(second), float(third)


def _listed(values: Any) -> str:
    return " ".join(f"{value:.6g}" for value in values)
