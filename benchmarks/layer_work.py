"""Counts multiplications and bytes of the operators that run, from the model's ONNX graph by shape inference.

An operator of retinasdk does the work of several nodes of the model. Tensors between operators keep the names that they
have in the model, perhaps with something added. So an operator does the nodes between its inputs and its outputs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import onnx

STEM, WINOGRAD, DEPTHWISE, HEADS = "first layer", "3x3, Winograd", "depthwise blocks", "heads"
POINTWISE, DIRECT, CONVERSIONS, OTHER = "1x1", "other convolutions", "conversions of layout", "other operators"
KINDS = (STEM, POINTWISE, WINOGRAD, DIRECT, DEPTHWISE, HEADS, OTHER, CONVERSIONS)

_FLOAT_BYTES = 4
_CONVERTING = ("ToBlocked", "FromBlocked", "ReorderInput", "ReorderOutput")


@dataclass(frozen=True)
class Work:
    """What an operator has to do.

    Attributes:
        kind: One of `KINDS`.
        layers: Names of the convolutions of the model that it does.
        direct: Multiplications with addition by the definition of a convolution.
        computed: Those of the algorithm that runs: fewer, where it is Winograd's.
        bytes: Of the weights, inputs and outputs, each moved once.
    """

    kind: str
    layers: tuple[str, ...]
    direct: int
    computed: int
    bytes: int


class Model:
    """The convolutions and shapes of a model, for one size of its input."""

    def __init__(self, model: onnx.ModelProto, shape: Iterable[int]) -> None:
        """Infers all shapes. `shape` is that of the input, (1, 3, height, width)."""
        sized = onnx.ModelProto()
        sized.CopyFrom(model)
        (given,) = [value for value in sized.graph.input if value.type.tensor_type.shape.dim]
        for side, value in zip(given.type.tensor_type.shape.dim, shape, strict=True):
            side.dim_value = value
        for value in sized.graph.output:
            value.type.tensor_type.ClearField("shape")
        graph = onnx.shape_inference.infer_shapes(sized, data_prop=True, strict_mode=True).graph
        tensors = [*graph.input, *graph.value_info, *graph.output]
        self._shapes: dict[str, list[int]] = {
            one.name: [side.dim_value for side in one.type.tensor_type.shape.dim] for one in tensors
        }
        self._weights: dict[str, list[int]] = {one.name: list(one.dims) for one in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output}
        self._input = given.name
        self._uses = Counter(node.input[1] for node in self.convolutions())

    def convolutions(self) -> Iterator[onnx.NodeProto]:
        """The convolutions of the model."""
        for name, node in self._makers.items():
            if node.op_type == "Conv" and node.output[0] == name:
                yield node

    def work(self, node: onnx.NodeProto) -> Work:
        """The work of an operator of a graph that was made from the model."""
        outputs = {origin for name in node.output if (origin := self._origin(name)) is not None}
        sources = {origin for name in node.input if (origin := self._origin(name)) is not None}
        if node.op_type in _CONVERTING or not outputs or outputs & sources:
            moved = sum(self._bytes(name) for name in outputs or list(sources)[:1])
            return Work(CONVERSIONS if node.op_type in _CONVERTING else OTHER, (), 0, 0, 2 * moved)
        layers = [one for one in self._between(sources, outputs) if one.op_type == "Conv"]
        is_winograd = "Winograd" in node.op_type
        patch = next((one.i for one in node.attribute if one.name == "patch"), 0) or 4
        computed = sum(self._winograd(one, patch) if is_winograd else self.direct(one) for one in layers)
        # The levels of a pyramid read the same weights.
        weights = sum(math.prod(self._weights[name]) for name in {one.input[1] for one in layers})
        if is_winograd:
            weights = weights * (patch + 2) ** 2 // 9
        moved = sum(map(self._bytes, sources | outputs)) + _FLOAT_BYTES * weights
        kind = self._kind(layers, is_winograd=is_winograd)
        names = tuple(one.name or one.output[0] for one in layers)
        return Work(kind, names, sum(map(self.direct, layers)), computed, moved)

    def _origin(self, name: str) -> str | None:
        """The tensor of the model after which a tensor is named."""
        if name in self._shapes:
            return name
        named = [own for own in self._shapes if own and name.startswith(own)]
        return max(named, key=len, default=None)

    def _between(self, sources: set[str], outputs: set[str]) -> Iterator[onnx.NodeProto]:
        """The nodes that make tensors from others."""
        waiting, seen = sorted(outputs), set(sources)
        while waiting:
            name = waiting.pop()
            if name in seen or name not in self._makers:
                continue
            seen.add(name)
            yield self._makers[name]
            waiting += self._makers[name].input

    def direct(self, layer: onnx.NodeProto) -> int:
        """The multiplications of a convolution of the model, by definition."""
        height, width = self._shapes[layer.output[0]][2:]
        return math.prod(self._weights[layer.input[1]]) * height * width

    def _winograd(self, layer: onnx.NodeProto, patch: int) -> int:
        height, width = self._shapes[layer.output[0]][2:]
        tiles = math.ceil(height / patch) * math.ceil(width / patch)
        return tiles * (patch + 2) ** 2 * math.prod(self._weights[layer.input[1]][:2])

    def _bytes(self, name: str) -> int:
        return _FLOAT_BYTES * math.prod(self._shapes[name])

    def _kind(self, layers: list[Any], *, is_winograd: bool) -> str:
        if not layers:
            return OTHER
        kernels = [self._weights[layer.input[1]] for layer in layers]
        # The levels of a pyramid share the weights of the heads.
        if any(self._uses[layer.input[1]] > 1 for layer in layers):
            return HEADS
        if any(layer.input[0] == self._input for layer in layers):
            return STEM
        if any(one.i > 1 for layer in layers for one in layer.attribute if one.name == "group"):
            return DEPTHWISE
        if is_winograd:
            return WINOGRAD
        return POINTWISE if all(kernel[2:] == [1, 1] for kernel in kernels) else DIRECT
