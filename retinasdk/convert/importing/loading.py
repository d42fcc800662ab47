"""Reads an ONNX file of any origin: complete, in topological order, with external weights loaded."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retinasdk._util.lazy import require
from retinasdk.errors import ModelError

OPSETS = range(11, 26)  # From opset 11 on, Clip, Pad and Resize take tensors as inputs; 25 is the newest one known.
MAX_BYTES = (1 << 31) - 1  # The limit of protobuf for one message.


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
        model = onnx.load_model_from_string(content)
    except Exception as error:  # The exception class depends on the implementation of protobuf.
        raise ModelError(
            f"{path} is not an ONNX file, or it is incomplete: its {size} bytes cannot be parsed. A checkpoint (.pth, "
            ".h5) or a TensorRT engine has to be exported to ONNX first"
        ) from error
    if not model.HasField("graph") or not model.graph.node:
        raise ModelError(f"{path} is an ONNX file without a network: it has no operators. Export the network again")
    _check_opset(model, path)
    _load_external_data(onnx, model, path)
    if model.ByteSize() > MAX_BYTES:
        raise ModelError(
            f"{path} has {model.ByteSize() / (1 << 30):.1f} GiB together with its external weights; the imported model "
            "has to fit into one file of 2 GiB. Convert the weights to float16 first"
        )
    if model.functions:
        model = require("onnx.inliner", "importing ONNX models").inline_local_functions(model)
    _check_parts(onnx, model, path)
    _sort(model.graph, path)
    return model


def _check_opset(model: Any, path: Path) -> None:
    versions = sorted({item.version for item in model.opset_import if item.domain in ("", "ai.onnx")})
    if len(versions) != 1 or versions[0] not in OPSETS:
        raise ModelError(
            f"{path} has ONNX opset {', '.join(map(str, versions)) or 'none'}; supported are {OPSETS[0]} to "
            f"{OPSETS[-1]}. Export the network again with opset 17"
        )


def tensors_of(graph: Any) -> Iterator[Any]:
    """Yields every onnx.TensorProto of a graph: initializers and attributes, including those of inner graphs."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs):
                yield from tensors_of(inner)


def _load_external_data(onnx: Any, model: Any, path: Path) -> None:
    """Loads weights that are stored in other files. Those files must be inside the folder of the model."""
    folder = path.resolve().parent
    for tensor in tensors_of(model.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {item.key: item.value for item in tensor.external_data}
        location = entries.get("location", "")
        target = (folder / location).resolve()  # Links are followed, so that a link cannot lead out of the folder.
        what = f"{path}: the weights {tensor.name!r} are stored in {location!r}"
        if not location or Path(location).is_absolute() or not target.is_relative_to(folder):
            raise ModelError(
                f"{what}, outside the folder of the model. Copy the weights into that folder and export again"
            )
        if not target.is_file():
            raise ModelError(f"{what}, which does not exist. Copy that file into the folder of the model")
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", -1))
        if offset < 0 or offset + max(length, 0) > target.stat().st_size:
            raise ModelError(
                f"{what}, {length} bytes from byte {offset} on, but that file has {target.stat().st_size} bytes. Check "
                "that it is complete and belongs to this model"
            )
        onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


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
            part = f"node {node.name!r} ({node.op_type})"
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
    """Sorts the nodes topologically and otherwise keeps their order. Raises `ModelError` if there is a cycle."""
    producer = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
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
