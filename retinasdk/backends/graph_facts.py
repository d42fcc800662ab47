"""Says what is known of a graph before it runs: constants, shapes, and who makes and reads each tensor.

Note: Known shapes

    Height and width of the input of a network are usually not known when it is loaded. What can be known is that two
    tensors have equal sides. A side is therefore an integer, or the expression floor((root + add) / step), where the
    root is a side of a tensor whose own shape is not known. A convolution or pooling makes such an expression into
    another one: floor((floor((root + a) / s) + b) / t) = floor((root + a + s * b) / (s * t)). Equal expressions are
    equal sides at any size of the input.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from retinasdk._util.onnx_wire import Field
from retinasdk.backends.graph_nodes import (
    GRAPH_INITIALIZER,
    GRAPH_INPUT,
    GRAPH_NODE,
    GRAPH_OUTPUT,
    Floats,
    Node,
    Tensor,
    value_name,
    value_shape,
)

_MAX_LIST = 64  # Values of a constant that is followed as a shape.
_REACH = 32  # Nodes that are followed from the shape of an image to a Resize. Exporters write up to 12.
# Operators whose output has the shape of their first input.
_KEEPS_SHAPE = (
    "Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "Identity",
    "BatchNormalization", "InstanceNormalization", "Dropout", "Softplus", "Cast",
    "QuantizeLinear", "DequantizeLinear",
)  # fmt: skip
_BROADCASTS = ("Add", "Sub", "Mul", "Div")
# Operators that are followed when they work on shapes.
_EDITS_LIST = ("Slice", "Gather", "Concat", "Cast", "Unsqueeze", "Squeeze", "Identity", "Reshape", "Add", "Sub", "Div")


@dataclass(frozen=True, slots=True)
class Extent:
    """A side of a tensor that is not known before the graph runs: floor((root + add) / step)."""

    root: tuple[str, int]  # The name of a tensor, and the number of its dimension.
    add: int = 0
    step: int = 1


Side: TypeAlias = "int | Extent"


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of an image (N, C, H, W). Two that are equal are certainly equal when the graph runs."""

    batch: Side
    channels: Side
    height: Side
    width: Side

    def sides(self) -> tuple[Side, Side, Side, Side]:
        """Returns the four sides."""
        return self.batch, self.channels, self.height, self.width


