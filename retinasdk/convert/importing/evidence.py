"""Whose rules a graph follows: what is in it that some frameworks write and others do not."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk.convert.flavours import Preset, list_flavours, load_preset
from retinasdk.convert.flavours.preset import BaseAnchors
from retinasdk.convert.importing.graph import GraphView, inner_nodes
from retinasdk.convert.importing.heads import Heads
from retinasdk.convert.importing.inputs import NetworkInput
from retinasdk.errors import ModelError
from retinasdk.spec import METADATA_KEY

if TYPE_CHECKING:
    import numpy.typing as npt

_CLAMP = float(np.log(1000 / 16))
_CORNER_STD = 0.2  # keras-retinanet's, for all four corners
# What may stand between raw deltas and exp and changes nothing.
_PASSED = frozenset({"Slice", "Split", "Reshape", "Squeeze", "Unsqueeze", "Gather", "Identity", "Cast", "Concat"})
_PASSED |= {"Transpose", "Flatten", "Add"}
# Names that a framework's modules leave in node and weight names. They are habits, not rules.
_NAMES = {
    r"head[./]classification_head": ("torchvision", "mlperf"),
    r"bbox_head|retina_cls|retina_reg": ("mmdet", "mmdeploy"),
    r"classification_submodel|regression_submodel": ("keras-retinanet",),
    r"head[./]cls_score|head[./]bbox_pred": ("detectron2",),
    r"cls_head[./]|box_head[./]": ("odtk",),
}


@dataclass(frozen=True)
class Fact:
    """text: for people. fits: flavours it fits. strength: "rule" (a number or pattern that decides boxes), "excludes"
    (only rules flavours out) or "hint" (a habit).
    """

    text: str
    fits: frozenset[str]
    strength: str


@dataclass(frozen=True)
class Behind:
    """What the graph itself says of the rules behind its heads.

    base_anchors: one entry a level, xyxy. growth_factor: what dw and dh are multiplied by before exp.
    """

    base_anchors: tuple[BaseAnchors, ...] | None
    score_threshold: float | None
    nms_iou_threshold: float | None
    growth_factor: float


def _presets() -> dict[str, Preset]:
    return {name: load_preset(name) for name in list_flavours()}


def _fits(holds: Callable[[Preset], bool]) -> frozenset[str]:
    return frozenset(name for name, preset in _presets().items() if holds(preset))


def collect_facts(view: GraphView, heads: Heads, network: NetworkInput) -> list[Fact]:
    facts = [*_normalise_facts(network), *_coder_facts(view, heads), *_anchor_facts(view, heads)]
    facts += [*_output_facts(view, heads), *_tool_facts(view, heads)]
    if heads.classes != load_preset("mlperf").classes:
        others = frozenset(list_flavours()) - {"mlperf"}
        facts.append(Fact(f"{heads.classes} classes, where MLPerf's network has 264", others, "excludes"))
    else:
        facts.append(Fact("264 classes, as MLPerf's network has", frozenset({"mlperf"}), "hint"))
    return facts


def _normalise_facts(network: NetworkInput) -> list[Fact]:
    if network.normalise is None:
        return []
    mean, std = np.array(network.normalise.mean), np.array(network.normalise.std)

    def same(preset: Preset) -> bool:
        own = preset.normalise
        is_same = np.allclose(mean, own.mean, atol=0.05) and np.allclose(std, own.std, atol=0.05)
        if preset.flavour in ("mmdet", "mmdeploy"):  # its backbones in caffe's style are trained as detectron2's
            caffe = load_preset("detectron2").normalise
            is_same |= np.allclose(mean, caffe.mean, atol=0.05) and np.allclose(std, caffe.std, atol=0.05)
        return bool(is_same)

    fits = _fits(same)
    numbers = f"mean {_listed(mean)}, std {_listed(std)} of 255"
    return [Fact(f"the graph normalises by {numbers}", fits, "excludes")] if fits else []


def _listed(values: npt.NDArray[Any]) -> str:
    return " ".join(f"{value:.6g}" for value in values)


def _coder_facts(view: GraphView, heads: Heads) -> list[Fact]:
    """Box decoding: exp or none, its bounds."""
    tail = view.after(heads.deltas.tensors)
    kinds = {view.nodes[index].op_type for index in tail}
    if "Exp" not in kinds:
        scales = any(
            values is not None and values.size in (1, 4) and np.allclose(values, _CORNER_STD)
            for index in tail
            if view.nodes[index].op_type == "Mul"
            for values in map(view.constant, view.nodes[index].input)
        )
        fits = _fits(lambda preset: preset.box_coder.kind == "corner")
        return [Fact("boxes are decoded corner by corner, scaled by 0.2, without exp", fits, "rule")] if scales else []
    growth = _growth(view, tail)
    fits = _fits(
        lambda preset: (
            preset.box_coder.kind == "center"
            and _near(preset.box_coder.clamp_max, growth.high)
            and _near(preset.box_coder.clamp_min, growth.low)
        )
    )
    bounds = [f"at {where} {bound:.5g}" for where, bound in (("least", growth.low), ("most", growth.high)) if bound]
    text = f"dw and dh are {' and '.join(bounds) or 'not bounded'} before exp"
    return [Fact(text, fits, "rule" if growth.high is not None else "excludes")] if fits else []


def _near(own: float | None, found: float | None) -> bool:
    return own is found if own is None or found is None else abs(own - found) < 1e-3


@dataclass(frozen=True)
class _Growth:
    """What is done to dw and dh before exp: factor, then bounds."""

    low: float | None
    high: float | None
    factor: float


def _growth(view: GraphView, tail: Collection[int]) -> _Growth:
    """Walks up from each exp, through what moves, bounds and scales values."""
    low = high = None
    factor = 1.0
    for tensor in [view.nodes[index].input[0] for index in sorted(tail) if view.nodes[index].op_type == "Exp"]:
        current: str | None = tensor
        own_factor = 1.0
        while current in view.producer and view.producer[current] in tail:
            index = view.producer[current]
            node = view.nodes[index]
            values = [view.constant(name) if name else None for name in node.input]
            numbers = [
                float(value.reshape(-1)[-1]) for value in values if value is not None and value.size in (1, 2, 4)
            ]
            if node.op_type in ("Clip", "Min", "Max"):
                high = next((number for number in numbers if abs(number - _CLAMP) < 1e-3), high)
                low = next((number for number in numbers if abs(number + _CLAMP) < 1e-3), low)
            elif node.op_type in ("Mul", "Div") and numbers:
                own_factor *= numbers[0] if node.op_type == "Mul" else 1 / numbers[0] if numbers[0] else 1.0
            elif node.op_type not in _PASSED:
                break
            current = view.pixel_input(index)
        factor = own_factor if own_factor != 1.0 else factor
    return _Growth(low, high, factor)


def _anchor_facts(view: GraphView, heads: Heads) -> list[Fact]:
    found = anchors_in_graph(view, heads)
    if found is None:
        return []
    first = np.array(found[0])

    def same(preset: Preset) -> bool:
        own = _centred(np.array(preset.anchors.base_anchors(0)))
        return own.shape == first.shape and np.allclose(own, _centred(first), atol=0.02)

    fits = _fits(same)
    text = f"base anchors in the graph have the sizes, order and rounding of {', '.join(sorted(fits))}"
    return [Fact(text, fits, "rule")] if fits else []


def _centred(anchors: npt.NDArray[Any]) -> npt.NDArray[Any]:
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2
    centred: npt.NDArray[Any] = anchors - np.concatenate([centre, centre], axis=1)
    return centred


def anchors_in_graph(view: GraphView, heads: Heads) -> tuple[BaseAnchors, ...] | None:
    """Constants of A boxes around a common centre, one a level, from the smallest level's on; None: there are none."""
    found: dict[bytes, npt.NDArray[np.float64]] = {}
    names = [*view.initializers, *(node.output[0] for node in view.nodes if node.op_type == "Constant")]
    network = {name for index in view.before(heads.tensors) for name in view.needs(index)}
    for name in names:
        if name in network:
            continue
        values = view.constant(name)
        if values is None or values.size != heads.anchors * 4 or values.shape[-1] != 4 or values.shape[-2:-1] == (1,):
            continue
        boxes = values.reshape(-1, 4).astype(np.float64)
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        if (boxes[:, 2:] > boxes[:, :2]).all() and (np.ptp(centres, axis=0) <= 1).all():
            found.setdefault(boxes.tobytes(), boxes)
    if len(found) != len(heads.deltas.taps):
        return None
    ordered = sorted(found.values(), key=lambda boxes: float((boxes[:, 2:] - boxes[:, :2]).max()))
    return tuple(tuple((box[0], box[1], box[2], box[3]) for box in boxes.tolist()) for boxes in ordered)


