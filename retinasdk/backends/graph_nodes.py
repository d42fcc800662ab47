"""Reads the nodes and tensors of an ONNX graph, and writes new nodes, as protocol buffers (see onnx.proto)."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from retinasdk._util.onnx_wire import FIXED32, LENGTH, Field, bytes_field, fields, integers, number_field

Floats: TypeAlias = npt.NDArray[np.float32]

# Field numbers and values of onnx.proto.
MODEL_GRAPH, MODEL_OPSET = 7, 8
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT, GRAPH_VALUE = 1, 5, 11, 12, 13
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 3, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_FLOAT, _ATTRIBUTE_INT, _ATTRIBUTE_STRING, _ATTRIBUTE_TENSOR = 1, 2, 3, 4, 5
_ATTRIBUTE_GRAPH, _ATTRIBUTE_INTS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_TYPE = 6, 8, 11, 20
_TYPE_FLOAT, _TYPE_INT = 1, 2
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_FLOATS, _TENSOR_INT32S, _TENSOR_INT64S = 1, 2, 4, 5, 7
_TENSOR_NAME, _TENSOR_RAW, _TENSOR_LOCATION = 8, 9, 14
_TENSOR_TYPES: dict[object, np.dtype[np.generic]] = {
    1: np.dtype("<f4"),
    2: np.dtype("u1"),
    3: np.dtype("i1"),
    6: np.dtype("<i4"),
    7: np.dtype("<i8"),
    11: np.dtype("<f8"),
}
_VALUE_NAME, _VALUE_TYPE, _TYPE_TENSOR, _TYPE_SHAPE, _SHAPE_DIM, _DIM_VALUE = 1, 2, 1, 2, 1, 1
_MAX_RANK, _MAX_SIDE = 16, 1 << 31


class Node:
    """A NodeProto, of which the attributes are parsed when they are needed.

    Attributes:
        raw: The bytes of the node as a field of its graph.
        inputs: Names of the tensors that it reads. "": an optional input that is left out.
        outputs: Names of the tensors that it makes.
        type: Name of its operator.
        name: Its own name, or "".
        domain: Domain of the operator.
    """

    def __init__(self, part: Field) -> None:
        """Parses a field of a graph.

        Raises:
            ValueError: If it is not a node.
        """
        self.raw = part.raw
        parts = list(fields(part.data))
        self._others = [item.raw for item in parts if item.number not in (_NODE_INPUT, _NODE_OUTPUT)]
        self.inputs = [item.text for item in parts if item.number == _NODE_INPUT]
        self.outputs = [item.text for item in parts if item.number == _NODE_OUTPUT]
        self.type = _text(parts, _NODE_TYPE)
        self.name = _text(parts, _NODE_NAME)
        self.domain = _text(parts, _NODE_DOMAIN)
        self._attribute_parts = [item.data for item in parts if item.number == _NODE_ATTRIBUTE]

    def is_standard(self, *kinds: str) -> bool:
        """Returns whether the node is one of these operators of ONNX, with an input and one output."""
        plain = self.domain in ("", "ai.onnx") and self.type in kinds
        return plain and len(self.outputs) == 1 and bool(self.inputs or self.type == "Constant")

    def input(self, index: int) -> str:
        """Returns the name of an input, or "" if it is left out."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def with_tensors(self, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
        """Encodes the node with other inputs and outputs, as a field of its graph."""
        return bytes_field(GRAPH_NODE, b"".join([*_tensor_fields(inputs, outputs), *self._others]))

    @cached_property
    def has_subgraph(self) -> bool:
        """Whether an attribute is a graph, as those of If and Loop."""
        graphs = (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS)
        return any(item.number in graphs for attribute in self._attribute_parts for item in fields(attribute))

    @cached_property
    def _attributes(self) -> dict[str, list[Field]]:
        found = {}
        for attribute in self._attribute_parts:
            parts = list(fields(attribute))
            found[_text(parts, _ATTRIBUTE_NAME)] = parts
        return found

    def has(self, name: str) -> bool:
        """Returns whether the node has an attribute of that name."""
        return name in self._attributes

    def integer(self, name: str, default: int) -> int:
        """Returns an attribute that is an integer."""
        found = self._last(name, _ATTRIBUTE_INT)
        return default if found is None else integers(found)[0]

    def number(self, name: str, default: float) -> float:
        """Returns an attribute that is a float32."""
        found = self._last(name, _ATTRIBUTE_FLOAT)
        return default if found is None else float(struct.unpack("<f", found.data)[0])

    def string(self, name: str, default: str) -> str:
        """Returns an attribute that is a string."""
        found = self._last(name, _ATTRIBUTE_STRING)
        return default if found is None else found.text

    def integers(self, name: str, default: Sequence[int]) -> tuple[int, ...]:
        """Returns an attribute that is a list of integers. An empty list counts as absent.

        Raises:
            ValueError: If the list is longer than any shape, strides or pads.
        """
        parts = self._attributes.get(name, [])
        values = [value for item in parts if item.number == _ATTRIBUTE_INTS for value in integers(item)]
        return tuple(values or default)

    def tensor(self, name: str) -> Tensor | None:
        """Returns an attribute that is a tensor."""
        found = self._last(name, _ATTRIBUTE_TENSOR)
        return None if found is None else Tensor.read(found.data)

    def _last(self, name: str, number: int) -> Field | None:
        return next((item for item in reversed(self._attributes.get(name, [])) if item.number == number), None)


