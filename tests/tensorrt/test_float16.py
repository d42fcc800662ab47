"""Tests the conversion to float16: which tensors are converted, and that the results stay close."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from retinasdk import ModelError, ModelSpec, list_models
from retinasdk.onnx_graph.layers import layers_before
from retinasdk.tensorrt.float16 import half_tensors, to_float16
from retinasdk.tensorrt.int8 import quantize


def run(model: onnx.ModelProto, tensor: Any) -> dict[str, Any]:
    """Returns outputs by name. ONNX Runtime's optimizations are off: they could hide wrong casts."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_outputs()]
    given = session.get_inputs()[0]
    tensor = tensor.astype(np.float16 if given.type == "tensor(float16)" else np.float32)
    return dict(zip(names, session.run(names, {given.name: tensor}), strict=True))


def heads(spec: ModelSpec) -> list[str]:
    return [name for level in spec.levels for name in (level.logits, level.deltas)]


def types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    found = {tensor.name: tensor.data_type for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.output, *inferred.value_info):
        found[value.name] = value.type.tensor_type.elem_type
    return found


def test_the_network_stays_itself(network: onnx.ModelProto, spec: ModelSpec) -> None:
    """The graph is valid and sorted, its tensors have one type each, and its results are close to float32."""
    half = to_float16(network)
    onnx.checker.check_model(half, full_check=True)
    tensor = np.random.default_rng(0).standard_normal((2, 3, 96, 128)).astype(np.float32)
    exact, rounded = run(network, tensor), run(half, tensor)
    for name, wanted in exact.items():
        assert rounded[name].dtype == np.float16
        # Half a unit in the last place of float16 is 2^-11; some ten layers on top of each other.
        assert np.abs(rounded[name] - wanted).max() <= 10 * 2.0**-11 * np.abs(wanted).max()
        assert (rounded[name] != wanted).any()


def test_nothing_stays_float32(network: onnx.ModelProto, spec: ModelSpec) -> None:
    """A plain network has no cast at all: input, weights and heads are float16."""
    half = to_float16(network)
    of = types(half)
    assert not [node for node in half.graph.node if node.op_type == "Cast"]
    assert {of[name] for name in (spec.input, *heads(spec))} == {TensorProto.FLOAT16}
    assert {of[t] for n in half.graph.node if n.op_type == "Conv" for t in n.input} == {TensorProto.FLOAT16}
    assert half_tensors(half) == {spec.input, *heads(spec)}
    assert half_tensors(network) == set()


def casts(model: onnx.ModelProto) -> list[tuple[str, str]]:
    return [(node.input[0], node.output[0]) for node in model.graph.node if node.op_type == "Cast"]


def test_inputs_that_are_read_in_float32() -> None:
    """A node that stays float32 reads the exact input. The shape of the input may be read in any type."""
    exact = [helper.make_node("Softmax", ["x"], ["s"]), helper.make_node("Add", ["x", "s"], ["t"])]
    half = to_float16(graph(*exact, LAST, weight=WEIGHT))
    assert half_tensors(half) == {"y"}
    assert ("x", "x_float16") in casts(half)
    shape = [helper.make_node("Shape", ["x"], ["sides"]), helper.make_node("Reshape", ["x", "sides"], ["t"])]
    half = to_float16(graph(*shape, LAST, weight=WEIGHT))
    onnx.checker.check_model(half, full_check=True)
    assert half_tensors(half) == {"x", "y"}
    assert casts(half) == []