def _output_facts(view: GraphView, heads: Heads) -> list[Fact]:
    """ODTK's export: for each level, the sigmoid of the logits and the deltas as they are, and nothing else."""
    scores = {
        view.nodes[index].output[0]
        for tensor in heads.logits.tensors
        for index in view.users(tensor)
        if view.nodes[index].op_type == "Sigmoid"
    }
    if len(scores) == len(heads.logits.taps) and set(view.outputs) == scores | set(heads.deltas.tensors):
        return [Fact("its outputs are each level's sigmoid and raw deltas", frozenset({"odtk"}), "rule")]
    return []


def _tool_facts(view: GraphView, heads: Heads) -> list[Fact]:
    facts = []
    tail = view.after(heads.tensors)
    if any(view.nodes[index].domain == "mmdeploy" for index in tail):
        facts.append(Fact("operators of mmdeploy behind the heads", frozenset({"mmdeploy"}), "rule"))
    names = [*view.initializers, *(node.name for node in view.nodes)]
    for pattern, fits in _NAMES.items():
        match = next((found[0] for name in names if (found := re.search(pattern, name))), None)
        if match:
            facts.append(Fact(f"names such as {match!r}", frozenset(fits), "hint"))
    producer = view.model.producer_name
    if producer in ("tf2onnx", "keras2onnx"):
        facts.append(Fact(f"written by {producer}", frozenset({"keras-retinanet"}), "hint"))
    return facts


