"""Networks that are not RetinaNets, and damaged RetinaNets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .wrap import Wrapped, flat


def other_heads(*sets: Sequence[int], roi: bool = False) -> onnx.ModelProto:
    """A pyramid from P3 on. Each set is one head: the channels of its last convolution on each level."""
    random = np.random.default_rng(0)
    nodes, weights, outputs = [], [], []

    def conv(source: str, inputs: int, channels: int, stride: int, name: str) -> str:
        values = random.standard_normal((channels, inputs, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"{name}.weight"))
        nodes.append(helper.make_node("Conv", [source, f"{name}.weight"], [name], strides=[stride] * 2, pads=[1] * 4))
        return name

    feature = conv("images", 3, 8, 4, "stem")
    for level in range(max(map(len, sets))):
        feature = conv(feature, 8, 8, 2, f"p{level}")
        outputs += [
            conv(feature, 8, kind[level], 1, f"head_{k}_{level}") for k, kind in enumerate(sets) if level < len(kind)
        ]
    if roi:
        nodes.append(helper.make_node("RoiAlign", [feature, "rois", "batch"], ["regions"]))
        weights.append(numpy_helper.from_array(np.zeros((1, 4), np.float32), "rois"))
        weights.append(numpy_helper.from_array(np.zeros(1, np.int64), "batch"))
        outputs.append("regions")
    graph = helper.make_graph(
        nodes,
        "other",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ("N", 3, "H", "W"))],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def two_networks() -> onnx.ModelProto:
    """Two RetinaNets side by side in one graph."""
    first, second = Wrapped(3).network, Wrapped(5, seed=1).network
    return onnx.compose.merge_models(
        onnx.compose.add_prefix(first, "first/"), onnx.compose.add_prefix(second, "second/"), io_map=[]
    )


def custom_operator() -> onnx.ModelProto:
    w = Wrapped(3)
    node = next(item for item in w.nodes if item.op_type == "Relu")
    node.op_type, node.domain = "FusedRelu", "com.acme"
    return w.model(domains=["com.acme"])


def unknown_operator() -> onnx.ModelProto:
    w = Wrapped(3)
    next(item for item in w.nodes if item.op_type == "Relu").op_type = "Swishlike"
    return w.model()


def branch_inside() -> onnx.ModelProto:
    w = Wrapped(3)
    w.before()
    node = next(item for item in w.nodes if item.op_type == "Relu")
    source = node.input[0]

    def body(kind: str) -> onnx.GraphProto:
        inner = helper.make_node(kind, [source], [f"{kind}_inside"])
        return helper.make_graph([inner], kind, [], [onnx.ValueInfoProto(name=f"{kind}_inside")])

    choose = w.op("Cast", w.constant(1), to=TensorProto.BOOL)
    choice = helper.make_node("If", [choose], list(node.output))
    choice.attribute.extend(
        [helper.make_attribute("then_branch", body("Relu")), helper.make_attribute("else_branch", body("Identity"))]
    )
    node.CopyFrom(choice)
    return w.model()


def cycle() -> onnx.ModelProto:
    w = Wrapped(3)
    first = next(item for item in w.nodes if item.op_type == "Relu")
    first.op_type = "Add"
    first.input.append("logits_p3")
    return w.model()


def with_weight(values: np.ndarray | None = None, *, nan: bool = False) -> onnx.ModelProto:  # type: ignore[type-arg]
    """A RetinaNet whose first convolution has other weights, or one NaN in them."""
    w = Wrapped(3)
    name = next(item for item in w.nodes if item.op_type == "Conv").input[1]
    tensor = next(item for item in w.weights if item.name == name)
    if nan:
        values = numpy_helper.to_array(tensor).copy()
        values[0, 0, 0, 0] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    return w.model()


def grey() -> onnx.ModelProto:
    """A RetinaNet for images of one channel."""
    model = with_weight(np.zeros((8, 1, 3, 3), np.float32))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    return model


def two_inputs() -> onnx.ModelProto:
    """A RetinaNet with two image inputs, each with its own first convolution."""
    w = Wrapped(3)
    first = next(item for item in w.nodes if item.op_type == "Conv")
    other = onnx.NodeProto.FromString(first.SerializeToString())
    other.input[0], other.output[0] = "thermal", "thermal_features"
    add = helper.make_node("Add", ["visible_features", "thermal_features"], [first.output[0]])
    first.output[0] = "visible_features"
    at = w.nodes.index(first)
    w.nodes[at + 1 : at + 1] = [other, add]
    shape = ("N", 3, "H", "W")
    return w.model([("images", TensorProto.FLOAT, shape), ("thermal", TensorProto.FLOAT, shape)])


def scrambled_channels() -> onnx.ModelProto:
    """Rows and columns are swapped before the anchors are separated."""
    w = Wrapped(3)
    outputs = []
    for logits, deltas in zip(w.logits, w.deltas, strict=True):
        outputs += [flat(w, w.op("Transpose", logits, perm=[0, 1, 3, 2]), 3), flat(w, deltas, 4)]
    return w.model(outputs=outputs)
