"""An ONNX graph to look things up in: who makes a tensor, who uses it, what is constant, what leads where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

from retinasdk._util.lazy import require
from retinasdk.convert.importing.loading import names_used

if TYPE_CHECKING:
    import numpy.typing as npt

_SAME_VALUE = frozenset({"Identity", "Cast"})
# Their outputs depend on a tensor's shape alone, so that no pixel passes through them.
_SHAPE_ONLY = frozenset({"Shape", "Size", "ConstantOfShape"})


class GraphView:
    """Nodes are named by their index in graph.node, tensors by their name."""

    def __init__(self, model: Any) -> None:
        self._onnx = require("onnx", "importing ONNX models")
        self.model = model
        self.nodes = list(model.graph.node)
        self.producer = {name: index for index, node in enumerate(self.nodes) for name in node.output if name}
        self.initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self.inputs = [item for item in model.graph.input if item.name not in self.initializers]
        self.outputs = [item.name for item in model.graph.output]
        self.opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
        self._inner_constants = {
            node.output[0]: node for outer in self.nodes for node in inner_nodes(outer) if node.op_type == "Constant"
        }
        self._needs = [list(dict.fromkeys(names_used(node))) for node in self.nodes]
        self._users: dict[str, list[int]] = {}
        for index, names in enumerate(self._needs):
            for name in names:
                self._users.setdefault(name, []).append(index)

    def users(self, tensor: str) -> list[int]:
        return self._users.get(tensor, [])

    def needs(self, index: int) -> list[str]:
        """Tensors that a node needs, also inside its inner graphs."""
        return self._needs[index]

    @cached_property
    def _inferred(self) -> dict[str, Any]:
        try:
            model = self._onnx.shape_inference.infer_shapes(self.model)
        except Exception:  # a contradiction somewhere in it; what is written in the file has to do
            model = self.model
        graph = model.graph
        return {item.name: item.type.tensor_type for item in (*graph.value_info, *graph.input, *graph.output)}

    def shape(self, tensor: str) -> list[int | None] | None:
        """Dimensions as far as they are known; None: not even the rank."""
        if tensor in self.initializers:
            return list(self.initializers[tensor].dims)
        known = self._inferred.get(tensor)
        if known is None or not known.HasField("shape"):
            return None
        return [item.dim_value if item.HasField("dim_value") else None for item in known.shape.dim]

    def element_type(self, tensor: str) -> int:
        """onnx.TensorProto's number of the type; 0: unknown."""
        if tensor in self.initializers:
            return int(self.initializers[tensor].data_type)
        known = self._inferred.get(tensor)
        return 0 if known is None else int(known.elem_type)

    def constant(self, tensor: str) -> npt.NDArray[Any] | None:
        """The value of an initializer or a Constant, also behind Identity and Cast; None: it is no constant."""
        while tensor not in self.initializers:
            if tensor in self.producer:
                node = self.nodes[self.producer[tensor]]
            elif tensor in self._inner_constants:
                node = self._inner_constants[tensor]
            else:
                return None
            if node.op_type == "Constant":
                return self._value_of(node)
            if node.op_type not in _SAME_VALUE:
                return None
            tensor = node.input[0]
        values: npt.NDArray[Any] = self._onnx.numpy_helper.to_array(self.initializers[tensor])
        return values

    def _value_of(self, node: Any) -> npt.NDArray[Any] | None:
        import numpy as np

        attribute = node.attribute[0]
        value = self._onnx.helper.get_attribute_value(attribute)
        if attribute.name == "value":
            values: npt.NDArray[Any] = self._onnx.numpy_helper.to_array(value)
            return values
        return (
            np.asarray(value) if attribute.name in ("value_float", "value_int", "value_floats", "value_ints") else None
        )

    def attribute(self, index: int, name: str, default: Any = None) -> Any:
        for attribute in self.nodes[index].attribute:
            if attribute.name == name:
                return self._onnx.helper.get_attribute_value(attribute)
        return default

    def before(self, tensors: Iterable[str], *, stop: Collection[str] = ()) -> set[int]:
        """Nodes that are needed for the tensors, up to and without those that make the tensors in `stop`."""
        found: set[int] = set()
        pending = [name for name in tensors if name not in stop]
        while pending:
            index = self.producer.get(pending.pop())
            if index is not None and index not in found:
                found.add(index)
                pending += [name for name in self._needs[index] if name not in stop]
        return found

    def after(self, tensors: Iterable[str], *, through: Callable[[int], bool] = lambda _: True) -> set[int]:
        """Nodes that the tensors reach; the way goes on behind a node only if `through` says so."""
        found: set[int] = set()
        pending = [index for name in tensors for index in self.users(name)]
        while pending:
            index = pending.pop()
            if index not in found:
                found.add(index)
                if through(index):
                    pending += [user for name in self.nodes[index].output for user in self.users(name)]
        return found

    @cached_property
    def pixels(self) -> set[str]:
        """Tensors that hold something computed from values of the network's inputs, and not of their shapes alone."""
        found = {item.name for item in self.inputs}
        for index, node in enumerate(self.nodes):
            if node.op_type not in _SHAPE_ONLY and any(name in found for name in self._needs[index]):
                found.update(name for name in node.output if name)
        return found

    def pixel_input(self, index: int) -> str | None:
        """The first input of a node that holds pixels."""
        return next((name for name in self._needs[index] if name in self.pixels), None)

    def name_of(self, index: int) -> str:
        node = self.nodes[index]
        return str(node.name or node.output[0])


def inner_nodes(node: Any) -> Iterator[Any]:
    """Nodes of the graphs inside a node: the branches of an If, the body of a Loop."""
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield inner
                yield from inner_nodes(inner)


def count_ops(nodes: Iterable[Any]) -> Counter[str]:
    """How many of which operator, inner graphs included."""
    return Counter(item.op_type for node in nodes for item in (node, *inner_nodes(node)))