@dataclass(frozen=True, slots=True)
class Window:
    """How a convolution or pooling walks over its input.

    Attributes:
        kernel: Height and width of the kernel.
        strides: Vertical and horizontal step.
        pads: Padding at the top, left, bottom and right, or None if it depends on the size of the input.
        same: Whether the sides of the output are those of the input, divided by the strides and rounded up.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int] | None
    same: bool

    def output(self, side: Side, axis: int) -> Side:
        """Returns the height (axis 0) or width (axis 1) of the output."""
        step = self.strides[axis]
        if self.pads is None:
            return divided(side, step - 1, step)
        return divided(side, self.pads[axis] + self.pads[axis + 2] - self.kernel[axis] + step, step)


class GraphFacts:
    """What is known of a graph.

    Attributes:
        nodes: The nodes by their place among the fields of the graph, in topological order.
        readers: Places of the nodes that read a tensor, by its name. One that reads it twice is there twice.
        outputs: Names of the outputs of the graph.
    """

    def __init__(self, parts: list[Field]) -> None:
        """Parses a graph.

        Raises:
            ValueError: If it is not a graph, or its nodes are not in topological order.
        """
        self.nodes = {index: Node(part) for index, part in enumerate(parts) if part.number == GRAPH_NODE}
        inputs = {value_name(part): value_shape(part) for part in parts if part.number == GRAPH_INPUT}
        self.outputs = {value_name(part) for part in parts if part.number == GRAPH_OUTPUT}
        tensors = (Tensor.read(part.data) for part in parts if part.number == GRAPH_INITIALIZER)
        # The value of an initializer that is also an input is only a default.
        self._constants = {tensor.name: tensor for tensor in tensors if tensor.name and tensor.name not in inputs}
        self.makers: dict[str, int] = {}
        self.readers: dict[str, list[int]] = {}
        self._shapes: dict[str, Shape] = {}
        self._lists: dict[str, tuple[Side | None, ...]] = {}
        for name, sides in inputs.items():
            if sides is not None and len(sides) == 4:
                known = [Extent((name, axis)) if side is None else side for axis, side in enumerate(sides)]
                self._shapes[name] = Shape(*known)
        for index, node in self.nodes.items():
            for name in node.inputs:
                self.readers.setdefault(name, []).append(index)
            for name in filter(None, node.outputs):
                if name in self.makers or name in self.readers:
                    raise ValueError(f"the tensor {name!r} is made twice, or read before it is made")
                self.makers[name] = index
            self._learn(node)

    # -- tensors -------------------------------------------------------------------------------------------------------

    def maker(self, name: str) -> Node | None:
        """Returns the node that makes a tensor."""
        return self.nodes.get(self.makers.get(name, -1))

    def lone_reader(self, name: str, *kinds: str) -> int | None:
        """Returns the place of the only reader of a tensor, if it is one of these operators of ONNX."""
        readers = self.readers.get(name, [])
        if len(readers) != 1 or name in self.outputs:
            return None
        return readers[0] if self.nodes[readers[0]].is_standard(*kinds) else None

    def is_only_for(self, index: int, readers: Collection[int]) -> bool:
        """Returns whether nothing but some nodes, by their places, needs what a node makes, directly or indirectly."""
        waiting, seen = [index], {index}
        while waiting:
            node = self.nodes[waiting.pop()]
            followers = {reader for name in node.outputs for reader in self.readers.get(name, ())} - set(readers)
            if len(seen) > _REACH or not self.outputs.isdisjoint(node.outputs):
                return False
            waiting += followers - seen
            seen |= followers
        return True

    def constant(self, name: str) -> Tensor | None:
        """Returns a tensor that never changes and whose values are in the file: an initializer, Constant, or copy."""
        found = self._constants.get(name)
        return found if found is not None and found.content is not None else None

    def floats(self, name: str) -> Floats | None:
        """Returns the values of a constant that is float32."""
        found = self.constant(name)
        return found.floats() if found is not None and found.is_float else None

    def scalar(self, name: str) -> float | None:
        """Returns the value of a float32 constant with one value."""
        values = self.floats(name)
        return float(values.reshape(-1)[0]) if values is not None and values.size == 1 else None

    def uncoded(self, name: str) -> str:
        """Returns the tensor that a tensor is a copy of, up to rounding to codes and back."""
        while (node := self.maker(name)) is not None and node.is_standard("QuantizeLinear", "DequantizeLinear"):
            name = node.inputs[0]
        return name

    # -- shapes --------------------------------------------------------------------------------------------------------

    def shape(self, name: str) -> Shape | None:
        """Returns the shape of a tensor, or None if it is not known to have four dimensions."""
        return self._shapes.get(name)

    def sides(self, name: str) -> tuple[Side | None, ...] | None:
        """Returns the values of a short list of integers, such as the sizes of a Resize, or None if it is not known."""
        return self._lists.get(name)

    def _image(self, name: str) -> Shape:
        """Returns the shape of a tensor that has four dimensions."""
        return self._shapes.setdefault(name, Shape(*(Extent((name, axis)) for axis in range(4))))

    def _learn(self, node: Node) -> None:
        """Finds out what is known of the output of a node."""
        if node.is_standard("Constant", "Identity"):
            self._learn_constant(node)
        self._learn_list(node)
        shape = self._output_shape(node)
        if shape is not None:
            self._shapes[node.outputs[0]] = shape

    def _learn_constant(self, node: Node) -> None:
        found = node.tensor("value") if node.type == "Constant" else self._constants.get(node.inputs[0])
        if found is not None:
            self._constants[node.outputs[0]] = found

    def _output_shape(self, node: Node) -> Shape | None:
        if node.is_standard("Conv") and len(node.inputs) > 1:
            decoded = self.maker(node.inputs[1])  # Weights in 8 bits.
            coded = decoded is not None and decoded.is_standard("DequantizeLinear")
            weights = self._constants.get(decoded.inputs[0] if decoded is not None and coded else node.inputs[1])
            if weights is not None and len(weights.shape) == 4:
                return self._walked(node, (weights.shape[2], weights.shape[3]), weights.shape[0])
        elif node.is_standard("MaxPool", "AveragePool") and node.input(0) in self._shapes:
            kernel = node.integers("kernel_shape", ())
            return self._walked(node, (kernel[0], kernel[1]), None) if len(kernel) == 2 else None
        elif node.is_standard(*_KEEPS_SHAPE):
            return self._shapes.get(node.inputs[0])
        elif node.is_standard(*_BROADCASTS) and len(node.inputs) == 2:
            return self._sum_shape(node)
        elif node.is_standard("Resize", "Upsample"):
            return self._resized(node)
        elif node.is_standard("Concat"):
            return self._concatenated(node)
        return None

    def _walked(self, node: Node, kernel: tuple[int, int], channels: int | None) -> Shape | None:
        shape, walk = self._image(node.inputs[0]), window(node, kernel)
        if walk is None:
            return None
        return Shape(
            shape.batch,
            shape.channels if channels is None else channels,
            walk.output(shape.height, 0),
            walk.output(shape.width, 1),
        )

    def _sum_shape(self, node: Node) -> Shape | None:
        one, other = (self._shapes.get(name) for name in node.inputs)
        if one is not None and one == other:
            return one
        for name, shape in ((node.inputs[1], one), (node.inputs[0], other)):
            constant = self.constant(name)
            if shape is not None and constant is not None and is_per_channel(constant.shape, shape.channels):
                return shape
        # Of a feature pyramid with fixed factors. `blocked_steps.upsampling` says when that is certain.
        makers = [self.maker(self.uncoded(name)) for name in node.inputs]
        for shape, maker in ((one, makers[1]), (other, makers[0])):
            if shape is not None and maker is not None and maker.is_standard("Resize", "Upsample"):
                return shape
        return None

    def _resized(self, node: Node) -> Shape | None:
        sizes = self._lists.get(node.input(3)) if node.type == "Resize" else None
        if sizes is None or len(sizes) != 4 or node.has("axes"):
            return None
        return Shape(*(Extent((node.outputs[0], axis)) if side is None else side for axis, side in enumerate(sizes)))

    def _concatenated(self, node: Node) -> Shape | None:
        shapes = [self._shapes.get(name) for name in node.inputs]
        channels = [shape.channels for shape in shapes if shape is not None and isinstance(shape.channels, int)]
        first = shapes[0]
        if node.integer("axis", 0) not in (1, -3) or first is None or len(channels) != len(shapes):
            return None
        return Shape(first.batch, sum(channels), first.height, first.width)

    # -- lists of sides ------------------------------------------------------------------------------------------------

    def _learn_list(self, node: Node) -> None:
        if not node.outputs or len(node.outputs) != 1:
            return
        output = node.outputs[0]
        constant = self._constants.get(output)
        if constant is not None:
            found = self._constant_list(constant)
        elif node.is_standard("Shape") and node.inputs[0] in self._shapes:
            every = self._shapes[node.inputs[0]].sides()
            found = every[node.integer("start", 0) : node.integer("end", len(every))]
        elif node.is_standard(*_EDITS_LIST):
            found = self._edited_list(node)
        else:
            return
        if found is not None and len(found) <= _MAX_LIST:
            self._lists[output] = found

    def _list(self, name: str) -> tuple[Side | None, ...] | None:
        found = self._lists.get(name)
        if found is None and name in self._constants:
            found = self._constant_list(self._constants[name])
        return found

    @staticmethod
    def _constant_list(tensor: Tensor) -> tuple[Side | None, ...] | None:
        if tensor.content is None or tensor.type not in (np.int32, np.int64) or len(tensor.shape) > 1:
            return None
        values: npt.NDArray[np.generic] = tensor.values().reshape(-1)
        return tuple(int(value) for value in values.tolist()) if values.size <= _MAX_LIST else None

    def _edited_list(self, node: Node) -> tuple[Side | None, ...] | None:
        lists = [self._list(name) for name in node.inputs]
        first = lists[0]
        if node.type == "Concat":
            return tuple(side for each in lists for side in each) if None not in lists else None  # type: ignore[union-attr]
        if first is None:
            return None
        if node.type in ("Add", "Sub", "Div"):
            return self._calculated(node, lists)
        if node.type == "Slice":
            return self._sliced(node, first, lists)
        if node.type == "Gather":
            indices = lists[1] if len(lists) > 1 else None
            if indices is None or node.integer("axis", 0) != 0:
                return None
            picked = [index for index in indices if isinstance(index, int) and -len(first) <= index < len(first)]
            return tuple(first[index] for index in picked) if len(picked) == len(indices) else None
        if node.type == "Cast":
            return first if node.integer("to", 0) in (6, 7) else None
        return first  # Unsqueeze, Squeeze, Identity, and Reshape do not change the values.

    @staticmethod
    def _calculated(node: Node, lists: list[tuple[Side | None, ...] | None]) -> tuple[Side | None, ...] | None:
        """Follows what exporters calculate with a single side and a constant."""
        sides = [each[0] if each is not None and len(each) == 1 else None for each in lists]
        if len(sides) != 2:
            return None
        if node.type == "Add" and isinstance(sides[0], int):
            sides.reverse()
        side, constant = sides
        if side is None or not isinstance(constant, int):
            return None
        if node.type == "Div":
            return (divided(side, 0, constant),) if constant > 0 else None
        return (divided(side, constant if node.type == "Add" else -constant, 1),)

    @staticmethod
    def _sliced(
        node: Node, first: tuple[Side | None, ...], lists: list[tuple[Side | None, ...] | None]
    ) -> tuple[Side | None, ...] | None:
        bounds: list[tuple[Side | None, ...] | None] = lists[1:]
        if len(node.inputs) == 1:  # Before opset 10.
            bounds = [node.integers("starts", ()), node.integers("ends", ()), node.integers("axes", (0,))]
        values = [bound[0] if bound is not None and len(bound) == 1 else None for bound in bounds]
        start, end, axis, step = (*values, *(None,) * 4)[:4]
        missing = [len(bounds) > index and bounds[index] is None and node.input(index + 1) != "" for index in (2, 3)]
        if not isinstance(start, int) or not isinstance(end, int) or any(missing):
            return None
        return first[start:end] if axis in (None, 0) and step in (None, 1) else None


def divided(side: Side, add: int, step: int) -> Side:
    """Returns floor((side + add) / step)."""
    if isinstance(side, int):
        return (side + add) // step
    return Extent(side.root, side.add + side.step * add, side.step * step)


def window(node: Node, kernel: tuple[int, int]) -> Window | None:
    """Returns how a Conv or a pooling walks over its input, or None if it is dilated or rounds the size up."""
    strides = node.integers("strides", (1, 1))
    plain = node.integers("dilations", (1, 1)) == (1, 1) and node.integer("ceil_mode", 0) == 0
    if not plain or len(strides) != 2 or min(*strides, *kernel) < 1:
        return None
    padding = node.string("auto_pad", "NOTSET")
    both = (strides[0], strides[1])
    if padding == "VALID":
        return Window(kernel, both, (0, 0, 0, 0), False)
    if padding in ("SAME_UPPER", "SAME_LOWER"):
        return Window(kernel, both, _same_pads(kernel, both, upper=padding == "SAME_UPPER"), True)
    pads = node.integers("pads", (0, 0, 0, 0))
    if padding not in ("NOTSET", "") or len(pads) != 4 or min(pads) < 0:
        return None
    return Window(kernel, both, (pads[0], pads[1], pads[2], pads[3]), False)


def _same_pads(kernel: tuple[int, int], strides: tuple[int, int], *, upper: bool) -> tuple[int, int, int, int] | None:
    if any(stride != 1 and side != 1 for side, stride in zip(kernel, strides, strict=True)):
        return None
    less, more = ([(side - 1) // 2 for side in kernel], [side // 2 for side in kernel])
    first, last = (less, more) if upper else (more, less)
    return first[0], first[1], last[0], last[1]


def is_per_channel(shape: tuple[int, ...], channels: Side) -> bool:
    """Returns whether a constant of that shape has a value for each channel, or one for all, of an image."""
    padded = (1,) * (4 - len(shape)) + shape
    return len(padded) == 4 and padded[0] == padded[2] == padded[3] == 1 and padded[1] in (1, channels)


def known_size(side: Side, roots: Mapping[tuple[str, int], int]) -> int | None:
    """Returns the value of a side if the roots have these sizes, or None if its own root is not among them."""
    if isinstance(side, int):
        return side
    root = roots.get(side.root)
    return None if root is None else max(0, (root + side.add) // side.step)
