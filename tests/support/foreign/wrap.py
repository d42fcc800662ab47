"""Builds graphs around the tiny test network: nodes before it and after it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from random_retinanet import random_retinanet

LEVELS = range(3, 8)
ANCHORS = 9


class Wrapped:
    """A graph that starts as the tiny network, from the tensor `self.images` to `self.logits` and `self.deltas`.

    `network` is the network alone: what an import has to return.
    """

    def __init__(self, classes: int = 3, *, seed: int = 0, deltas_gain: float = 1.0) -> None:
        self.classes = classes
        self.network = random_retinanet(classes=classes, seed=seed)[0]
        if deltas_gain != 1.0:
            self._scale_deltas(deltas_gain)
        self.nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in self.network.graph.node]
        self.weights = list(self.network.graph.initializer)
        self.images = "images"
        self.logits = [f"logits_p{level}" for level in LEVELS]
        self.deltas = [f"deltas_p{level}" for level in LEVELS]
        self._at = len(self.nodes)
        self._count = 0

    def _scale_deltas(self, gain: float) -> None:
        last = {node.input[1] for node in self.network.graph.node if node.output[0].startswith("deltas_")}
        for tensor in self.network.graph.initializer:
            if tensor.name in last:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(gain), tensor.name))

    def before(self) -> None:
        """Inserts the following nodes before the network."""
        self._at = 0

    def behind(self) -> None:
        """Appends the following nodes after the network."""
        self._at = len(self.nodes)

    def constant(self, values: npt.ArrayLike, name: str | None = None) -> str:
        """Adds an initializer. Python integers become int64, floats float32."""
        array = np.asarray(values)
        array = array.astype({"i": np.int64, "f": np.float32, "u": array.dtype}[array.dtype.kind])
        self._count += 1
        self.weights.append(numpy_helper.from_array(array, name or f"constant_{self._count}"))
        return self.weights[-1].name

    def op(
        self, kind: str, *inputs: str, outputs: int = 1, name: str = "", domain: str = "", **attributes: object
    ) -> str:
        """Adds a node at the current position and returns the name of its first output (_0 if there are more)."""
        self._count += 1
        stem = f"{kind.lower()}_{self._count}"
        made = [stem] if outputs == 1 else [f"{stem}_{index}" for index in range(outputs)]
        node = helper.make_node(kind, list(inputs), made, name=name or stem, domain=domain, **attributes)
        self.nodes.insert(self._at, node)
        self._at += 1
        return made[0]

    def feed(self, tensor: str) -> None:
        """Makes `tensor` the input of the network."""
        for node in self.nodes:
            if node.output[0] != tensor:
                node.input[:] = [tensor if name == self.images else name for name in node.input]
        self.images = tensor

    def model(
        self,
        inputs: Sequence[tuple[str, int, Sequence[int | str]]] = (("images", TensorProto.FLOAT, ("N", 3, "H", "W")),),
        outputs: Sequence[str] | None = None,
        *,
        opset: int = 17,
        producer: str = "pytorch",
        domains: Sequence[str] = (),
    ) -> onnx.ModelProto:
        made = outputs or [*self.logits, *self.deltas]
        graph = helper.make_graph(
            self.nodes,
            "main_graph",
            [helper.make_tensor_value_info(*item) for item in inputs],
            [onnx.ValueInfoProto(name=name) for name in made],
            self.weights,
        )
        opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name=producer)


def flat(wrapped: Wrapped, tensor: str, each: int, *, by_value: bool = False) -> str:
    """Reshapes (N, A * each, h, w) to (N, h * w * A, each), as most PyTorch code does."""
    split, turn = ([0, each, ANCHORS], [0, 3, 4, 2, 1]) if by_value else ([0, ANCHORS, each], [0, 3, 4, 1, 2])
    sides = wrapped.op(
        "Slice", wrapped.op("Shape", tensor), wrapped.constant([2]), wrapped.constant([4]), wrapped.constant([0])
    )
    batch = wrapped.op(
        "Slice", wrapped.op("Shape", tensor), wrapped.constant([0]), wrapped.constant([1]), wrapped.constant([0])
    )
    shape = wrapped.op("Concat", batch, wrapped.constant(split[1:]), sides, axis=0)
    moved = wrapped.op("Transpose", wrapped.op("Reshape", tensor, shape), perm=turn)
    return wrapped.op("Reshape", moved, wrapped.constant([0, -1, each]))
