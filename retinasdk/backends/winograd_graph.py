"""Replaces 3x3 convolutions of a graph by Winograd convolutions while the model is loaded.

The operators are implemented in `csrc/onnxruntime/ort_ops.cpp`; `csrc/convolution/winograd.h` describes the algorithm.
A Conv becomes `WinogradConv` if it is 3x3 with stride 1, padding 1 and one group, has constant float32 weights inside
the file, and has enough channels. A Relu behind it is fused into it. A 1x1 Conv next to it becomes `PointwiseConv`,
into which the Add of a residual block is fused as well: ONNX Runtime would reorder the channels in between, and run Add
and Relu separately. All other nodes are not changed.

Note: What is not rewritten

    A rewritten model is given to ONNX Runtime as bytes, and ONNX Runtime then looks for external data in the current
    folder: a file of the same name there would be used in place of the model's own. So a model with external data,
    wherever in it, is not rewritten. It is opened by its path, and ONNX Runtime finds the data in the model's folder.

    Neither are models with more fields than any RetinaNet has. Everything here is linear in the number of fields, and
    looks back from a node only over the length of a residual block.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from retinasdk._util.onnx_files import external_locations
from retinasdk._util.onnx_wire import Field, bytes_field, fields, integers, length_prefix, number_field

DOMAIN, WINOGRAD, POINTWISE = "retinasdk", "WinogradConv", "PointwiseConv"

# Convolutions with fewer channels take little of a RetinaNet's time.
_MIN_IN_CHANNELS, _MIN_OUT_CHANNELS = 64, 8
_MAX_BYTES = 1 << 31  # The limit of a protocol buffer.
_MAX_FIELDS = 1 << 16  # The largest RetinaNets have about 20,000.
# Number of nodes that are followed back from an Add to find the input of its residual block. Known blocks have up to 8.
_REACH = 32
# Of the operators that are followed.
_LEAST_INPUTS = {"Conv": 2, "Add": 2, "Relu": 1, "Identity": 1}

# Field numbers and values of onnx.proto.
_MODEL_GRAPH, _MODEL_OPSET = 7, 8
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 5, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 3, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_STRING, _ATTRIBUTE_GRAPH, _ATTRIBUTE_INTS = 1, 3, 4, 6, 8
_ATTRIBUTE_GRAPHS, _ATTRIBUTE_TYPE, _TYPE_INT = 11, 20, 2
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_LOCATION, _TENSOR_FLOAT = 1, 2, 8, 14, 1
_VALUE_NAME = 1


def library() -> Path | None:
    """Returns the path of the shared library with the operators, or None if it was not built."""
    folder = Path(__file__).parent.parent
    return next((path for name in ("_ort_ops.so", "_ort_ops.dll") if (path := folder / name).is_file()), None)


def rewritten(path: Path) -> tuple[bytes, int] | None:
    """Replaces the convolutions of a model file.

    Args:
        path: An ONNX file. It is not changed.

    Returns:
        The bytes of the new model and the number of replaced convolutions, or None if nothing can be replaced or the
        model has external data.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not an ONNX file, or has more fields than any RetinaNet.
    """
    if path.stat().st_size >= _MAX_BYTES:
        return None
    content = memoryview(path.read_bytes())
    if external_locations(content, max_fields=_MAX_FIELDS):
        return None
    model = list(fields(content))
    graphs = [part for part in model if part.number == _MODEL_GRAPH]
    if len(graphs) != 1:
        raise ValueError(f"an ONNX file must have one graph, got {len(graphs)}")
    rewritten_graph = _rewritten_graph(graphs[0].data)
    if rewritten_graph is None:
        return None
    graph, replaced = rewritten_graph
    opset = bytes_field(_OPSET_DOMAIN, DOMAIN.encode()) + number_field(_OPSET_VERSION, 1)
    others = [part.raw for part in model if part.number != _MODEL_GRAPH]
    size = sum(map(len, graph))
    return b"".join([*others, bytes_field(_MODEL_OPSET, opset), length_prefix(_MODEL_GRAPH, size), *graph]), replaced


class _Node:
    """A NodeProto, of which the attributes are parsed when they are needed."""

    def __init__(self, part: Field) -> None:
        self.raw = part.raw
        parts = list(fields(part.data))
        self.inputs = [item.text for item in parts if item.number == _NODE_INPUT]
        self.outputs = [item.text for item in parts if item.number == _NODE_OUTPUT]
        self.type = _text(parts, _NODE_TYPE)
        self.name = _text(parts, _NODE_NAME)
        self.domain = _text(parts, _NODE_DOMAIN)
        self._attributes = [item.data for item in parts if item.number == _NODE_ATTRIBUTE]
        least = _LEAST_INPUTS.get(self.type, 0)
        if len(self.inputs) < least or (least and len(self.outputs) != 1):
            raise ValueError(f"the node {self.name!r} ({self.type}) must have {least} inputs or more, and one output")

    def is_standard(self, kind: str) -> bool:
        return self.type == kind and self.domain in ("", "ai.onnx")

    @cached_property
    def has_subgraph(self) -> bool:
        subgraphs = (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS)
        return any(item.number in subgraphs for attribute in self._attributes for item in fields(attribute))

    @cached_property
    def attributes(self) -> dict[str, str | int | list[int]]:
        """The attributes that are strings, integers or lists of integers, by name."""
        found: dict[str, str | int | list[int]] = {}
        for attribute in self._attributes:
            parts = list(fields(attribute))
            name = _text(parts, _ATTRIBUTE_NAME)
            for item in parts:
                if item.number == _ATTRIBUTE_STRING:
                    found[name] = item.text
                elif item.number == _ATTRIBUTE_INT:
                    found[name] = integers(item)[0]
            listed = [value for item in parts if item.number == _ATTRIBUTE_INTS for value in integers(item)]
            if listed:
                found[name] = listed
        return found


@dataclass(frozen=True)
class _Tensor:
    """The properties of a TensorProto. `is_plain` means that it is float32 and stored in the file itself."""

    name: str
    shape: tuple[int, ...]
    is_plain: bool

    @classmethod
    def read(cls, message: memoryview) -> _Tensor:
        parts = list(fields(message))
        numbers = {item.number: item.value for item in parts if isinstance(item.value, int)}
        is_plain = numbers.get(_TENSOR_TYPE) == _TENSOR_FLOAT and not numbers.get(_TENSOR_LOCATION)
        shape = tuple(side for item in parts if item.number == _TENSOR_DIMS for side in integers(item))
        return cls(_text(parts, _TENSOR_NAME), shape, is_plain)


def _rewritten_graph(graph: memoryview) -> tuple[list[bytes | memoryview], int] | None:
    """Returns the fields of the graph with the convolutions replaced, and how many were replaced. None: none were."""
    parts = list(fields(graph))
    nodes = {index: _Node(part) for index, part in enumerate(parts) if part.number == _GRAPH_NODE}
    if any(node.has_subgraph for node in nodes.values()):
        return None  # A subgraph may read any tensor of this graph.
    tensors = (_Tensor.read(part.data) for part in parts if part.number == _GRAPH_INITIALIZER)
    # The value of an initializer that is also an input is only a default.
    inputs = {_text(list(fields(part.data)), _VALUE_NAME) for part in parts if part.number == _GRAPH_INPUT}
    weights = {tensor.name: tensor.shape for tensor in tensors if tensor.is_plain and tensor.name not in inputs}
    _see_through_identities(nodes.values(), weights)
    readers = Counter(name for node in nodes.values() for name in node.inputs)
    readers.update(_text(list(fields(part.data)), _VALUE_NAME) for part in parts if part.number == _GRAPH_OUTPUT)
    edit = _Edit(nodes, readers, weights)
    contents: dict[int, bytes | memoryview] = {index: part.raw for index, part in enumerate(parts)}
    for index in sorted(edit.replaced):
        contents[index] = edit.replaced[index]
    for index in edit.absorbed:
        del contents[index]
    return (list(contents.values()), len(edit.replaced)) if edit.replaced else None


def _see_through_identities(nodes: Iterable[_Node], weights: Container[str]) -> None:
    """Replaces the outputs of Identity nodes by the weights that they copy.

    PyTorch's exporter writes equal weights once and adds their other names with Identity nodes.
    """
    names: dict[str, str] = {}
    for node in nodes:  # Nodes are in topological order.
        node.inputs = [names.get(name, name) for name in node.inputs]
        if node.is_standard("Identity") and node.inputs[0] in weights:
            names[node.outputs[0]] = node.inputs[0]


class _Edit:
    """Plans the changes of the nodes: those that are `replaced`, by index, and those `absorbed` into a replaced one."""

    def __init__(self, nodes: dict[int, _Node], readers: Counter[str], weights: dict[str, tuple[int, ...]]) -> None:
        self.replaced: dict[int, bytes] = {}
        self.absorbed: set[int] = set()
        self._nodes = nodes
        self._readers = readers
        self._weights = weights
        self._makers = {name: index for index, node in nodes.items() for name in node.outputs}
        # By input. If a tensor has several readers, any of them: only single readers are used.
        self._reading = {name: index for index, node in nodes.items() for name in node.inputs}
        made, read = set(), set()
        for index, node in nodes.items():
            if self._is_conv(node, 3):
                last, relu = self._with_relu(index)
                self._replace(last, index, WINOGRAD, node.inputs, relu=relu)
                made.update(nodes[last].outputs)
                read.add(node.inputs[0])
        for index, node in nodes.items():
            if self._is_conv(node, 1):
                self._replace_pointwise(index, node, made, read)

    def _replace_pointwise(self, index: int, node: _Node, made: set[str], read: set[str]) -> None:
        """Replaces a 1x1 convolution next to a Winograd convolution: the channels in between need no reordering."""
        behind = node.inputs[0] in made
        added = self._addition(index) if behind else None
        last, relu = self._with_relu(index if added is None else added[0])
        if not behind and self._nodes[last].outputs[0] not in read:
            return
        bias = node.inputs[2] if len(node.inputs) > 2 else ""
        inputs = node.inputs if added is None else [*node.inputs[:2], bias, added[1]]
        self.absorbed.update({index} if added is None else {index, added[0]})
        self._replace(last, index, POINTWISE, inputs, relu=relu, residual=added is not None)

    def _replace(self, last: int, conv: int, kind: str, inputs: list[str], **attributes: bool) -> None:
        """Puts the new node in the place of the last node that it absorbs, so that all its inputs exist."""
        nodes = self._nodes
        self.replaced[last] = _operator(kind, nodes[conv].name, inputs, nodes[last].outputs, attributes)
        self.absorbed.add(conv)
        self.absorbed.discard(last)

    def _with_relu(self, index: int) -> tuple[int, bool]:
        relu = self._lone_reader(index, "Relu")
        return (index, False) if relu is None else (relu, True)

    def _addition(self, index: int) -> tuple[int, str] | None:
        """Returns the Add of a residual block behind the node, and its other input, which has the same shape."""
        add = self._lone_reader(index, "Add")
        if add is None:
            return None
        (own,) = self._nodes[index].outputs
        others = [name for name in self._nodes[add].inputs if name != own]
        return (add, others[0]) if len(others) == 1 and self._have_one_shape(own, others[0]) else None

    def _have_one_shape(self, one: str, other: str) -> bool:
        """Returns whether two tensors certainly have equal shapes: equal channels, one source, and equal strides."""
        channels = self._channels(one)
        if channels is None or channels != self._channels(other):
            return False
        return not self._sources(one).isdisjoint(self._sources(other))

    def _channels(self, name: str) -> int | None:
        """Returns the number of channels of a tensor, or None if it is unknown."""
        for _ in range(_REACH):
            node = self._maker(name)
            if node is None:
                return None
            if node.is_standard("Conv"):
                return self._weights.get(node.inputs[1], (None,))[0]
            if not (node.is_standard("Relu") or node.is_standard("Add")):
                return None
            # A sum has the channels of either input, unless one is broadcast. Convolutions do not produce such inputs.
            name = next((item for item in node.inputs if self._is_made_by_conv(item)), node.inputs[0])
        return None

    def _sources(self, name: str) -> set[tuple[str, tuple[int, ...]]]:
        """Returns the nearest tensors that a tensor is computed from, each with the strides in between."""
        found: dict[str, tuple[int, ...]] = {}
        strides: tuple[int, ...] = ()
        while name not in found and len(found) < _REACH:
            found[name] = strides
            node = self._maker(name)
            if node is not None and node.is_standard("Conv"):
                stride = node.attributes.get("strides", [1, 1])
                if not isinstance(stride, list) or not _is_padded(node, self._weights.get(node.inputs[1], ())):
                    break
                strides = strides if stride == [1, 1] else (*stride, *strides)
            elif node is None or not node.is_standard("Relu"):
                break
            name = node.inputs[0]
        return set(found.items())

    def _maker(self, name: str) -> _Node | None:
        return self._nodes.get(self._makers.get(name, -1))

    def _is_made_by_conv(self, name: str) -> bool:
        maker = self._maker(name)
        return maker is not None and maker.is_standard("Conv")

    def _lone_reader(self, index: int, kind: str) -> int | None:
        (output,) = self._nodes[index].outputs
        if self._readers[output] != 1 or output not in self._reading:
            return None
        reader = self._reading[output]
        taken = reader in self.absorbed or reader in self.replaced
        return reader if not taken and self._nodes[reader].is_standard(kind) else None

    def _is_conv(self, node: _Node, side: int) -> bool:
        weights = self._weights
        if not node.is_standard("Conv") or any(name not in weights for name in node.inputs[1:] if name):
            return False
        shape = weights.get(node.inputs[1], ())
        if len(shape) != 4 or shape[2:] != (side, side) or shape[0] < _MIN_OUT_CHANNELS or shape[1] < _MIN_IN_CHANNELS:
            return False
        attributes = node.attributes
        plain = attributes.get("group", 1) == 1 and attributes.get("strides", [1, 1]) == [1, 1]
        return plain and _is_padded(node, shape)


def _is_padded(conv: _Node, shape: tuple[int, ...]) -> bool:
    """Returns whether only the strides of a convolution change height and width. `shape` is that of its weights."""
    if len(shape) != 4 or shape[2] % 2 == 0 or shape[3] % 2 == 0:
        return False
    padding = conv.attributes.get("auto_pad", "NOTSET")
    pads = conv.attributes.get("pads", [0] * 4)
    same = padding in ("SAME_UPPER", "SAME_LOWER") or (
        padding == "NOTSET" and pads == [shape[2] // 2, shape[3] // 2] * 2
    )
    return same and conv.attributes.get("dilations", [1, 1]) == [1, 1]


def _operator(kind: str, name: str, inputs: list[str], outputs: list[str], attributes: dict[str, bool]) -> bytes:
    node = [
        *(bytes_field(_NODE_INPUT, item.encode("latin-1")) for item in inputs),
        *(bytes_field(_NODE_OUTPUT, item.encode("latin-1")) for item in outputs),
        bytes_field(_NODE_NAME, name.encode("latin-1")),
        bytes_field(_NODE_TYPE, kind.encode()),
        *(bytes_field(_NODE_ATTRIBUTE, _flag(*item)) for item in attributes.items()),
        bytes_field(_NODE_DOMAIN, DOMAIN.encode()),
    ]
    return bytes_field(_GRAPH_NODE, b"".join(node))


def _flag(name: str, value: bool) -> bytes:
    parts = (
        bytes_field(_ATTRIBUTE_NAME, name.encode()),
        number_field(_ATTRIBUTE_INT, int(value)),
        number_field(_ATTRIBUTE_TYPE, _TYPE_INT),
    )
    return b"".join(parts)


def _text(parts: Sequence[Field], number: int) -> str:
    return next((part.text for part in reversed(parts) if part.number == number), "")
