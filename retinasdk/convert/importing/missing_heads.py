"""Says what a network lacks that has a part of the heads of a RetinaNet: one head, or one head on a level."""

from __future__ import annotations

from collections.abc import Sequence

from retinasdk._util.lazy import require
from retinasdk.convert.flavours.preset import level_name
from retinasdk.convert.importing.graph import GraphView
from retinasdk.errors import ModelError

_STRIDED = frozenset({"Conv", "MaxPool", "AveragePool", "LpPool"})
_ENLARGING = frozenset({"Resize", "Upsample", "ConvTranspose"})
_FEW_LEVELS = 3  # YOLO has one head on so many levels.


def refuse_unknown_layers(view: GraphView) -> None:
    """Refuses operators that ONNX does not know and that take the weights of a layer.

    Without this, the layer before such an operator would be taken for a head.

    Raises:
        ModelError: There is one. The message names it.
    """
    onnx = require("onnx", "importing ONNX models")
    for index in sorted(view.ancestors(view.outputs)):
        node = view.nodes[index]
        is_standard = node.domain in ("", "ai.onnx")
        if is_standard and onnx.defs.has(node.op_type, view.opset):
            continue
        if any((values := view.constant(name)) is not None and values.ndim == 4 for name in node.input if name):
            name = node.op_type if is_standard else f"{node.domain}.{node.op_type}"
            raise ModelError(
                f"node {view.node_label(index)!r} uses the operator {name}, which is not part of ONNX opset "
                f"{view.opset} and has weights, so it is a layer of the network. Only standard ONNX operators are "
                "supported up to the heads. Export the network again without custom operators, and do not import a "
                "file that a runtime has optimized"
            )


def what_is_missing(view: GraphView, sets: Sequence[Sequence[int]], channels: Sequence[int]) -> str | None:
    """Compares sets of last convolutions with the two heads of a RetinaNet.

    Args:
        view: The graph.
        sets: The convolutions of each set that may be a head.
        channels: Number of channels of each set.

    Returns:
        A sentence on what is missing; None if the sets look like another network.
    """
    if len(sets) == 1 and len(sets[0]) > _FEW_LEVELS:
        levels = _levels(view, sets[0])
        if len(set(levels)) < len(levels):
            return None  # Both heads, with the same number of channels.
        return (
            f"only one head leads to an output: {len(sets[0])} convolutions with {channels[0]} channels. A RetinaNet "
            "has a class head and a box head. Export the network with both"
        )
    if len(sets) != 2 or len(sets[0]) == len(sets[1]):
        return None
    order = sorted((0, 1), key=lambda index: len(sets[index]))
    less, more = (_levels(view, sets[index]) for index in order)
    names = _roles(channels)
    less_name, more_name = (names[index] for index in order)
    if not set(less) < set(more) or len(set(more)) < len(more):
        return None
    missing = ", ".join(level_name(stride) for stride in more if stride not in less)
    listed = [", ".join(level_name(stride) for stride in levels) for levels in (more, less)]
    return (
        f"{less_name} is missing on level {missing}: {more_name} leads to outputs on {listed[0]}, and {less_name} on "
        f"{listed[1]}. Export the network with both heads on all levels"
    )


def _roles(channels: Sequence[int]) -> list[str]:
    """Returns what to call each of two heads, by their channels: A * K and A * 4."""

    def fits(logits: int, deltas: int) -> bool:
        return deltas % 4 == 0 and logits % (deltas // 4) == 0

    first, second = channels
    if fits(first, second) != fits(second, first):
        return ["the class head", "the box head"] if fits(first, second) else ["the box head", "the class head"]
    return [f"the head with {count} channels" for count in channels]


def _levels(view: GraphView, convolutions: Sequence[int]) -> list[int]:
    """Returns the nominal strides of the outputs of convolutions, finest first."""
    strides = _strides(view)
    return sorted(strides.get(view.nodes[index].output[0], 0) for index in convolutions)


def _strides(view: GraphView) -> dict[str, int]:
    """Returns the product of the strides before each tensor, along a way that nothing enlarges."""
    found = {item.name: 1 for item in view.inputs}
    for index, node in enumerate(view.nodes):
        known = [found[name] for name in node.input if name in found]
        if not known or node.op_type in _ENLARGING:
            continue
        steps = view.attribute(index, "strides") if node.op_type in _STRIDED else None
        for name in node.output:
            found[name] = known[0] * (steps[0] if steps else 1)
    return found
