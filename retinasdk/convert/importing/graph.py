"""Read-only queries on an ONNX graph: producers and consumers of tensors, constants, shapes, ancestors."""

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
_AXES = frozenset({"Unsqueeze", "Squeeze"})  # Exports without constant folding compute constants with these.
# The outputs of these operators depend on the shape of their input only: no pixel value passes through them.
_SHAPE_ONLY = frozenset({"Shape", "Size", "ConstantOfShape"})


class GraphView:
    """An ONNX graph with indices for fast queries. Nodes are identified by their index, tensors by their name.

    Attributes:
        model: The onnx.ModelProto.
        nodes: Nodes of the graph, in topological order.
        producer: Index of the node that computes a tensor, by tensor name.
        initializers: Constant tensors that are stored in the graph, by name.
        inputs: Inputs of the graph, without initializers.
        outputs: Names of the graph's outputs.
        opset: Version of the ONNX operator set.
    """

    def __init__(self, model: Any) -> None:
        self._onnx = require("onnx", "importing ONNX models")
        self.model = model
        self.nodes = list(model.graph.node)
        self.producer = {name: index for index, node in enumerate(self.nodes) for name in node.output if name}
        self.initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self.inputs = [item for item in model.graph.input if item.name not in self.initializers]
        self.outputs = [item.name for item in model.graph.output]
        self.opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
        inner = [node for outer in self.nodes for node in inner_nodes(outer)]
        self._inner_producer = {name: node for node in inner for name in node.output if name}
        self._stored = {
            **{
                tensor.name: tensor
                for node in self.nodes
                for graph in inner_graphs(node)
                for tensor in graph.initializer
            },
            **self.initializers,
        }
        self._node_inputs = [list(dict.fromkeys(names_used(node))) for node in self.nodes]
        self._consumers: dict[str, list[int]] = {}
        for index, names in enumerate(self._node_inputs):
            for name in names:
                self._consumers.setdefault(name, []).append(index)

    def consumers(self, tensor: str) -> list[int]:
        """Returns the nodes that read a tensor."""
        return self._consumers.get(tensor, [])

    def producing_node(self, tensor: str) -> Any:
        """Returns the node that computes a tensor, also inside a branch or a loop; None if there is none."""
        index = self.producer.get(tensor)
        return self._inner_producer.get(tensor) if index is None else self.nodes[index]

    def inputs_of(self, index: int) -> list[str]:
        """Returns the tensors that a node reads, including those that only its inner graphs read."""
        return self._node_inputs[index]

    @cached_property
    def _inferred(self) -> dict[str, Any]:
        try:
            model = self._onnx.shape_inference.infer_shapes(self.model)
        except Exception:  # The graph contradicts itself somewhere; only the shapes written in the file remain.
            model = self.model
        graph = model.graph
        return {item.name: item.type.tensor_type for item in (*graph.value_info, *graph.input, *graph.output)}

    def shape(self, tensor: str) -> list[int | None] | None:
        """Returns the dimensions of a tensor; unknown ones are None. Returns None if even the rank is unknown."""
        if tensor in self.initializers:
            return list(self.initializers[tensor].dims)
        known = self._inferred.get(tensor)
        if known is None or not known.HasField("shape"):
            return None
        return [item.dim_value if item.HasField("dim_value") else None for item in known.shape.dim]

    def element_type(self, tensor: str) -> int:
        """Returns the element type of a tensor as a number of onnx.TensorProto; 0 if unknown."""
        if tensor in self.initializers:
            return int(self.initializers[tensor].data_type)
        known = self._inferred.get(tensor)
        return 0 if known is None else int(known.elem_type)

    def constant(self, tensor: str) -> npt.NDArray[Any] | None:
        """Returns the value of a constant tensor; None if it is not constant.

        A constant may pass through Identity, Cast, Unsqueeze and Squeeze.
        """
        reshaping: list[Any] = []
        values = self._stored_constant(tensor, reshaping)
        for node in reversed(reshaping if values is not None else []):
            values = self._with_other_axes(node, values)
        return values

    def _stored_constant(self, tensor: str, reshaping: list[Any]) -> npt.NDArray[Any] | None:
        """Returns the stored value that a tensor comes from, and adds the nodes that change its axes to `reshaping`."""
        while tensor not in self._stored:
            node = self.producing_node(tensor)
            if node is None:
                return None
            if node.op_type == "Constant":
                return self._value_of(node)
            if node.op_type in _AXES:
                reshaping.append(node)
            elif node.op_type not in _SAME_VALUE:
                return None
            tensor = node.input[0]
        values: npt.NDArray[Any] = self._onnx.numpy_helper.to_array(self._stored[tensor])
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

    def _with_other_axes(self, node: Any, values: Any) -> npt.NDArray[Any] | None:
        import numpy as np

        if len(node.input) > 1:  # An input since opset 13, an attribute before.
            axes = self.constant(node.input[1])
        else:
            axes = next((np.asarray(item.ints) for item in node.attribute if item.name == "axes"), np.empty(0, int))
        if axes is None or values is None:
            return None
        chosen = tuple(axes.reshape(-1).tolist())
        changed: npt.NDArray[Any] = (
            np.expand_dims(values, chosen) if node.op_type == "Unsqueeze" else np.squeeze(values, chosen or None)
        )
        return changed

    def attribute(self, index: int, name: str, default: Any = None) -> Any:
        """Returns the value of a node's attribute, or `default` if the node does not have it."""
        for attribute in self.nodes[index].attribute:
            if attribute.name == name:
                return self._onnx.helper.get_attribute_value(attribute)
        return default

    def ancestors(self, tensors: Iterable[str], *, stop: Collection[str] = ()) -> set[int]:
        """Returns the nodes that the tensors depend on. The search does not go beyond the tensors in `stop`."""
        found: set[int] = set()
        pending = [name for name in tensors if name not in stop]
        while pending:
            index = self.producer.get(pending.pop())
            if index is not None and index not in found:
                found.add(index)
                pending += [name for name in self._node_inputs[index] if name not in stop]
        return found

    def descendants(self, tensors: Iterable[str], *, through: Callable[[int], bool] = lambda _: True) -> set[int]:
        """Returns the nodes that depend on the tensors. The search continues after a node only if `through(node)`."""
        found: set[int] = set()
        pending = [index for name in tensors for index in self.consumers(name)]
        while pending:
            index = pending.pop()
            if index not in found:
                found.add(index)
                if through(index):
                    pending += [user for name in self.nodes[index].output for user in self.consumers(name)]
        return found

    @cached_property
    def pixel_tensors(self) -> set[str]:
        """Tensors whose values depend on the values of the graph's inputs, and not only on their shapes."""
        found = {item.name for item in self.inputs}
        for index, node in enumerate(self.nodes):
            if node.op_type not in _SHAPE_ONLY and any(name in found for name in self._node_inputs[index]):
                found.update(name for name in node.output if name)
        return found

    def pixel_input(self, index: int) -> str | None:
        """Returns the first input of a node that is in `pixel_tensors`, or None."""
        return next((name for name in self._node_inputs[index] if name in self.pixel_tensors), None)

    def node_label(self, index: int) -> str:
        """Returns a name for a node in messages: its own, or that of its first output."""
        node = self.nodes[index]
        return str(node.name or node.output[0])


def inner_graphs(node: Any) -> Iterator[Any]:
    """Yields the graphs inside a node, at every depth: the branches of an If, the body of a Loop."""
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            yield graph
            for inner in graph.node:
                yield from inner_graphs(inner)


def inner_nodes(node: Any) -> Iterator[Any]:
    """Yields the nodes of the graphs inside a node."""
    for graph in inner_graphs(node):
        yield from graph.node


def count_ops(nodes: Iterable[Any]) -> Counter[str]:
    """Counts the nodes of each operator, including those of inner graphs."""
    return Counter(item.op_type for node in nodes for item in (node, *inner_nodes(node)))
