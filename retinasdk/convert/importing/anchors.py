"""Decides on the anchors and strides of an imported model: those given, those in the graph, or the usual ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from retinasdk.convert.flavours import Preset
from retinasdk.convert.flavours.preset import FIRST_LEVEL, AnchorRule, BaseAnchors, level_name
from retinasdk.convert.importing.graph_anchors import GraphAnchors
from retinasdk.convert.importing.options import ImportOptions
from retinasdk.convert.importing.report import Finding
from retinasdk.errors import ModelError

if TYPE_CHECKING:
    import numpy.typing as npt

Stride = tuple[float, float] | None
_CLOSE = 0.02  # Pixels. Anchors this close to the usual ones are the usual ones, stored as float32.


@dataclass(frozen=True)
class LevelGeometry:
    """Anchors and strides of all levels, and where they come from.

    Attributes:
        base_anchors: Anchors of cell (0, 0) of each level, as `Level.base_anchors` has them.
        strides: (y, x) of each level in pixels; None: input side divided by the number of cells, rounded down.
        findings: Origin of both.
    """

    base_anchors: tuple[BaseAnchors, ...]
    strides: tuple[Stride, ...]
    findings: tuple[Finding, ...]


def decide_geometry(
    preset: Preset,
    options: ImportOptions,
    *,
    count: int,
    nominal: Sequence[int],
    from_width: Sequence[int] | None,
    grid: GraphAnchors | None,
    constants: Sequence[BaseAnchors] | None,
    command: str,
) -> LevelGeometry:
    """Decides on anchors and strides.

    Args:
        preset: Rules of the framework.
        options: What the user gave.
        count: Number of anchors per cell of the network.
        nominal: Stride of each level by the size of its outputs, a power of 2 in pixels.
        from_width: Input width // number of columns of each level, for a network of a fixed size; otherwise None.
        grid: Anchors that the graph computes, or None.
        constants: Base anchors that the graph contains as constants, or None.
        command: The command that the user can repeat with further options; quoted in error messages.

    Raises:
        ModelError: The graph contains no anchors and none are given, or given ones do not fit the network or the graph.
    """
    if options.strides is not None and len(options.strides) != len(nominal):
        raise ModelError(
            f"{len(options.strides)} strides are given (--strides or --anchors), but the network has {len(nominal)} "
            f"levels: {', '.join(map(level_name, nominal))}"
        )
    growth = [1.0] * len(nominal)
    if preset.stride_from_width and from_width is not None and len(preset.anchors.sizes) == len(nominal):
        growth = [stride / usual for stride, usual in zip(from_width, nominal, strict=True)]
        sizes = tuple(size * factor for size, factor in zip(preset.anchors.sizes, growth, strict=True))
        preset = dataclasses.replace(preset, anchors=dataclasses.replace(preset.anchors, sizes=sizes))
    else:
        from_width = None
    strides, stride_finding = _strides(preset, options, nominal, from_width, grid)
    steps = [
        max(stride) if stride is not None else float(usual) for stride, usual in zip(strides, nominal, strict=True)
    ]
    found = _found_anchors(preset, nominal, grid, constants)
    given = _given_anchors(preset, options, count, steps, nominal, growth)
    if given is not None:
        if found is not None and not np.allclose(given, np.array(found), atol=_CLOSE) and not options.force:
            origin = options.origin("base_anchors")
            raise ModelError(
                f"the anchors that you gave{origin and origin + ','} differ from those in the graph. Leave them out, "
                "or insist on them with --force (in Python: force=True)"
            )
        finding = Finding("given", "base_anchors", options.given("base_anchors", "the base anchors"))
        return LevelGeometry(tuple(map(preset.stored, given)), strides, (finding, stride_finding))
    usual = _usual_anchors(preset.anchors, count, nominal, steps)
    if found is not None:
        if usual is not None and np.allclose(found, np.array(usual), atol=_CLOSE):
            text = f"the base anchors are the usual ones of {preset.flavour}"
            return LevelGeometry(tuple(usual), strides, (Finding("read", "base_anchors", text), stride_finding))
        first = " ".join(f"{value:g}" for value in found[0][0])
        text = f"the base anchors, which are not the usual ones of {preset.flavour}; the first is ({first})"
        return LevelGeometry(tuple(found), strides, (Finding("read", "base_anchors", text), stride_finding))
    if usual is None:
        raise ModelError(
            f"the network has {count} anchor{'' if count == 1 else 's'} per cell on the levels "
            f"{', '.join(map(level_name, nominal))}, but {preset.flavour} has {preset.anchors.count} on "
            f"{len(preset.anchors.sizes)} levels from {level_name(1 << FIRST_LEVEL)} on, and the graph contains no "
            f"anchors. Give yours: {command} --flavour {preset.flavour} --anchors FILE.json (in Python: "
            "base_anchors=). Or describe them with --anchor-sizes, --anchor-ratios and --anchor-scales"
        )
    if options.flavour == "auto" and options.config is None:
        raise ModelError(
            f"the graph contains no anchors. It follows the rules of {preset.flavour}. If the network was trained with "
            f"the usual anchors of {preset.flavour}, confirm them by naming the framework: {command} --flavour "
            f"{preset.flavour} (in Python: flavour={preset.flavour!r}). Otherwise give yours: {command} --flavour "
            f"{preset.flavour} --anchors FILE.json (in Python: base_anchors=)"
        )
    text = f"the base anchors, the usual ones of {preset.flavour}; the graph contains none"
    return LevelGeometry(
        tuple(map(preset.stored, usual)), strides, (Finding("assumed", "base_anchors", text), stride_finding)
    )


def _strides(
    preset: Preset,
    options: ImportOptions,
    nominal: Sequence[int],
    from_width: Sequence[int] | None,
    grid: GraphAnchors | None,
) -> tuple[tuple[Stride, ...], Finding]:
    """Returns the stride of each level, and where it comes from."""
    fixed: tuple[Stride, ...] = tuple((float(stride), float(stride)) for stride in nominal)
    usual: tuple[Stride, ...] = fixed if preset.fixed_strides else (None,) * len(nominal)
    listed = " ".join(map(str, nominal))
    divided = "input side // number of cells"
    if options.strides is not None:
        listed = " ".join(f"{stride:g}" for stride in options.strides)
        text = options.given("strides", f"the strides {listed}")
        return tuple((float(stride), float(stride)) for stride in options.strides), Finding("given", "stride", text)
    if grid is None and from_width is not None and list(from_width) != list(nominal):
        text = (
            f"the strides {' '.join(map(str, from_width))}, input width // number of columns, and anchors in "
            f"proportion to them, because the network has a fixed size and {preset.flavour} computes them so"
        )
        return tuple((float(stride), float(stride)) for stride in from_width), Finding("concluded", "stride", text)
    if grid is None:
        text = f"the strides {listed if preset.fixed_strides else divided}, as usual for {preset.flavour}"
        return usual, Finding("assumed", "stride", text)
    is_divided, is_nominal = grid.are_strides_divided(), grid.are_strides(nominal)
    if is_divided and is_nominal:
        text = (
            f"the strides {listed if preset.fixed_strides else divided}, from the rules of {preset.flavour}; the graph"
        )
        return usual, Finding("concluded", "stride", f"{text} does not contradict them")
    if is_divided:
        return (None,) * len(nominal), Finding("read", "stride", f"the strides are {divided}")
    if is_nominal:
        return fixed, Finding("read", "stride", f"the strides are {listed}")
    measured = []
    for level, step in zip(grid.levels, nominal, strict=True):
        y, x = level.stride
        y = y if y is not None else x if x is not None else float(step)
        measured.append((y, x if x is not None else y))
    text = " ".join(f"{y:g}" if y == x else f"{y:g}x{x:g}" for y, x in measured)
    return tuple(measured), Finding("read", "stride", f"the strides are {text}")


def _usual_anchors(
    rule: AnchorRule, count: int, nominal: Sequence[int], steps: Sequence[float]
) -> list[BaseAnchors] | None:
    """Returns the anchors of a rule, or None if it is for another number of anchors or other levels."""
    levels = range(len(rule.sizes))
    if rule.count != count or list(nominal) != [1 << (FIRST_LEVEL + level) for level in levels]:
        return None
    return [rule.base_anchors(level, step) for level, step in zip(levels, steps, strict=True)]


def _found_anchors(
    preset: Preset, nominal: Sequence[int], grid: GraphAnchors | None, constants: Sequence[BaseAnchors] | None
) -> list[BaseAnchors] | None:
    if grid is not None:
        return [level.base_anchors for level in grid.levels]
    if constants is None:
        return None
    found = []
    for boxes, stride in zip(np.array(constants), nominal, strict=True):
        # Some exports write the center of the cell into the anchors, others add it later; the framework's rule is
        # known, so it is added here where the anchors in the graph lie around zero.
        center = (boxes[:, :2] + boxes[:, 2:]) / 2
        found.append(_boxes(boxes + (preset.anchors.centre * stride if np.abs(center).max() <= 1 else 0.0)))
    return found


def _given_anchors(
    preset: Preset,
    options: ImportOptions,
    count: int,
    steps: Sequence[float],
    nominal: Sequence[int],
    growth: Sequence[float],
) -> list[BaseAnchors] | None:
    """Returns the anchors that the user gave, as boxes or as a rule. Raises `ModelError` if they do not fit.

    Sizes are given for the nominal strides. They grow with the strides where the framework does so.
    """
    if options.base_anchors is not None:
        try:
            values = np.asarray(options.base_anchors, np.float64)
        except ValueError:
            values = np.empty(0)
        size, numbers = (5, "x y width height angle") if preset.box_coder.is_rotated else (4, "x1 y1 x2 y2")
        if values.shape != (len(nominal), count, size):
            raise ModelError(
                f"base_anchors has shape {values.shape if values.size else '(levels of different length)'}; this "
                f"network needs ({len(nominal)}, {count}, {size}): levels, anchors per cell, {numbers} (--anchors)"
            )
        return [_boxes(level) for level in values]
    if not options.has_anchor_rule:
        return None
    usual, sizes = preset.anchors, preset.anchors.sizes
    if options.anchor_sizes is not None:
        sizes = tuple(options.anchor_sizes)
        if len(sizes) == len(growth):  # Otherwise the number of sizes is an error below.
            sizes = tuple(size * factor for size, factor in zip(sizes, growth, strict=True))
    rule = dataclasses.replace(
        usual,
        sizes=sizes,
        ratios=tuple(usual.ratios if options.anchor_ratios is None else options.anchor_ratios),
        scales=tuple(usual.scales if options.anchor_scales is None else options.anchor_scales),
    )
    if len(rule.sizes) != len(nominal):
        raise ModelError(
            f"the anchor rule has {len(rule.sizes)} sizes, but the network has {len(nominal)} levels: "
            f"{', '.join(map(level_name, nominal))}. Give one size for each level (--anchor-sizes)"
        )
    if rule.count != count:
        raise ModelError(
            f"the anchor rule has {len(rule.scales)} scales and {len(rule.ratios)} ratios, so {rule.count} anchors per "
            f"cell, but the network has {count}. Give both (--anchor-scales and --anchor-ratios)"
        )
    return [rule.base_anchors(level, step) for level, step in enumerate(steps)]


def _boxes(values: npt.NDArray[np.float64]) -> BaseAnchors:
    return tuple(map(tuple, values.tolist()))