def test_outputs_of_operators_that_stay_float32() -> None:
    """All outputs are float16: there the cast stands at the end, and other readers keep the exact tensor."""
    nodes = [
        helper.make_node("Conv", ["x", "weight"], ["c"]),
        helper.make_node("Softmax", ["c"], ["y"]),
        helper.make_node("ReduceMax", ["y"], ["top"], keepdims=1),
    ]
    model = graph(*nodes, weight=WEIGHT)
    model.graph.output.append(helper.make_tensor_value_info("top", TensorProto.FLOAT, None))
    half = to_float16(model)
    onnx.checker.check_model(half, full_check=True)
    assert casts(half)[-2:] == [("y_float32", "y"), ("top_float32", "top")]
    assert next(node for node in half.graph.node if node.op_type == "ReduceMax").input[0] == "y_float32"
    found, wanted = run(half, X), run(model, X)
    for name, exact in wanted.items():
        assert found[name].dtype == np.float16
        assert np.abs(found[name] - exact).max() <= 4 * 2.0**-11 * np.abs(exact).max()


@pytest.mark.parametrize("side", [-1, 1])
def test_how_far_rounding_moves_a_score(side: int) -> None:
    """The bound of Note [Float16 heads]: scores of rounded logits differ by 1.1e-4 at most."""
    logits = side * np.linspace(0, 30, 1_000_001, dtype=np.float32)
    exact, rounded = (1 / (1 + np.exp(-z.astype(np.float64))) for z in (logits, logits.astype(np.float16)))
    assert 1.0e-4 < np.abs(exact - rounded).max() <= 1.1e-4


def test_the_given_model_is_left_alone(network: onnx.ModelProto, spec: ModelSpec) -> None:
    before = network.SerializeToString(deterministic=True)
    to_float16(network)
    quantize(network, spec, [np.zeros((40, 50, 3), np.uint8)])
    assert network.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("name", ["people", "blood-cells", "tree-crowns"])
def test_bundled_models(name: str) -> None:
    model = next(item for item in list_models() if item.name == name)
    half = to_float16(onnx.load(model.path))
    onnx.checker.check_model(half, full_check=True)
    assert half.ByteSize() < 0.65 * Path(model.path).stat().st_size


def graph(*nodes: onnx.NodeProto, opset: int = 17, **initializers: Any) -> onnx.ModelProto:
    """Returns a graph from x (2, 3, 4, 4) to y."""
    made = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in initializers.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


X = np.random.default_rng(1).uniform(-1, 1, (2, 3, 4, 4)).astype(np.float32)
WEIGHT = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
LAST = helper.make_node("Conv", ["t", "weight"], ["y"])


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        # Both types meet at an addition; one tensor goes to both.
        ([helper.make_node("Softmax", ["x"], ["s"]), helper.make_node("Add", ["x", "s"], ["t"])], {}),
        # Its scales are float32 by definition, its data need not be.
        (
            [helper.make_node("Resize", ["x", "", "scales"], ["t"], mode="nearest")],
            {"scales": np.array([1, 1, 2, 2], np.float32)},
        ),
        # Bounds that only mean "very large" are cut to what float16 holds.
        (
            [helper.make_node("Clip", ["x", "low", "high"], ["t"])],
            {"low": np.array(-3.4e38, np.float32), "high": np.array(3.4e38, np.float32)},
        ),
        # The same constant in both types.
        (
            [
                helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=1),
                helper.make_node("Pow", ["sum", "two"], ["squared"]),
                helper.make_node("Mul", ["x", "two"], ["doubled"]),
                helper.make_node("Add", ["doubled", "squared"], ["t"]),
            ],
            {"two": np.array(2, np.float32)},
        ),
        # A Constant node, an integer tensor, an empty input.
        (
            [
                helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.float32(0.5), "c")),
                helper.make_node("Mul", ["x", "c"], ["m"]),
                helper.make_node("Shape", ["m"], ["shape"]),
                helper.make_node("Reshape", ["m", "shape"], ["r"]),
                helper.make_node("Clip", ["r", "", "high"], ["t"]),
            ],
            {"high": np.array(0.25, np.float32)},
        ),
        # Constant nodes whose values are attributes. They stay nodes, and their float32 values are cast.
        (
            [
                helper.make_node("Constant", [], ["half"], value_float=0.5),
                helper.make_node("Constant", [], ["steps"], value_floats=[1.0, 2.0, 3.0, 4.0]),
                helper.make_node("Constant", [], ["shape"], value_ints=[2, 3, 4, 4]),
                helper.make_node("Mul", ["x", "half"], ["m"]),
                helper.make_node("Add", ["m", "steps"], ["a"]),
                helper.make_node("Reshape", ["a", "shape"], ["t"]),
            ],
            {},
        ),
    ],
    ids=["types meet", "resize", "bounds", "constant in both", "constant node", "constants in attributes"],
)
def test_patterns(nodes: list[onnx.NodeProto], constants: dict[str, Any]) -> None:
    model = graph(*nodes, LAST, weight=WEIGHT, **constants)
    half = to_float16(model)
    onnx.checker.check_model(half, full_check=True)
    wanted = run(model, X)["y"]
    assert np.abs(run(half, X)["y"] - wanted).max() <= 4 * 2.0**-11 * np.abs(wanted).max()


