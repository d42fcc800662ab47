"""Moves the padding of a channels-last convolution behind the transpose to channels-first, where it can be recognized.

Keras pads in channels-last layout; exporters transpose to channels-first before the convolution. The network begins
behind that transpose, so the padding would be taken for preprocessing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from retinasdk._util.lazy import require

_TO_NCHW = [0, 3, 1, 2]
_KEEPS_VALUES = ("Cast", "Identity")


def move_padding_behind_transposes(model: Any) -> None:
    """Changes Pad, Transpose to Transpose, Pad in an onnx.ModelProto, where the amounts do not depend on the image.

    The values of all other tensors stay the same.
    """
    onnx = require("onnx", "importing ONNX models")
    nodes = model.graph.node
    consumers: dict[str, list[int]] = {}
    for index, node in enumerate(nodes):
        for name in node.input:
            consumers.setdefault(name, []).append(index)
    outputs = {item.name for item in model.graph.output}
    moved: dict[int, Any] = {}
    for node in nodes:
        if node.op_type != "Pad" or len(node.input) not in (2, 3) or not node.output:
            continue
        current, readers = node.output[0], consumers.get(node.output[0], [])
        while len(readers) == 1 and nodes[readers[0]].op_type in _KEEPS_VALUES and current not in outputs:
            current = nodes[readers[0]].output[0]
            readers = consumers.get(current, [])
        if len(readers) != 1 or current in outputs or not _is_to_nchw(nodes[readers[0]]):
            continue
        amounts = _constant(onnx, model, node.input[1])
        if amounts is None or amounts.size != 8:
            continue
        transpose = nodes[readers[0]]
        before, after = f"{transpose.output[0]}_unpadded", transpose.output[0]
        pads = f"{after}_pads"
        turned = np.concatenate([side[_TO_NCHW] for side in amounts.reshape(2, 4)])
        model.graph.initializer.append(onnx.numpy_helper.from_array(turned.astype(np.int64), pads))
        for index in consumers[node.output[0]]:
            nodes[index].input[0] = node.input[0]
        transpose.output[0] = before
        later = type(node).FromString(node.SerializeToString())
        later.input[0], later.input[1], later.output[0] = before, pads, after
        moved[readers[0]] = later
        node.op_type = ""  # Removed below.
    if not moved:
        return
    kept = []
    for index, node in enumerate(nodes):
        if node.op_type:
            kept.append(type(node).FromString(node.SerializeToString()))
        if index in moved:
            kept.append(moved[index])
    del nodes[:]
    nodes.extend(kept)


def _is_to_nchw(node: Any) -> bool:
    return node.op_type == "Transpose" and any(
        item.name == "perm" and list(item.ints) == _TO_NCHW for item in node.attribute
    )


def _constant(onnx: Any, model: Any, name: str) -> Any:
    """Computes a tensor that does not depend on an input of the graph; returns None for one that does."""
    producer = {output: node for node in model.graph.node for output in node.output}
    weights = {item.name for item in model.graph.initializer}
    needed: set[str] = set()  # The first output of each node.
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current in producer:
            if producer[current].output[0] not in needed:
                needed.add(producer[current].output[0])
                waiting += producer[current].input
        elif current and current not in weights:
            return None
    nodes = [node for node in model.graph.node if needed & set(node.output)]
    used = {item for node in nodes for item in node.input} | {name}
    graph = onnx.helper.make_graph(
        nodes,
        "constant",
        [],
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None)],
        [item for item in model.graph.initializer if item.name in used],
    )
    part = onnx.helper.make_model(graph, opset_imports=model.opset_import)
    return require("onnx.reference", "importing ONNX models").ReferenceEvaluator(part).run(None, {})[0]
