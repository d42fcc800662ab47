"""Rules of a model that a checkpoint does not contain: those that the user gives, and the question for the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from retinasdk.convert.flavours import load_preset
from retinasdk.convert.flavours.preset import BaseAnchors
from retinasdk.convert.importing.options import ImportOptions, parse_resize
from retinasdk.convert.importing.report import Finding
from retinasdk.errors import ModelError
from retinasdk.spec import ModelSpec, Normalise, Resize

# What decides on boxes and is not in the weights: the option that gives it, and its name.
QUESTIONS = {
    "base_anchors": ("--anchors", "anchors"),
    "resize": ("--resize", "image size"),
    "normalise": ("--mean and --std", "mean and std"),
    "score_threshold": ("--score-threshold", "score threshold"),
    "nms_iou_threshold": ("--nms-iou", "NMS threshold"),
    "top_k": ("--top-k", "candidates per level"),
    "max_detections": ("--max-detections", "detections per image"),
    "norm_eps": ("--norm-eps", "epsilon of the batch norms"),
}
_LIMITS = ("score_threshold", "nms_iou_threshold", "top_k", "max_detections")


def given_rules(options: ImportOptions) -> set[str]:
    """Returns which of `QUESTIONS` the user answered."""
    given = {name for name in (*_LIMITS, "resize") if getattr(options, name) is not None}
    if options.base_anchors is not None or options.has_anchor_rule:
        given.add("base_anchors")
    if options.mean is not None:
        given.add("normalise")
    return given


def with_rules(spec: ModelSpec, options: ImportOptions) -> tuple[ModelSpec, list[Finding]]:
    """Replaces the rules of a spec by those that the user gave.

    Returns:
        The spec, and a finding for each rule.

    Raises:
        ModelError: A rule does not fit the model.
    """
    changes: dict[str, Any] = {}
    findings = []
    anchors = _anchors(spec, options)
    if anchors is not None:
        changes["levels"] = tuple(
            dataclasses.replace(level, base_anchors=base) for level, base in zip(spec.levels, anchors, strict=True)
        )
        findings.append(Finding("given", "base_anchors", "the base anchors"))
    if options.resize is not None:
        given = options.resize
        changes["resize"] = given if isinstance(given, Resize) else parse_resize(given, spec.resize, None)
        size = " x ".join(map(str, changes["resize"].size))
        findings.append(Finding("given", "resize", f"the resize rule {changes['resize'].rule} {size}"))
    normalise = spec.normalise
    if options.mean is not None and options.std is not None:
        normalise = Normalise(_three(options.mean), _three(options.std), normalise.channels)
        text = f"mean {_listed(normalise.mean)}, std {_listed(normalise.std)} (pixels of 0 to 255)"
        findings.append(Finding("given", "normalise", text))
    if options.channel_order is not None:
        normalise = dataclasses.replace(normalise, channels=options.channel_order)
        findings.append(Finding("given", "normalise", f"the channel order {options.channel_order}"))
    changes["normalise"] = normalise
    for name in _LIMITS:
        value = getattr(options, name)
        if value is not None:
            changes[name] = value
            findings.append(Finding("given", name, f"{name} {value:g}"))
    return spec.replace(**changes), findings


def ask(unknown: Collection[str], what: str, command: str) -> ModelError:
    """Returns the question for rules that nobody knows.

    Args:
        unknown: Keys of `QUESTIONS`.
        what: The file, and why it does not contain the rules.
        command: The command that the user can repeat with further options.
    """
    names = ", ".join(QUESTIONS[name][1] for name in QUESTIONS if name in unknown)
    options = ", ".join(QUESTIONS[name][0] for name in QUESTIONS if name in unknown)
    return ModelError(
        f"{what}. Not known: {names}. If the model was trained with torchvision's defaults for all of them: {command} "
        f"--torchvision-defaults. Give those that differ as well, by {options}"
    )


def default_findings(spec: ModelSpec, names: Collection[str]) -> list[Finding]:
    """Returns a finding for each rule that the user confirmed to be torchvision's default."""
    texts = {
        "base_anchors": f"{spec.anchors_per_cell} anchors per cell on {len(spec.levels)} levels",
        "resize": f"the resize rule {spec.resize.rule} {' x '.join(map(str, spec.resize.size))}",
        "normalise": f"mean {_listed(spec.normalise.mean)}, std {_listed(spec.normalise.std)}",
        **{name: f"{name} {getattr(spec, name):g}" for name in _LIMITS},
        "norm_eps": "the epsilon of the batch norms 1e-05",
    }
    return [
        Finding("given", name, f"{text}, torchvision's default, as you confirmed")
        for name, text in texts.items()
        if name in names
    ]


def _anchors(spec: ModelSpec, options: ImportOptions) -> list[BaseAnchors] | None:
    count, levels = spec.anchors_per_cell, len(spec.levels)
    if options.base_anchors is not None:
        try:
            values = np.asarray(options.base_anchors, np.float64)
        except ValueError:
            values = np.empty(0)
        if values.shape != (levels, count, 4):
            raise ModelError(
                f"base_anchors has shape {values.shape if values.size else '(levels of different length)'}; the model "
                f"needs ({levels}, {count}, 4): levels, anchors per cell, x1 y1 x2 y2 (--anchors)"
            )
        return [tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in level) for level in values.tolist()]
    if not options.has_anchor_rule:
        return None
    usual = load_preset("torchvision").anchors
    rule = dataclasses.replace(
        usual,
        sizes=tuple(usual.sizes if options.anchor_sizes is None else options.anchor_sizes),
        ratios=tuple(usual.ratios if options.anchor_ratios is None else options.anchor_ratios),
        scales=tuple(usual.scales if options.anchor_scales is None else options.anchor_scales),
    )
    if len(rule.sizes) != levels:
        raise ModelError(
            f"the anchor rule has {len(rule.sizes)} sizes, but the model has {levels} levels. Give one size for each "
            "level (--anchor-sizes)"
        )
    if rule.count != count:
        raise ModelError(
            f"the anchor rule has {len(rule.scales)} scales and {len(rule.ratios)} ratios, so {rule.count} anchors per "
            f"cell, but the model has {count}. Give both (--anchor-scales and --anchor-ratios)"
        )
    return [rule.base_anchors(level) for level in range(levels)]


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    first, second, third = map(float, values)
    return first, second, third


def _listed(values: Sequence[float]) -> str:
    return " ".join(f"{value:.6g}" for value in values)