@dataclass(frozen=True)
class Tensor:
    """A TensorProto.

    Attributes:
        name: Its name.
        shape: Its shape.
        content: Its values as bytes, little-endian, or None if they are not in the file or of a type not used here.
        type: NumPy's type of the values.
    """

    name: str
    shape: tuple[int, ...]
    content: memoryview | None
    type: np.dtype[np.generic]

    @classmethod
    def read(cls, message: memoryview) -> Tensor:
        """Parses a TensorProto. The values are not copied.

        Raises:
            ValueError: If it is not a tensor.
        """
        parts = list(fields(message))
        numbers = {item.number: item.value for item in parts if isinstance(item.value, int)}
        shape = tuple(side for item in parts if item.number == _TENSOR_DIMS for side in integers(item))
        kind = _TENSOR_TYPES.get(numbers.get(_TENSOR_TYPE, 0))
        content = None
        if kind is not None and not numbers.get(_TENSOR_LOCATION):
            content = _values(parts, kind)
            if content is not None and len(content) != np.prod(shape, dtype=object) * kind.itemsize:
                content = None
        return cls(_text(parts, _TENSOR_NAME), shape, content, kind or np.dtype(np.void))

    @property
    def is_float(self) -> bool:
        """Whether the values are float32 and in the file."""
        return self.content is not None and self.type == np.float32

    def values(self) -> npt.NDArray[np.generic]:
        """Returns the values without copying them. They may be at any address.

        Raises:
            ValueError: If they are not in the file.
        """
        if self.content is None:
            raise ValueError(f"the values of the tensor {self.name!r} are not in the file")
        return np.frombuffer(self.content, self.type).reshape(self.shape)

    def floats(self) -> Floats:
        """Returns the values of a tensor that is_float."""
        return self.values().astype(np.float32, copy=False)


def value_name(part: Field) -> str:
    """Returns the name of a ValueInfoProto, such as an input of the graph."""
    return _text(list(fields(part.data)), _VALUE_NAME)


def value_shape(part: Field) -> tuple[int | None, ...] | None:
    """Returns the shape of a ValueInfoProto, with None for a side that is not fixed, or None if the rank is unknown."""
    message: Field | None = part
    for number in (_VALUE_TYPE, _TYPE_TENSOR, _TYPE_SHAPE):
        message = None if message is None else next((x for x in fields(message.data) if x.number == number), None)
    if message is None:
        return None
    sides = [x for x in fields(message.data) if x.number == _SHAPE_DIM]
    if len(sides) > _MAX_RANK:
        raise ValueError(f"a shape has {len(sides)} dimensions")
    values = [[x.value for x in fields(side.data) if x.number == _DIM_VALUE] for side in sides]
    return tuple(
        found[0] if found and isinstance(found[0], int) and 0 < found[0] < _MAX_SIDE else None for found in values
    )


def node_field(
    kind: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    attributes: Mapping[str, int | float],
    *,
    name: str = "",
    domain: str = "",
) -> bytes:
    """Encodes a node as a field of its graph. Names are as `Field.text` returns them."""
    node = [
        *_tensor_fields(inputs, outputs),
        bytes_field(_NODE_NAME, name.encode("latin-1")),
        bytes_field(_NODE_TYPE, kind.encode()),
        *(bytes_field(_NODE_ATTRIBUTE, _attribute(*item)) for item in attributes.items()),
        bytes_field(_NODE_DOMAIN, domain.encode()),
    ]
    return bytes_field(GRAPH_NODE, b"".join(node))


def opset_field(domain: str, version: int) -> bytes:
    """Encodes the use of a domain as a field of a model."""
    return bytes_field(MODEL_OPSET, bytes_field(_OPSET_DOMAIN, domain.encode()) + number_field(_OPSET_VERSION, version))


def _tensor_fields(inputs: Sequence[str], outputs: Sequence[str]) -> list[bytes]:
    return [
        *(bytes_field(_NODE_INPUT, item.encode("latin-1")) for item in inputs),
        *(bytes_field(_NODE_OUTPUT, item.encode("latin-1")) for item in outputs),
    ]


def _attribute(name: str, value: int | float) -> bytes:
    if isinstance(value, int):
        content, kind = number_field(_ATTRIBUTE_INT, value % (1 << 64)), _TYPE_INT
    else:
        content, kind = bytes([_ATTRIBUTE_FLOAT << 3 | FIXED32]) + struct.pack("<f", value), _TYPE_FLOAT
    return bytes_field(_ATTRIBUTE_NAME, name.encode()) + content + number_field(_ATTRIBUTE_TYPE, kind)


def _values(parts: list[Field], kind: np.dtype[np.generic]) -> memoryview | None:
    raw = [item.data for item in parts if item.number == _TENSOR_RAW]
    if raw:
        return raw[-1]
    if kind == np.float32:  # Packed: the encoding is that of raw data.
        packed = [item for item in parts if item.number == _TENSOR_FLOATS]
        return packed[0].data if len(packed) == 1 and packed[0].raw[0] & 7 == LENGTH else None
    number = {np.dtype(np.int32): _TENSOR_INT32S, np.dtype(np.int64): _TENSOR_INT64S}.get(kind)
    listed = [item for item in parts if item.number == number]
    if not listed or len(listed) > _MAX_RANK:
        return None
    try:
        values = [value for item in listed for value in integers(item)]
        return memoryview(np.array(values, np.int64).astype(kind).tobytes())
    except (ValueError, OverflowError):
        return None


def _text(parts: Sequence[Field], number: int) -> str:
    return next((part.text for part in reversed(parts) if part.number == number), "")