@pytest.mark.parametrize(("opset", "scale_type"), [(17, TensorProto.FLOAT), (19, TensorProto.FLOAT16)])
def test_scales(opset: int, scale_type: int) -> None:
    """From opset 19 on, scales may be float16. Then there is no cast between them and the convolution."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("Conv", ["d", "weight"], ["t"]),
    ]
    model = graph(*nodes, LAST, opset=opset, weight=WEIGHT, scale=np.float32(2.0**-7), zero=np.int8(0))
    half = to_float16(model)
    onnx.checker.check_model(half, full_check=True)
    of = types(half)
    assert {of[n.input[1]] for n in half.graph.node if n.op_type == "DequantizeLinear"} == {scale_type}
    # A value that float16 rounds to the other side of a step's middle is one step away.
    assert np.abs(run(half, X)["y"] - run(model, X)["y"]).max() <= 2.0**-7


def test_outputs_that_are_no_float32_keep_their_type() -> None:
    model = graph(
        helper.make_node("Conv", ["x", "weight"], ["y"]), helper.make_node("Shape", ["y"], ["n"]), weight=WEIGHT
    )
    model.graph.output.append(helper.make_tensor_value_info("n", TensorProto.INT64, [4]))
    half = to_float16(model)
    assert [types(half)[name] for name in ("y", "n")] == [TensorProto.FLOAT16, TensorProto.INT64]
    assert run(half, X)["n"].tolist() == [2, 3, 4, 4]


def test_weights_that_float16_cannot_hold() -> None:
    model = graph(helper.make_node("Conv", ["x", "huge"], ["t"], name="wide"), LAST, weight=WEIGHT, huge=WEIGHT * 1e5)
    with pytest.raises(ModelError, match=r"Node 'wide' \(Conv\) has the weight 1e\+05 in 'huge', but .* 65504"):
        to_float16(model)


def test_control_flow() -> None:
    branch = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["b"])], "b", [], [helper.make_empty_tensor_value_info("b")]
    )
    choice = helper.make_node("If", ["yes"], ["t"], name="either", then_branch=branch, else_branch=branch)
    with pytest.raises(ModelError, match=r"Node 'either' is a branch or loop \(If\), .* Export"):
        to_float16(graph(choice, LAST, weight=WEIGHT, yes=np.array(True)))


def test_layers_before() -> None:
    """Goes back from the output to the first weighted node on every path."""
    nodes = [
        helper.make_node("Conv", ["x", "weight"], ["early"]),
        helper.make_node("Conv", ["early", "weight"], ["left"]),
        helper.make_node("Conv", ["early", "weight"], ["right"]),
        helper.make_node("Add", ["left", "right"], ["sum"]),
        helper.make_node("Sigmoid", ["sum"], ["y"]),
    ]
    found = {node.output[0] for node in layers_before(graph(*nodes, weight=WEIGHT).graph, ["y"])}
    assert found == {"left", "right", "sum", "y"}
