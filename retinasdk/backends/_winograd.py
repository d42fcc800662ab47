"""3x3 convolutions by Winograd's algorithm, in place of ONNX Runtime's direct ones: an edit of the graph on loading.

The operator is `retinasdk::WinogradConv` of `csrc/ort_ops.cpp`; `csrc/winograd.h` says what it computes. A Conv becomes
one where it is 3x3 of stride 1, padding 1, one group, with constant float32 weights in the file itself, and wide enough
to win; a Relu behind it goes into it. All else stays ONNX Runtime's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from retinasdk._onnx_wire import Field, bytes_field, fields, integers, length_prefix, number_field

DOMAIN, OPERATOR = "retinasdk", "WinogradConv"

# Narrower ones take ONNX Runtime less time: benchmarks/winograd.py.
_MIN_IN_CHANNELS, _MIN_OUT_CHANNELS = 64, 8
_MAX_BYTES = 1 << 31  # of a protocol buffer

# Numbers of fields and values in onnx.proto.
_MODEL_GRAPH, _MODEL_OPSET = 7, 8
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 5, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 3, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_STRING, _ATTRIBUTE_GRAPH, _ATTRIBUTE_INTS = 1, 3, 4, 6, 8
_ATTRIBUTE_GRAPHS, _ATTRIBUTE_TYPE, _TYPE_INT = 11, 20, 2
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_LOCATION, _TENSOR_FLOAT = 1, 2, 8, 14, 1
_VALUE_NAME = 1


def library() -> Path | None:
    """The operator's shared library; None in an installation without it."""
    folder = Path(__file__).parent.parent
    return next((path for name in ("_ort_ops.so", "_ort_ops.dll") if (path := folder / name).is_file()), None)


def rewritten(path: Path) -> tuple[bytes, int] | None:
    """The model file with its convolutions replaced, and how many there are; None where there is none.

    Raises `OSError`, and `ValueError` for what is not an ONNX file.
    """
    if path.stat().st_size >= _MAX_BYTES:
        return None
    model = list(fields(memoryview(path.read_bytes())))
    graphs = [part for part in model if part.number == _MODEL_GRAPH]
    if len(graphs) != 1:
        raise ValueError(f"wanted one graph, got {len(graphs)}")
    rewritten_graph = _rewritten_graph(graphs[0].data)
    if rewritten_graph is None:
        return None
    graph, replaced = rewritten_graph
    opset = bytes_field(_OPSET_DOMAIN, DOMAIN.encode()) + number_field(_OPSET_VERSION, 1)
    others = [part.raw for part in model if part.number != _MODEL_GRAPH]
    size = sum(map(len, graph))
    return b"".join([*others, bytes_field(_MODEL_OPSET, opset), length_prefix(_MODEL_GRAPH, size), *graph]), replaced


class _Node:
    """A NodeProto, read as far as it is asked for."""

    def __init__(self, part: Field) -> None:
        self.raw = part.raw
        parts = list(fields(part.data))
        self.inputs = [item.text for item in parts if item.number == _NODE_INPUT]
        self.outputs = [item.text for item in parts if item.number == _NODE_OUTPUT]
        self.type = _text(parts, _NODE_TYPE)
        self.name = _text(parts, _NODE_NAME)
        self.domain = _text(parts, _NODE_DOMAIN)
        self._attributes = [item.data for item in parts if item.number == _NODE_ATTRIBUTE]

    def is_standard(self, kind: str) -> bool:
        return self.type == kind and self.domain in ("", "ai.onnx")

    @cached_property
    def has_subgraph(self) -> bool:
        subgraphs = (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS)
        return any(item.number in subgraphs for attribute in self._attributes for item in fields(attribute))

    @cached_property
    def attributes(self) -> dict[str, str | int | list[int]]:
        """Strings, integers and lists of integers, by name."""
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
    """What is wanted of a TensorProto. is_plain: float32, and in the file itself."""

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
    """The fields of the graph, in their order, with the convolutions replaced, and how many there are."""
    parts = list(fields(graph))
    nodes = {index: _Node(part) for index, part in enumerate(parts) if part.number == _GRAPH_NODE}
    if any(node.has_subgraph for node in nodes.values()):
        return None  # which may read any tensor of this graph
    tensors = (_Tensor.read(part.data) for part in parts if part.number == _GRAPH_INITIALIZER)
    # What is an input, too, is only a default.
    inputs = {_text(list(fields(part.data)), _VALUE_NAME) for part in parts if part.number == _GRAPH_INPUT}
    weights = {tensor.name: tensor.shape for tensor in tensors if tensor.is_plain and tensor.name not in inputs}
    readers = Counter(name for node in nodes.values() for name in node.inputs)
    readers.update(_text(list(fields(part.data)), _VALUE_NAME) for part in parts if part.number == _GRAPH_OUTPUT)
    relus = {node.inputs[0]: index for index, node in nodes.items() if node.is_standard("Relu")}

    contents: dict[int, bytes | memoryview] = {index: part.raw for index, part in enumerate(parts)}
    replaced = 0
    for index, node in nodes.items():
        if not _wins(node, weights):
            continue
        (output,) = node.outputs
        relu = relus.get(output) if readers[output] == 1 else None
        if relu is not None:
            (output,) = nodes[relu].outputs
            del contents[relu]
        contents[index] = _operator(node, output, relu=relu is not None)
        replaced += 1
    return (list(contents.values()), replaced) if replaced else None


def _wins(node: _Node, weights: dict[str, tuple[int, ...]]) -> bool:
    if not node.is_standard("Conv") or any(name not in weights for name in node.inputs[1:] if name):
        return False
    shape = weights.get(node.inputs[1], ())
    if len(shape) != 4 or shape[2:] != (3, 3) or shape[0] < _MIN_OUT_CHANNELS or shape[1] < _MIN_IN_CHANNELS:
        return False
    attributes = node.attributes
    padding = attributes.get("auto_pad", "NOTSET")
    return (
        attributes.get("group", 1) == 1
        and attributes.get("strides", [1, 1]) == [1, 1]
        and attributes.get("dilations", [1, 1]) == [1, 1]
        and (padding in ("SAME_UPPER", "SAME_LOWER") or (padding == "NOTSET" and attributes.get("pads") == [1] * 4))
    )


def _operator(conv: _Node, output: str, *, relu: bool) -> bytes:
    attribute = (
        bytes_field(_ATTRIBUTE_NAME, b"relu")
        + number_field(_ATTRIBUTE_INT, int(relu))
        + number_field(_ATTRIBUTE_TYPE, _TYPE_INT)
    )
    node = [
        *(bytes_field(_NODE_INPUT, name.encode()) for name in conv.inputs),
        bytes_field(_NODE_OUTPUT, output.encode()),
        bytes_field(_NODE_NAME, conv.name.encode()),
        bytes_field(_NODE_TYPE, OPERATOR.encode()),
        bytes_field(_NODE_ATTRIBUTE, attribute),
        bytes_field(_NODE_DOMAIN, DOMAIN.encode()),
    ]
    return bytes_field(_GRAPH_NODE, b"".join(node))


def _text(parts: Sequence[Field], number: int) -> str:
    return next((part.text for part in reversed(parts) if part.number == number), "")
