"""Reading a foreign ONNX file: whole, sorted, with its weights inside, or an error that says what is wrong with it."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retinasdk._util.lazy import require
from retinasdk.errors import ModelError

OPSETS = range(11, 26)  # 11: Clip, Pad and Resize take tensors as inputs; 25: the newest that is known
MAX_BYTES = (1 << 31) - 1  # protobuf's own limit for one message


def load_model(path: Path) -> Any:
    """The file as onnx.ModelProto: weights inside, functions inlined, nodes in topological order.

    Raises `ModelError` for anything that is no such model.
    """
    onnx = require("onnx", "importing ONNX models")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ModelError(
                f"{path}: wanted an ONNX file of at most 2 GiB, got {size / (1 << 30):.1f} GiB, which is no valid "
                "protobuf; save the weights as external data, in a file beside it"
            )
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: wanted an ONNX file, but it cannot be read: {error}") from error
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's, whose class depends on its implementation
        raise ModelError(
            f"{path}: wanted an ONNX file, but its {size} bytes do not parse as one; is it complete, and not a "
            "checkpoint (.pth, .h5) or an engine?"
        ) from error
    if not model.HasField("graph") or not model.graph.node:
        raise ModelError(f"{path}: wanted an ONNX file with a network in it, got one without any operator")
    _check_opset(model, path)
    _load_external_data(onnx, model, path)
    if model.ByteSize() > MAX_BYTES:
        raise ModelError(
            f"{path}: wanted a network that fits into one file of 2 GiB, got {model.ByteSize() / (1 << 30):.1f} GiB "
            "with the weights beside it; convert its weights to float16 first"
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
            f"{path}: wanted ONNX opset {OPSETS[0]} to {OPSETS[-1]}, got {', '.join(map(str, versions)) or 'none'}; "
            "export it again with opset 17"
        )


def tensors_of(graph: Any) -> Iterator[Any]:
    """Every onnx.TensorProto of a graph: initializers and attributes, inner graphs included."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs):
                yield from tensors_of(inner)


def _load_external_data(onnx: Any, model: Any, path: Path) -> None:
    """Reads weights that lie in other files, all of which must be inside the model's own folder."""
    folder = path.resolve().parent
    for tensor in tensors_of(model.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        facts = {item.key: item.value for item in tensor.external_data}
        location = facts.get("location", "")
        target = (folder / location).resolve()  # follows links
        what = f"{path}: weights {tensor.name!r} lie in {location!r}"
        if not location or Path(location).is_absolute() or not target.is_relative_to(folder):
            raise ModelError(f"{what}, outside the model's folder; wanted a file inside it: copy the weights there")
        if not target.is_file():
            raise ModelError(f"{what}, which is not there; copy that file into the model's folder too")
        offset, length = int(facts.get("offset", 0)), int(facts.get("length", -1))
        if offset < 0 or offset + max(length, 0) > target.stat().st_size:
            raise ModelError(
                f"{what}, from byte {offset} for {length} bytes, but that file has {target.stat().st_size}; "
                "is it complete, and of this model?"
            )
        onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def _check_parts(onnx: Any, model: Any, path: Path) -> None:
    """Raises `ModelError` unless each node and each tensor is whole by itself; operators may be unknown."""
    context = type(onnx.checker.DEFAULT_CONTEXT)()
    context.ir_version = model.ir_version
    context.opset_imports = {item.domain: item.version for item in model.opset_import}
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    part = ""
    try:
        for tensor in tensors_of(model.graph):
            part = f"tensor {tensor.name!r}"
            onnx.checker.check_tensor(tensor)
            onnx.numpy_helper.to_array(tensor)  # as many numbers as its shape says
        for node in model.graph.node:
            part = f"node {node.name!r} ({node.op_type})"
            if any(isinstance(name, bytes) for name in (node.name, node.op_type, *node.input, *node.output)):
                raise ValueError("its names are no UTF-8")
            has_inner = any(item.HasField("g") or item.graphs for item in node.attribute)
            if not has_inner and node.domain in ("", "ai.onnx") and onnx.defs.has(node.op_type, opset):
                onnx.checker.check_node(node, context)
    except (onnx.checker.ValidationError, TypeError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ModelError(f"{path}: {part} is damaged: {reason}; export the network again") from error


def names_used(node: Any) -> Iterator[str]:
    """Tensors that a node needs: its inputs, and what its inner graphs take from outside."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            made = {name for item in inner.node for name in item.output}
            made.update(item.name for item in (*inner.input, *inner.initializer))
            for item in inner.node:
                yield from (name for name in names_used(item) if name not in made)


def _sort(graph: Any, path: Path) -> None:
    """Puts the nodes in topological order, as near to their own order as it goes. Raises `ModelError` for cycles."""
    producer = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    waits = [{producer[name] for name in names_used(node) if name in producer} for node in graph.node]
    if all(max(before, default=-1) < index for index, before in enumerate(waits)):
        return
    users: list[list[int]] = [[] for _ in graph.node]
    for index, before in enumerate(waits):
        for other in before:
            users[other].append(index)
    missing = [len(before) for before in waits]
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
            f"{path}: wanted a graph without cycles, but node {node.name or node.output[0]!r} ({node.op_type}) waits "
            "for itself; the file is damaged: export it again"
        )
    nodes = [graph.node[index] for index in order]
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
