"""Counts the nodes that the functions of an ONNX model stand for, before anybody replaces calls by nodes.

Functions that call each other can stand for any number of nodes: thirty of them, each of which calls the next one
twice, for a billion, in two kilobytes. ONNX Runtime and the onnx package replace all calls without counting.
"""

from __future__ import annotations

from collections.abc import Iterator

from retinasdk._util.onnx_files import TooManyFieldsError, external_locations
from retinasdk._util.onnx_wire import fields

_MAX_FIELDS = 1 << 18
MAX_NODES = 1 << 16  # Exports with all their post-processing have some thousand.

# Field numbers of onnx.proto.
_MODEL_GRAPH, _MODEL_FUNCTION = 7, 25
_GRAPH_NODE, _FUNCTION_NAME, _FUNCTION_NODE, _FUNCTION_DOMAIN = 1, 1, 7, 10
_NODE_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_GRAPHS = (6, 11)

_Key = tuple[bytes, bytes]  # Domain and name.


class FunctionsError(ValueError):
    """Says that the functions of a model cannot be replaced by their nodes, and why."""


def check_functions(model: memoryview) -> None:
    """Checks that the functions of a model stand for as many nodes as a network has, at most.

    Args:
        model: The content of an ONNX file. Without functions, only its outermost fields are read.

    Raises:
        FunctionsError: If they stand for more, or call themselves.
        ValueError: If it is not an ONNX file.
    """
    graphs, functions = [], []
    for index, field in enumerate(fields(model)):
        if index == _MAX_FIELDS:  # Of a made-up file, they can have two bytes each.
            raise FunctionsError(f"it has more than {_MAX_FIELDS} outermost fields, which no RetinaNet has")
        if field.number == _MODEL_GRAPH:
            graphs.append(field.data)
        elif field.number == _MODEL_FUNCTION:
            functions.append(field.data)
    if not functions:
        return
    try:
        external_locations(model)
    except TooManyFieldsError as error:
        raise FunctionsError(str(error)) from error
    bodies = {_key(function, _FUNCTION_NAME, _FUNCTION_DOMAIN): function for function in functions}
    counts: dict[_Key, int] = {}

    def count(message: memoryview, node_number: int, callers: frozenset[_Key]) -> int:
        total = 0
        for key in _calls(message, node_number):
            if key in callers:
                raise FunctionsError(f"its function {_shown(key)} calls itself")
            if key in bodies and key not in counts:
                counts[key] = count(bodies[key], _FUNCTION_NODE, callers | {key})
            total += counts.get(key, 1)
            if total > MAX_NODES:
                raise FunctionsError(f"its functions stand for more than {MAX_NODES} operators, which no RetinaNet has")
        return total

    try:
        for graph in graphs:
            count(graph, _GRAPH_NODE, frozenset())
    except RecursionError:
        raise FunctionsError("its functions or graphs are nested hundreds of levels deep") from None


def _calls(message: memoryview, node_number: int) -> Iterator[_Key]:
    """Yields the operator of each node of a graph or function, and of their inner graphs."""
    for field in fields(message):
        if field.number != node_number:
            continue
        yield _key(field.data, _NODE_TYPE, _NODE_DOMAIN)
        for attribute in fields(field.data):
            if attribute.number == _NODE_ATTRIBUTE:
                for inner in fields(attribute.data):
                    if inner.number in _ATTRIBUTE_GRAPHS:
                        yield from _calls(inner.data, _GRAPH_NODE)


def _key(message: memoryview, name_number: int, domain_number: int) -> _Key:
    numbers = (name_number, domain_number)
    found = {field.number: bytes(field.data) for field in fields(message) if field.number in numbers}
    return found.get(domain_number, b""), found.get(name_number, b"")


def _shown(key: _Key) -> str:
    return repr(key[1].decode("utf-8", "replace"))
