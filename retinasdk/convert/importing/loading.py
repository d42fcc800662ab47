"""Reads an ONNX file of any origin: complete, in topological order, with external weights loaded."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retinasdk._util.lazy import require
from retinasdk._util.onnx_files import TooManyFieldsError, external_locations
from retinasdk._util.onnx_functions import check_functions
from retinasdk.convert.importing.external_data import load_external_data, tensors_of
from retinasdk.convert.importing.input_sizes import check_inputs
from retinasdk.convert.importing.onnx_runner import first_line
from retinasdk.errors import ModelError

OPSETS = range(11, 26)  # From opset 11 on, Clip, Pad and Resize take tensors as inputs; 25 is the newest one known.
IR_VERSIONS = range(3, 15)  # From 3 on, models name the versions of their operators; ONNX Runtime 1.32 knows up to 14.
MAX_BYTES = (1 << 31) - 1  # The limit of protobuf for one message.
_MAX_FIELDS = 1 << 18  # Exports with all their post-processing have some ten thousand. These take a few seconds.


def load_model(path: Path) -> Any:
    """Reads an ONNX file and makes it self-contained.

    Args:
        path: The ONNX file.

    Returns:
        The onnx.ModelProto with external weights loaded, functions inlined and nodes in topological order.

    Raises:
        ModelError: The file cannot be read, is not ONNX, is damaged, is too large, or has an unsupported opset.
    """
    onnx = require("onnx", "importing ONNX models")
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a device or a pipe"
        raise ModelError(f"{path} is {kind}, and not a file. Give the path of an ONNX file")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ModelError(
                f"{path} has {size / (1 << 30):.1f} GiB; an ONNX file can have at most 2 GiB. Export the network again "
                "and save the weights as external data, in a second file"
            )
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}. Check the path and its permissions") from error
    if not content:
        raise ModelError(f"{path} is empty (0 bytes). Export the network again")
    try:
        external_locations(memoryview(content), max_fields=_MAX_FIELDS)
    except TooManyFieldsError as error:
        raise ModelError(f"{path} cannot be imported: {error}. Export the network again") from error
    except ValueError:
        pass  # What it is instead is said below.
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # The exception class depends on the implementation of protobuf.
        raise ModelError(
            f"{path} is not an ONNX file, or it is incomplete: its {size} bytes cannot be parsed. A checkpoint (.pth, "
            ".h5) or a TensorRT engine has to be exported to ONNX first"
        ) from error
    if not model.HasField("graph") or not model.graph.node:
        raise ModelError(f"{path} is an ONNX file without a network: it has no operators. Export the network again")
    if not model.graph.output:
        raise ModelError(
            f"{path} has no outputs, so nothing in it leads to a result. Export the network again with its heads or "
            "its boxes as outputs"
        )
    _check_versions(model, path)
    check_inputs(onnx, model.graph, path)
    load_external_data(onnx, model, path)
    if model.ByteSize() > MAX_BYTES:
        raise ModelError(
            f"{path} has {model.ByteSize() / (1 << 30):.1f} GiB together with its external weights; the imported model "
            "has to fit into one file of 2 GiB. Convert the weights to float16 first"
        )
    if model.functions:
        model = _inlined(model, memoryview(content), path)
    _check_parts(onnx, model, path)
    _sort(model.graph, path)
    return model


def _inlined(model: Any, content: memoryview, path: Path) -> Any:
    """Returns the model with the nodes of its functions in place of their calls. Raises `ModelError`."""
    try:
        check_functions(content)
        return require("onnx.inliner", "importing ONNX models").inline_local_functions(model)
    except Exception as error:  # ONNX has several classes for what can be wrong with a function.
        raise ModelError(f"{path} cannot be imported: {first_line(error)}. Export the network again") from error


def _check_versions(model: Any, path: Path) -> None:
    if model.ir_version not in IR_VERSIONS:
        raise ModelError(
            f"{path} has ONNX IR version {model.ir_version}; supported are {IR_VERSIONS[0]} to {IR_VERSIONS[-1]}. "
            "Export the network again with opset 17"
        )
    for item in model.opset_import:
        if isinstance(item.domain, bytes) or not 0 <= item.version < 1 << 31:
            raise ModelError(
                f"{path} is damaged: it names version {item.version} of the operators {item.domain!r}. Export it again"
            )
    versions = sorted({item.version for item in model.opset_import if item.domain in ("", "ai.onnx")})
    if len(versions) != 1 or versions[0] not in OPSETS:
        raise ModelError(
            f"{path} has ONNX opset {', '.join(map(str, versions)) or 'none'}; supported are {OPSETS[0]} to "
            f"{OPSETS[-1]}. Export the network again with opset 17"
        )


def _check_parts(onnx: Any, model: Any, path: Path) -> None:
    """Checks each node and each tensor by itself; operators may be unknown. Raises `ModelError`."""
    context = type(onnx.checker.DEFAULT_CONTEXT)()
    context.ir_version = model.ir_version
    context.opset_imports = {item.domain: item.version for item in model.opset_import}
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    part = ""
    try:
        for tensor in tensors_of(model.graph):
            part = f"tensor {tensor.name!r}"
            onnx.checker.check_tensor(tensor)
            onnx.numpy_helper.to_array(tensor)  # Fails unless there are as many values as the shape says.
        for node in model.graph.node:
            part = f"node {node.name or ', '.join(map(str, node.output))!r} ({node.op_type})"
            if any(isinstance(name, bytes) for name in (node.name, node.op_type, *node.input, *node.output)):
                raise ValueError("its names are not UTF-8")
            has_inner = any(item.HasField("g") or item.graphs for item in node.attribute)
            if not has_inner and node.domain in ("", "ai.onnx") and onnx.defs.has(node.op_type, opset):
                onnx.checker.check_node(node, context)
    except (onnx.checker.ValidationError, TypeError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ModelError(f"{path}: {part} is damaged ({reason}). Export the network again") from error


def names_used(node: Any) -> Iterator[str]:
    """Yields the tensors that a node reads: its inputs, and what its inner graphs read from outside."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            made = {name for item in inner.node for name in item.output}
            made.update(item.name for item in (*inner.input, *inner.initializer))
            for item in inner.node:
                yield from (name for name in names_used(item) if name not in made)


def _sort(graph: Any, path: Path) -> None:
    """Sorts the nodes topologically and otherwise keeps their order. Raises `ModelError` if that is not possible."""
    producer: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        for name in node.output:
            if name and producer.setdefault(name, index) != index:
                raise ModelError(f"{path} is damaged: two nodes compute the tensor {name!r}. Export the network again")
    inputs = [{producer[name] for name in names_used(node) if name in producer} for node in graph.node]
    if all(max(producers, default=-1) < index for index, producers in enumerate(inputs)):
        return
    users: list[list[int]] = [[] for _ in graph.node]
    for index, producers in enumerate(inputs):
        for other in producers:
            users[other].append(index)
    missing = [len(producers) for producers in inputs]
    ready = [index for index, count in enumerate(missing) if count == 0]
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for user in users[index]:
            missing[user] -= 1
            if missing[user] == 0:
                heapq.heappush(ready, user)
    if len(order) < len(graph.node):
        node = graph.node[next(index for index, count in enumerate(missing) if count)]
        raise ModelError(
            f"{path} is damaged: its graph has a cycle through node {node.name or node.output[0]!r} ({node.op_type}). "
            "Export the network again"
        )
    nodes = [graph.node[index] for index in order]
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
