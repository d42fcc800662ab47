"""Finds the nodes of a graph that one operator of retinasdk can do, and describes that operator.

The operators are implemented in `csrc/onnxruntime`; `csrc/convolution/blocked.h` describes their memory layout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from retinasdk.backends.graph_facts import GraphFacts, Shape, Side, Window, divided, is_per_channel, window
from retinasdk.backends.graph_nodes import Floats, Node

CONV, WINOGRAD, DEPTHWISE, MAX_POOL, ADD = (
    "BlockedConv",
    "WinogradConv",
    "DepthwiseBlock",
    "BlockedMaxPool",
    "BlockedAdd",
)
# Operators that ONNX Runtime runs on a blocked image as on any other: each value by itself, and 0 stays 0.
_ELEMENTWISE = ("Relu", "Clip", "LeakyRelu", "HardSwish", "Tanh")
Doubles: TypeAlias = npt.NDArray[np.float64]

_MAX_CHANNELS, _MAX_SIDE = 65536, 31  # Of the operators.
_MAX_PLANAR_CHANNELS = 4  # The photo. More channels are rearranged first.
SAME, UPSAMPLED = 1, 2  # Values of the attribute `addition`.
_MAX_FACTOR = 64
# Values of coordinate_transformation_mode and nearest_mode that are as ("asymmetric", "floor") for whole factors.
_SAME_FOR_FACTORS = (
    ("half_pixel", "round_prefer_floor"),
    ("half_pixel", "round_prefer_ceil"),
    ("tf_half_pixel_for_nn", "floor"),
)


@dataclass(frozen=True)
class Step:
    """One operator in the place of some nodes.

    Attributes:
        kind: Name of the operator, or "" for a node of ONNX that also runs on blocked images.
        nodes: Places of the nodes in the graph, in their order.
        input: Name of the tensor that is read.
        added: Name of the tensor that is added, or "".
        output: Name of the tensor that is made.
        window: How it walks over its input.
        attributes: Values of the attributes, except the window's and those that depend on the neighbors.
        weights: The lent tensors by the name of their attribute.
    """

    kind: str
    nodes: tuple[int, ...]
    input: str
    output: str
    added: str = ""
    window: Window | None = None
    attributes: dict[str, int | float] = field(default_factory=dict)
    weights: dict[str, Floats] = field(default_factory=dict)

    @property
    def place(self) -> int:
        """Where the operator goes: in the place of its last node, so that all its inputs exist."""
        return self.nodes[-1]

    @property
    def is_convolution(self) -> bool:
        """Whether the operator can write a planar image."""
        return self.kind in (CONV, WINOGRAD)

    @property
    def reads_planar(self) -> bool:
        """Whether the operator can read a planar image."""
        if self.kind == DEPTHWISE:
            return bool(self.attributes.get("planar_input"))
        return self.kind == CONV and self.weights["weights"].shape[1] <= _MAX_PLANAR_CHANNELS

    @property
    def is_pointwise(self) -> bool:
        """Whether it is a 1x1 convolution that keeps the size."""
        plain = Window((1, 1), (1, 1), (0, 0, 0, 0), False)
        return self.kind == CONV and self.window is not None and replace(self.window, same=False) == plain

    @property
    def is_plain_3x3(self) -> bool:
        """Whether it is a 3x3 convolution that keeps the size."""
        walk = self.window
        return (
            self.kind == CONV
            and walk is not None
            and (walk.kernel, walk.strides, walk.pads) == ((3, 3), (1, 1), (1, 1, 1, 1))
        )

    @property
    def multiplications(self) -> int:
        """The number of multiplications for one pixel of the output."""
        return sum(values.size for values in self.weights.values() if values.ndim == 4)


def window_attributes(walk: Window) -> dict[str, int]:
    """Returns strides and padding as attributes of the operators."""
    around = dict(zip(("top", "left", "bottom", "right"), walk.pads or (0, 0, 0, 0), strict=True))
    return {"stride_y": walk.strides[0], "stride_x": walk.strides[1], **around}


def address(values: Floats) -> int:
    """Returns where the values of a tensor lie: equal for tensors that are the same one."""
    return int(values.__array_interface__["data"][0])


def find_steps(facts: GraphFacts) -> list[Step]:
    """Returns what can run on blocked images, in the order of the graph. No node is in two of them."""
    finder = _Finder(facts)
    steps = {step.place: step for index in facts.nodes if (step := finder.step(index)) is not None}
    return [steps[place] for place in sorted(steps)]


class _Finder:
    """Finds the steps of a graph. Nodes must be asked for in their order."""

    def __init__(self, facts: GraphFacts) -> None:
        self._facts = facts
        self._taken: set[int] = set()

    def step(self, index: int) -> Step | None:
        """Returns the step that begins at a node, or None."""
        if index in self._taken:
            return None
        facts, node = self._facts, self._facts.nodes[index]
        step = None
        if node.is_standard("Conv"):
            step = _convolution(facts, index, node)
            if step is not None:
                step = self._with_clamp(self._with_addition(self._with_constants(step)))
        elif node.is_standard("MaxPool"):
            step = _max_pool(facts, index, node)
        elif node.is_standard("Add"):
            step = _addition(facts, index, node)
            step = None if step is None else self._with_clamp(step)
        elif node.is_standard(*_ELEMENTWISE) and facts.shape(node.inputs[0]) is not None and _keeps_zero(facts, node):
            step = Step("", (index,), node.inputs[0], node.outputs[0])
        if step is not None:
            self._taken.update(step.nodes)
        return step

    def _next(self, step: Step, *kinds: str) -> tuple[int, Node] | None:
        """Returns the only node that reads the output of a step, if it is one of these operators and still free."""
        reader = self._facts.lone_reader(step.output, *kinds)
        return None if reader is None or reader in self._taken else (reader, self._facts.nodes[reader])

    def _with_constants(self, step: Step) -> Step:
        """Folds what follows a convolution and multiplies or adds constants into its weights."""
        while (found := self._next(step, "BatchNormalization", "Mul", "Add")) is not None:
            reader, node = found
            weights = _folded(self._facts, node, step)
            if weights is None:
                break
            step = replace(step, nodes=(*step.nodes, reader), output=node.outputs[0], weights=weights)
        return step

    def _with_addition(self, step: Step) -> Step:
        facts, shape = self._facts, self._facts.shape(step.output)
        readers = facts.readers.get(step.output, [])
        sums = [reader for reader in readers if facts.nodes[reader].is_standard("Add") and reader not in self._taken]
        if step.kind == DEPTHWISE or shape is None or len(sums) != 1 or step.output in facts.outputs:
            return step
        (reader,) = sums
        node = facts.nodes[reader]
        others = [name for name in node.inputs if name != step.output]
        added = _added(facts, others[0], shape) if len(others) == 1 else None
        # The output may also be read to find out the size of a Resize that the operator does as well.
        if added is None or not all(facts.is_only_for(other, added.nodes) for other in readers if other != reader):
            return step
        nodes = (*sorted({*step.nodes, *added.nodes}), reader)
        return replace(
            step,
            nodes=nodes,
            output=node.outputs[0],
            added=added.name,
            attributes={**step.attributes, **added.attributes},
        )

    def _with_clamp(self, step: Step) -> Step:
        found = self._next(step, "Relu", "Clip")
        limits = None if found is None else clamp_limits(self._facts, found[1])
        if found is None or limits is None:
            return replace(step, attributes={**step.attributes, "low": -math.inf, "high": math.inf})
        reader, node = found
        attributes = {**step.attributes, "low": limits[0], "high": limits[1]}
        return replace(step, nodes=(*step.nodes, reader), output=node.outputs[0], attributes=attributes)


# -- convolutions ------------------------------------------------------------------------------------------------------


def _convolution(facts: GraphFacts, index: int, node: Node) -> Step | None:
    """Describes a Conv with what follows it up to an addition."""
    weights = facts.floats(node.input(1))
    bias = facts.floats(node.input(2)) if node.input(2) else None
    if weights is None or weights.ndim != 4 or (node.input(2) and bias is None):
        return None
    kernel = (weights.shape[2], weights.shape[3])
    walk = window(node, kernel)
    if walk is None or not _is_supported(walk) or not 1 <= min(weights.shape) <= max(weights.shape) <= _MAX_CHANNELS:
        return None
    if bias is not None and bias.shape != weights.shape[:1]:
        return None
    group = node.integer("group", 1)
    if group != 1 and (group, 1) != weights.shape[:2]:
        return None  # It is neither an ordinary convolution nor a depthwise one.
    kind = CONV if group == 1 else DEPTHWISE
    lent = {"weights": weights} if bias is None else {"weights": weights, "bias": bias}
    return Step(kind, (index,), node.inputs[0], node.outputs[0], window=walk, weights=lent)


def _folded(facts: GraphFacts, node: Node, step: Step) -> dict[str, Floats] | None:
    """Returns the weights of a convolution that does a BatchNormalization, or the Add of constants, as well."""
    weights, bias = step.weights["weights"], step.weights.get("bias")
    count = weights.shape[0]
    before = np.zeros(count) if bias is None else bias.astype(np.float64)
    if node.type != "BatchNormalization":
        others = [name for name in node.inputs if name != step.output]
        constant = facts.floats(others[0]) if len(others) == 1 else None
        if constant is None or not is_per_channel(constant.shape, count):
            return None
        values = np.broadcast_to(constant.reshape(-1).astype(np.float64), count)
        return _scaled(weights, before, *((values, 0.0) if node.type == "Mul" else (1.0, values)))
    parameters = [facts.floats(name) for name in node.inputs[1:5]]
    found = [values.astype(np.float64) for values in parameters if values is not None and values.shape == (count,)]
    if len(found) != 4 or node.inputs[0] != step.output or node.integer("training_mode", 0):
        return None
    scale, shift, mean, variance = found
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + node.number("epsilon", 1e-5))
        return _scaled(weights, before, factor, shift - mean * factor)


def _scaled(
    weights: Floats, bias: Doubles, factor: Doubles | float, shift: Doubles | float
) -> dict[str, Floats] | None:
    """Returns the weights of a convolution whose result is multiplied and moved. None: they are not all finite."""
    with np.errstate(all="ignore"):
        scaled = weights
        if not isinstance(factor, float):
            scaled = (weights * factor.reshape(-1, 1, 1, 1)).astype(np.float32)
        moved = (bias * factor + shift).astype(np.float32)
        return {"weights": scaled, "bias": moved} if np.isfinite(scaled).all() and np.isfinite(moved).all() else None


def _keeps_zero(facts: GraphFacts, node: Node) -> bool:
    """Returns whether an elementwise operator makes 0 of 0, as the unused channels of a blocked image must stay."""
    if node.type == "Clip":
        return clamp_limits(facts, node) is not None
    return node.type != "LeakyRelu" or math.isfinite(node.number("alpha", 0.01))


def clamp_limits(facts: GraphFacts, node: Node) -> tuple[float, float] | None:
    """Returns the limits of a Relu or Clip if they are constant and 0 is between them: 0 must stay 0."""
    if node.type == "Relu":
        return 0.0, math.inf
    limits = []
    for index, name, default in ((1, "min", -math.inf), (2, "max", math.inf)):
        given = facts.scalar(node.input(index)) if node.input(index) else node.number(name, default)
        if given is None:
            return None
        limits.append(given)
    low, high = limits
    return (low, high) if low <= 0.0 <= high else None


def _is_supported(walk: Window) -> bool:
    """Returns whether the operators can walk so over an image: no window lies in the padding alone."""
    fits = max(*walk.kernel, *walk.strides) <= _MAX_SIDE
    return fits and walk.pads is not None and all(walk.pads[i] < walk.kernel[i % 2] for i in range(4))


# -- other operators ---------------------------------------------------------------------------------------------------


def _max_pool(facts: GraphFacts, index: int, node: Node) -> Step | None:
    walk, shape = pooling(node), facts.shape(node.inputs[0])
    if walk is None or shape is None or not isinstance(shape.channels, int):
        return None  # Its output may be needed as a planar image, for which the number of channels must be known.
    return Step(MAX_POOL, (index,), node.inputs[0], node.outputs[0], window=walk)


def pooling(node: Node) -> Window | None:
    """Returns how a MaxPool walks over its input, or None if the operators cannot do it."""
    kernel = node.integers("kernel_shape", ())
    if len(kernel) != 2 or node.integer("storage_order", 0):
        return None
    walk = window(node, (kernel[0], kernel[1]))
    return walk if walk is not None and _is_supported(walk) else None


@dataclass(frozen=True)
class _Added:
    """An image that an operator adds: its name, attributes of the operator, and nodes that it replaces."""

    name: str
    attributes: dict[str, int | float]
    nodes: tuple[int, ...] = ()


def _addition(facts: GraphFacts, index: int, node: Node) -> Step | None:
    """Describes an Add that no convolution can do."""
    for own, other in ((node.input(0), node.input(1)), (node.input(1), node.input(0))):
        shape = facts.shape(own)
        if shape is None or not isinstance(shape.channels, int):
            continue
        added = _added(facts, other, shape)
        if added is not None:
            attributes = {**added.attributes, "channels": shape.channels}
            return Step(ADD, (*added.nodes, index), own, node.outputs[0], added=added.name, attributes=attributes)
    return None


def _added(facts: GraphFacts, name: str, shape: Shape) -> _Added | None:
    """Says how an image can be added to one of a known shape. None: shapes may differ, and one would be repeated."""
    resize = facts.makers.get(name)
    if resize is not None and facts.lone_reader(name, "Add") is not None:
        node = facts.nodes[resize]
        factor = upsampling(facts, node, shape) if node.is_standard("Resize", "Upsample") else None
        if factor is not None:
            return _Added(node.inputs[0], {"addition": UPSAMPLED, "factor": factor}, (resize,))
    return _Added(name, {"addition": SAME}) if facts.shape(name) == shape else None


def upsampling(facts: GraphFacts, node: Node, shape: Shape) -> int | None:
    """Says how a Resize or Upsample enlarges an image, if it does so as the operators: see `blocked.h`.

    Returns:
        The factor, which the operators check, because it may not lead to the given shape; 0 if the size is certain.
        None if they cannot do it.
    """
    source = facts.shape(node.inputs[0])
    if source is None or (source.batch, source.channels) != (shape.batch, shape.channels):
        return None
    if node.string("mode", "nearest") != "nearest" or node.has("axes"):
        return None
    if node.string("keep_aspect_ratio_policy", "stretch") != "stretch":
        return None
    old = node.type == "Upsample" or len(node.inputs) == 2  # Until opset 10: asymmetric, rounded down.
    how = node.string("coordinate_transformation_mode", "half_pixel"), node.string("nearest_mode", "round_prefer_floor")
    rounded_down = old or how == ("asymmetric", "floor")
    pairs = ((source.height, shape.height), (source.width, shape.width))
    if node.input(3):  # The size is given. With half of it, rounded up, all quotients are exact enough in float32.
        fits = facts.shape(node.outputs[0]) == shape and all(one == divided(other, 1, 2) for one, other in pairs)
        return 0 if rounded_down and fits else None
    scales = facts.floats(node.inputs[1] if old and len(node.inputs) > 1 else node.input(2))
    if scales is None or scales.shape != (4,):
        return None
    factor = int(scales[2]) if 1 <= scales[2] < _MAX_FACTOR else 0
    if factor < 1 or scales.tolist() != [1, 1, factor, factor] or not (rounded_down or how in _SAME_FOR_FACTORS):
        return None
    return factor if all(_fits(one, other, factor) for one, other in pairs) else None


def _fits(source: Side, side: Side, factor: int) -> bool:
    """Returns whether a side can be another one, enlarged. Divided by the factor and rounded up, it mostly is."""
    if isinstance(source, int) and isinstance(side, int):
        return source * factor == side
    return not isinstance(side, int) and source == divided(side, factor - 1, factor)
