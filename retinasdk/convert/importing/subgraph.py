"""Extracts a part of a graph, the nodes between given tensors, as a model of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from retinasdk._util.lazy import require
from retinasdk.convert.importing.graph import GraphView
from retinasdk.convert.importing.heads import HeadTensor
from retinasdk.errors import ModelError

INPUT = "images"
Dimension = int | str


@dataclass(frozen=True)
class ModelOutput:
    """One output of the model that is written: one level of one head.

    Attributes:
        name: Name of the output, such as "logits_p3".
        head: The tensor of the original graph that it is computed from.
        channels: Number of channels.
        channel_order: Channel of the original tensor for each channel of the output. None keeps the order.
    """

    name: str
    head: HeadTensor
    channels: int
    channel_order: tuple[int, ...] | None = None


def extract_subgraph(view: GraphView, inputs: Mapping[str, Sequence[Dimension] | None], outputs: Sequence[str]) -> Any:
    """Extracts the nodes between given tensors, unchanged.

    Args:
        view: The graph.
        inputs: Tensors where the part begins, with their dimensions: a number if fixed, a name if dynamic. None leaves
            the shape open.
        outputs: Tensors where the part ends.

    Returns:
        The part as onnx.ModelProto.

    Raises:
        ModelError: The outputs depend on another input of the graph.
    """
    onnx = require("onnx", "importing ONNX models")
    kept = sorted(view.ancestors(outputs, stop=inputs))
    used = {name for index in kept for name in view.inputs_of(index)} | set(outputs)
    others = sorted(used & {item.name for item in view.inputs} - set(inputs))
    if others:
        raise ModelError(
            f"the heads depend not only on the preprocessed image but also on the graph input {', '.join(others)}. "
            "Export the network without preprocessing"
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


def build_heads_model(
    view: GraphView, tensor: str, outputs: Sequence[ModelOutput], dimensions: tuple[Dimension, Dimension, Dimension]
) -> Any:
    """Builds the model that the import writes: the network from its preprocessed input to its raw heads.

    Args:
        view: The original graph.
        tensor: Name of the preprocessed network input in the original graph.
        outputs: Outputs of the new model, in order.
        dimensions: Batch, height and width of the new input: a number if fixed, a name if dynamic.

    Returns:
        The onnx.ModelProto. Its input "images" and its outputs are float32.
    """
    onnx = require("onnx", "importing ONNX models")
    input_shape = [dimensions[0], 3, *dimensions[1:]]
    model = extract_subgraph(view, {tensor: input_shape}, [output.head.tensor for output in outputs])
    graph = model.graph
    _remove_identities_of_weights(graph)

    reserved = {INPUT, *(output.name for output in outputs)}
    taken = {name for node in graph.node for name in node.output} | {item.name for item in graph.initializer}
    names = {name: _unused_name(f"{name}_inner", taken | reserved) for name in taken & reserved}
    names[tensor] = INPUT if _is_float(onnx, view, tensor) else _unused_name(f"{INPUT}_inner", taken | reserved)
    tails = [_output_nodes(onnx, view, output) for output in outputs]
    # An output that needs no additional node gets its new name in the graph itself.
    names |= {output.head.tensor: output.name for output, tail in zip(outputs, tails, strict=True) if not tail.node}
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
        graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info(INPUT, onnx.TensorProto.FLOAT, input_shape))
    del graph.output[:]
    for output in outputs:
        level = output.name.rpartition("_")[2]
        shape = [dimensions[0], output.channels, f"h_{level}", f"w_{level}"]
        graph.output.append(onnx.helper.make_tensor_value_info(output.name, onnx.TensorProto.FLOAT, shape))
    return model


def _is_float(onnx: Any, view: GraphView, tensor: str) -> bool:
    return view.element_type(tensor) in (0, onnx.TensorProto.FLOAT)


def _unused_name(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _output_nodes(onnx: Any, view: GraphView, output: ModelOutput) -> Any:
    """Returns the nodes to add after a head tensor as onnx.GraphProto: bias, channel order, float32. Often none."""
    graph = onnx.GraphProto()
    current = output.head.tensor

    def append(kind: str, values: Any = None, **attributes: Any) -> None:
        nonlocal current
        result, operand = f"{output.name}_{kind.lower()}", f"{output.name}_{kind.lower()}_operand"
        graph.node.append(
            onnx.helper.make_node(kind, [current] + [operand] * (values is not None), [result], **attributes)
        )
        if values is not None:
            graph.initializer.append(onnx.numpy_helper.from_array(values, operand))
        current = result

    if output.head.bias is not None:
        append("Add", output.head.bias.reshape(-1, 1, 1))
    if output.channel_order is not None:
        append("Gather", np.array(output.channel_order, np.int64), axis=1)
    if not _is_float(onnx, view, output.head.tensor):
        append("Cast", to=onnx.TensorProto.FLOAT)
    if graph.node:
        graph.node[-1].output[0] = output.name
    return graph


def _remove_identities_of_weights(graph: Any) -> None:
    """Replaces the Identity of a weight by the weight: TensorRT wants constants as weights of convolutions."""
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
