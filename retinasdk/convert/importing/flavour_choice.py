"""Concludes from what is in a graph which framework's rules it follows.

Some numbers and patterns are written by one framework and not by others. Each one found is a piece of `Evidence`;
`choose_flavour` combines them, or raises an error if several frameworks remain.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from retinasdk.convert.flavours import Preset, list_flavours, load_preset
from retinasdk.convert.flavours.preset import BaseAnchors
from retinasdk.convert.importing.graph import GraphView
from retinasdk.convert.importing.graph_postprocessing import GraphPostprocessing
from retinasdk.convert.importing.heads import HeadPair
from retinasdk.convert.importing.inputs import NetworkInput
from retinasdk.errors import ModelError
from retinasdk.spec import METADATA_KEY

if TYPE_CHECKING:
    import numpy.typing as npt

_CORNER_STD = 0.2  # keras-retinanet scales the deltas of all four corners by this.
_MMROTATE = ("mmrotate-le90", "mmrotate-le135", "mmrotate-oc")
# Names that the modules of a framework leave in node and weight names. They are habits, not rules.
_NAMES = {
    r"(?<![a-z_])head[./]classification_head": ("torchvision", "mlperf"),
    r"(?<![a-z_])bbox_head|retina_cls|retina_reg": ("mmdet", "mmdeploy", *_MMROTATE),
    r"classification_submodel|regression_submodel": ("keras-retinanet",),
    r"classificationModel|regressionModel": ("pytorch-retinanet",),
    r"(?<![a-z_])head[./](?:cls_score|bbox_pred)": ("detectron2",),
    r"(?<![a-z_])(?:cls_head|box_head)\.\d": ("odtk", "odtk-rotated"),
    r"(?<![a-z_])(?:box|classification)_head(?:_\d+)?[./](?:prediction|logits)_layer": ("keras-hub",),
}


@dataclass(frozen=True)
class Evidence:
    """Something in the graph that some frameworks write and others do not.

    Attributes:
        text: What was found, for people.
        flavours: Names of the flavours that it fits.
        strength: "decisive": a number or pattern that determines boxes, so it can identify a framework.
            "excluding": only rules out the other flavours. "name": the name that a framework gives to its modules; used
            only to choose among flavours that remain, and never alone; a name of another framework is a
            contradiction. "hint": something that any framework may do; as a name, but never a contradiction.
        contradicts: Whether a flavour that the user names and that this does not fit gives wrong boxes.
    """

    text: str
    flavours: frozenset[str]
    strength: Literal["decisive", "excluding", "name", "hint"]
    contradicts: bool = False


def collect_evidence(
    view: GraphView,
    heads: HeadPair,
    network: NetworkInput,
    postprocessing: GraphPostprocessing,
    anchors: Sequence[BaseAnchors] | None,
) -> list[Evidence]:
    """Returns everything in the graph that tells frameworks apart. `anchors` are those in the graph, or None."""
    return [
        *_normalise_evidence(network),
        *_box_decoding_evidence(view, heads, postprocessing),
        *_anchor_evidence(anchors),
        *_nms_evidence(postprocessing),
        *_output_evidence(view, heads),
        *_naming_evidence(view, heads),
        _class_count_evidence(heads),
        _delta_count_evidence(heads),
    ]


def _flavours_where(condition: Callable[[Preset], bool]) -> frozenset[str]:
    return frozenset(name for name in list_flavours() if condition(load_preset(name)))


def _delta_count_evidence(heads: HeadPair) -> Evidence:
    """The number of deltas of an anchor tells rotated boxes from upright ones."""
    flavours = _flavours_where(lambda preset: preset.box_coder.deltas == heads.values)
    text = f"the box head has {heads.values} channels for each of {heads.anchors} anchors"
    return Evidence(text, flavours, "excluding" if heads.values == 4 else "decisive", contradicts=True)


def _normalise_evidence(network: NetworkInput) -> list[Evidence]:
    if network.normalise is None:
        return []
    mean, std = np.array(network.normalise.mean), np.array(network.normalise.std)

    def is_same(preset: Preset) -> bool:
        candidates = [preset.normalise]
        if preset.flavour in ("mmdet", "mmdeploy"):  # Their Caffe-style backbones are trained as those of detectron2.
            candidates.append(load_preset("detectron2").normalise)
        return any(
            np.allclose(mean, own.mean, atol=0.05) and np.allclose(std, own.std, atol=0.05) for own in candidates
        )

    flavours = _flavours_where(is_same)
    text = f"the graph normalizes with mean {_listed(mean)} and std {_listed(std)} (pixels of 0 to 255)"
    return [Evidence(text, flavours, "excluding", contradicts=True)] if flavours else []


def _listed(values: npt.NDArray[Any]) -> str:
    return " ".join(f"{value:.6g}" for value in values)


def _box_decoding_evidence(view: GraphView, heads: HeadPair, postprocessing: GraphPostprocessing) -> list[Evidence]:
    after_deltas = view.descendants(heads.deltas.tensor_names)
    if "Exp" not in {view.nodes[index].op_type for index in after_deltas}:
        has_corner_scale = any(
            values is not None and values.size in (1, 4) and np.allclose(values, _CORNER_STD)
            for index in after_deltas
            if view.nodes[index].op_type == "Mul"
            for values in map(view.constant, view.nodes[index].input)
        )
        text = "the graph decodes boxes as corner offsets scaled by 0.2, without exp"
        flavours = _flavours_where(lambda preset: preset.box_coder.kind == "corner")
        return [Evidence(text, flavours, "decisive", contradicts=True)] if has_corner_scale else []
    found = postprocessing.size_decoding
    flavours = _flavours_where(
        lambda preset: (
            preset.box_coder.kind == "center"
            and _is_near(preset.box_coder.clamp_max, found.clamp_max)
            and _is_near(preset.box_coder.clamp_min, found.clamp_min)
        )
    )
    bounds = [
        f"{name} {bound:.5g}" for name, bound in (("at least", found.clamp_min), ("at most", found.clamp_max)) if bound
    ]
    text = (
        f"the graph clamps dw and dh to {' and '.join(bounds)} before exp"
        if bounds
        else ("the graph does not clamp dw and dh before exp")
    )
    strength: Literal["decisive", "excluding"] = "decisive" if found.clamp_max is not None else "excluding"
    return [Evidence(text, flavours, strength, contradicts=True)] if flavours else []


def _is_near(own: float | None, found: float | None) -> bool:
    return own is found if own is None or found is None else abs(own - found) < 1e-3


def _anchor_evidence(anchors: Sequence[BaseAnchors] | None) -> list[Evidence]:
    if anchors is None:
        return []
    first = np.array(anchors[0])

    def is_same(preset: Preset) -> bool:
        own = _around_zero(np.array(preset.anchors.base_anchors(0)))
        return own.shape == first.shape and np.allclose(own, _around_zero(first), atol=0.02)

    flavours = _flavours_where(is_same)
    text = f"the base anchors in the graph have the sizes, order and rounding of {', '.join(sorted(flavours))}"
    return [Evidence(text, flavours, "decisive", contradicts=True)] if flavours else []


def _nms_evidence(postprocessing: GraphPostprocessing) -> list[Evidence]:
    """With NMS in the graph, the rules of mmdeploy apply, and not those of mmdetection."""
    absent = "mmdet" if postprocessing.has_nms else "mmdeploy"
    text = "NMS follows the heads" if postprocessing.has_nms else "no NMS follows the heads"
    flavours = frozenset(list_flavours()) - {absent}
    return [Evidence(text, flavours, "excluding", contradicts=postprocessing.has_nms)]


def _around_zero(anchors: npt.NDArray[Any]) -> npt.NDArray[Any]:
    center = (anchors[:, :2] + anchors[:, 2:]) / 2
    centered: npt.NDArray[Any] = anchors - np.concatenate([center, center], axis=1)
    return centered


def _output_evidence(view: GraphView, heads: HeadPair) -> list[Evidence]:
    """ODTK exports the sigmoid of the logits and the raw deltas of each level. Others may append a sigmoid, too."""
    scores = {
        view.nodes[index].output[0]
        for tensor in heads.logits.tensor_names
        for index in view.consumers(tensor)
        if view.nodes[index].op_type == "Sigmoid"
    }
    if len(scores) == len(heads.logits.tensors) and set(view.outputs) == scores | set(heads.deltas.tensor_names):
        text = "the outputs are the sigmoid of the logits and the raw deltas of each level"
        return [Evidence(text, frozenset({"odtk", "odtk-rotated"}), "hint")]
    return []


def _naming_evidence(view: GraphView, heads: HeadPair) -> list[Evidence]:
    evidence = []
    if any(view.nodes[index].domain == "mmdeploy" for index in view.descendants(heads.tensor_names)):
        evidence.append(Evidence("operators of mmdeploy follow the heads", frozenset({"mmdeploy"}), "decisive"))
    names = [*view.initializers, *(node.name for node in view.nodes)]
    for pattern, flavours in _NAMES.items():
        match = next((found[0] for name in names if (found := re.search(pattern, name))), None)
        if match:
            evidence.append(Evidence(f"nodes or weights are named {match!r}", frozenset(flavours), "name"))
    producer = view.model.producer_name
    if producer in ("tf2onnx", "keras2onnx"):
        of_tensorflow = frozenset({"keras-retinanet", "keras-hub", "tf-models"})
        evidence.append(Evidence(f"the file was written by {producer}", of_tensorflow, "name"))
    return evidence


def _class_count_evidence(heads: HeadPair) -> Evidence:
    if heads.classes == load_preset("mlperf").classes:
        return Evidence("the network has 264 classes, as that of MLPerf has", frozenset({"mlperf"}), "hint")
    others = frozenset(list_flavours()) - {"mlperf"}
    return Evidence(f"the network has {heads.classes} classes; that of MLPerf has 264", others, "excluding")


def choose_flavour(view: GraphView, evidence: Sequence[Evidence], *, command: str) -> tuple[str, tuple[str, ...]]:
    """Chooses the one flavour that fits the evidence.

    Args:
        view: The graph.
        evidence: What was found in it.
        command: The command that the user can repeat with further options; quoted in error messages.

    Returns:
        The name of the flavour, and the texts of the evidence for it.

    Raises:
        ModelError: No flavour or several flavours fit. The message says what was found and how to choose.
    """
    if any(item.key == METADATA_KEY for item in view.model.metadata_props):
        raise ModelError(
            "this model already contains a retinasdk model spec, so it can be used without an import. To replace the "
            f"rules in it, name a framework: {command} --flavour torchvision (in Python: flavour='torchvision')"
        )
    left = frozenset(list_flavours())
    for item in evidence:
        if item.strength in ("decisive", "excluding"):
            left &= item.flavours
    habits = [item for item in evidence if item.strength in ("name", "hint")]
    contradictions = [item for item in habits if item.strength == "name" and not item.flavours & left]
    if left and not contradictions and any(item.strength == "decisive" for item in evidence):
        for item in habits:
            if len(left) > 1:
                left = left & item.flavours or left
        if len(left) == 1:
            (chosen,) = left
            return chosen, tuple(item.text for item in evidence if chosen in item.flavours)
    found = "; ".join(item.text for item in evidence)
    if not left or contradictions:
        raise ModelError(
            f"cannot tell which framework trained this network, because its graph is contradictory. Found: {found}. No "
            f"framework fits all of that. Name the framework, one of {', '.join(list_flavours())}: {command} --flavour "
            "NAME (in Python: flavour='NAME')"
        )
    suggested = sorted({name for item in habits if item.strength == "name" for name in item.flavours & left})
    # A command to paste, with a name only where one is likely: a guess would give wrong boxes.
    name = suggested[0] if len(suggested) == 1 else "NAME"
    likely = f" (its names suggest {' or '.join(suggested)})" if suggested else ""
    raise ModelError(
        f"cannot tell which framework trained this network. Found: {found}. That fits {', '.join(sorted(left))}"
        f"{likely}, which give different boxes. Name the framework: {command} --flavour {name} (in Python: "
        f"flavour={name!r})"
    )


def contradictions(flavour: str, evidence: Sequence[Evidence]) -> list[str]:
    """Returns what in the graph does not fit the rules of a flavour that the user named."""
    name = load_preset(flavour).flavour
    return [item.text for item in evidence if item.contradicts and name not in item.flavours]
