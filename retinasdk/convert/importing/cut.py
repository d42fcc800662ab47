"""Taking a piece out of a graph: the nodes between given tensors, as a model of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from retinasdk._util.lazy import require
from retinasdk.convert.importing.graph import GraphView
from retinasdk.convert.importing.heads import Tap
from retinasdk.errors import ModelError

INPUT = "images"
Dimension = int | str


@dataclass(frozen=True)
class Output:
    """One head output of the new model.

    order: old channel of each new one; None: as they are.
    """

    name: str
    tap: Tap
    channels: int
    order: tuple[int, ...] | None = None


def piece(view: GraphView, inputs: Mapping[str, Sequence[Dimension] | None], outputs: Sequence[str]) -> Any:
    """The nodes from the tensors `inputs` (name to dimensions) to `outputs`, unchanged, as onnx.ModelProto.

    Raises `ModelError` if the outputs need another input of the graph.
    """
    onnx = require("onnx", "importing ONNX models")
    kept = sorted(view.before(outputs, stop=inputs))
    used = {name for index in kept for name in view.needs(index)} | set(outputs)
    others = sorted(used & {item.name for item in view.inputs} - set(inputs))
    if others:
        raise ModelError(
            f"wanted heads that need the ready image alone, but they also need the graph's input {', '.join(others)} "
            "past its preprocessing; export the network without preprocessing"
        )

    def value(name: str, dimensions: Sequence[Dimension] | None) -> Any:
        return onnx.helper.make_tensor_value_info(name, view.element_type(name) or onnx.TensorProto.FLOAT, dimensions)

    graph = onnx.helper.make_graph(
        [view.nodes[index] for index in kept],
        view.model.graph.name or "retinanet",
        [value(name, dimensions) for name, dimensions in inputs.items()],
        [value(name, None) for name in outputs],
        [tensor for name, tensor in view.initializers.items() if name in used and name not in inputs],
    )
    domains = {view.nodes[index].domain for index in kept} | {"", "ai.onnx"}
    opsets = [item for item in view.model.opset_import if item.domain in domains]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=view.model.ir_version)


def heads_model(
    view: GraphView, tensor: str, outputs: Sequence[Output], sides: tuple[Dimension, Dimension, Dimension]
) -> Any:
    """The network from its ready input to its heads as onnx.ModelProto, input and outputs float32.

    tensor: the ready input's name in the graph. sides: batch, height, width of the new input.
    """
    onnx = require("onnx", "importing ONNX models")
    model = piece(view, {tensor: [sides[0], 3, *sides[1:]]}, [output.tap.tensor for output in outputs])
    graph = model.graph
    _drop_copies_of_weights(graph)

    wanted = {INPUT, *(output.name for output in outputs)}
    taken = {name for node in graph.node for name in node.output} | {item.name for item in graph.initializer}
    names = {name: _free(f"{name}_inner", taken | wanted) for name in taken & wanted}
    names[tensor] = INPUT if _is_float(onnx, view, tensor) else _free(f"{INPUT}_inner", taken | wanted)
    tails = [_tail(onnx, view, output) for output in outputs]
    # An output that needs no further node takes its new name in the graph itself.
    names |= {output.tap.tensor: output.name for output, tail in zip(outputs, tails, strict=True) if not tail.node}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for item in (*graph.initializer, *graph.input):
        item.name = names.get(item.name, item.name)
    for tail in tails:
        for node in tail.node:
            node.input[0] = names.get(node.input[0], node.input[0])
        graph.node.extend(tail.node)
        graph.initializer.extend(tail.initializer)
    if names[tensor] != INPUT:
        graph.node.insert(0, onnx.helper.make_node("Cast", [INPUT], [names[tensor]], to=view.element_type(tensor)))
        graph.input[0].CopyFrom(
            onnx.helper.make_tensor_value_info(INPUT, onnx.TensorProto.FLOAT, [sides[0], 3, *sides[1:]])
        )
    del graph.output[:]
    for output in outputs:
        level = output.name.rpartition("_")[2]
        dimensions = [sides[0], output.channels, f"h_{level}", f"w_{level}"]
        graph.output.append(onnx.helper.make_tensor_value_info(output.name, onnx.TensorProto.FLOAT, dimensions))
    return model


def _is_float(onnx: Any, view: GraphView, tensor: str) -> bool:
    return view.element_type(tensor) in (0, onnx.TensorProto.FLOAT)


def _free(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _tail(onnx: Any, view: GraphView, output: Output) -> Any:
    """What has to be done behind a tap, as onnx.GraphProto: bias, order of channels, float32. Often nothing."""
    graph = onnx.GraphProto()
    current = output.tap.tensor

    def append(kind: str, values: Any = None, **attributes: Any) -> None:
        nonlocal current
        made, operand = f"{output.name}_{kind.lower()}", f"{output.name}_{kind.lower()}_operand"
        graph.node.append(
            onnx.helper.make_node(kind, [current] + [operand] * (values is not None), [made], **attributes)
        )
        if values is not None:
            graph.initializer.append(onnx.numpy_helper.from_array(values, operand))
        current = made

    if output.tap.bias is not None:
        append("Add", output.tap.bias.reshape(-1, 1, 1))
    if output.order is not None:
        append("Gather", np.array(output.order, np.int64), axis=1)
    if not _is_float(onnx, view, output.tap.tensor):
        append("Cast", to=onnx.TensorProto.FLOAT)
    if graph.node:
        graph.node[-1].output[0] = output.name
    return graph


def _drop_copies_of_weights(graph: Any) -> None:
    """Uses weights where an exporter uses an Identity of them: TensorRT wants a convolution's weights as they are."""
    weights = {tensor.name for tensor in graph.initializer}
    source: dict[str, str] = {}
    kept = []
    for node in graph.node:
        node.input[:] = [source.get(name, name) for name in node.input]
        if node.op_type == "Identity" and node.input[0] in weights:
            source[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    if source:
        copies = [type(node).FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(copies)