def choose_flavour(view: GraphView, facts: Sequence[Fact]) -> tuple[str, tuple[str, ...]]:
    """The one flavour that the facts leave, and why. Raises `ModelError` naming those that fit, if they leave more."""
    if any(item.key == METADATA_KEY for item in view.model.metadata_props):
        raise ModelError(
            "wanted another framework's network, got one that carries a spec of retinasdk already: use it as it is, or "
            "name the flavour whose rules shall replace it, flavour='torchvision' for example"
        )
    left = frozenset(list_flavours())
    for fact in facts:
        if fact.strength != "hint":
            left &= fact.fits
    has_rule = any(fact.strength == "rule" for fact in facts)
    if has_rule and left:
        for fact in facts:
            if fact.strength == "hint" and len(_distinct(left)) > 1:
                left = left & fact.fits or left
        if len(_distinct(left)) == 1:
            chosen = _distinct(left)[0]
            return chosen, tuple(fact.text for fact in facts if chosen in fact.fits)
    said = "; ".join(fact.text for fact in facts) or "nothing but its heads is in it"
    hinted = sorted({name for fact in facts if fact.strength == "hint" for name in fact.fits & left})
    likely = f", and its names look like {' or '.join(hinted)}" if hinted else ""
    if not left:
        raise ModelError(
            f"whose rules does this network follow? What is in the graph contradicts itself ({said}); say which, with "
            f"flavour= one of {', '.join(list_flavours())}"
        )
    raise ModelError(
        f"whose rules does this network follow? What is in the graph ({said}) fits {', '.join(sorted(left))}{likely}; "
        f"say which, with flavour={(hinted or sorted(left))[0]!r} for example"
    )


def _distinct(names: frozenset[str]) -> list[str]:
    """One name of each set of flavours whose rules are the same: mmdet for mmdet and mmdeploy."""
    seen: list[tuple[Preset, str]] = []
    for name in sorted(names):
        rules = replace(load_preset(name), flavour="", title="", source={})
        seen = [(known, other) for known, other in seen if known != rules] + [(rules, name)]
    return sorted(name for _, name in seen)


def rules_in_graph(view: GraphView, heads: Heads) -> Behind:
    """Numbers of the rules that the graph holds as constants behind its heads."""
    tail = view.after(heads.logits.tensors)
    thresholds: set[float] = set()
    overlaps: set[float] = set()
    for node in (item for index in tail for item in (view.nodes[index], *inner_nodes(view.nodes[index]))):
        if node.op_type in ("Greater", "GreaterOrEqual") and view.constant(node.input[0]) is None:
            thresholds |= _scalar(view, node.input[1])
        elif node.op_type == "NonMaxSuppression":
            overlaps |= _scalar(view, node.input[3]) if len(node.input) > 3 else set()
            thresholds |= {value for value in (_scalar(view, node.input[4]) if len(node.input) > 4 else ()) if value}
    thresholds = {value for value in thresholds if 0 < value < 1}
    return Behind(
        base_anchors=anchors_in_graph(view, heads),
        score_threshold=thresholds.pop() if len(thresholds) == 1 else None,
        nms_iou_threshold=overlaps.pop() if len(overlaps) == 1 else None,
        growth_factor=_growth(view, view.after(heads.deltas.tensors)).factor,
    )


def _scalar(view: GraphView, name: str) -> set[float]:
    value = view.constant(name) if name else None
    return {float(f"{float(value.reshape(-1)[0]):.7g}")} if value is not None and value.size == 1 else set()
