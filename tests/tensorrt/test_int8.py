"""Tests INT8 for TensorRT: the form and placement of Q/DQ pairs, their scales, and the accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper
from pictures import Image, blocks
from PIL import Image as Pillow

from retinasdk import ImageError, ModelError, ModelSpec, list_models
from retinasdk.onnx_graph.calibration import network_inputs
from retinasdk.onnx_graph.network import Network, prepared
from retinasdk.onnx_graph.ranges import observe
from retinasdk.pipeline.preprocess import Transform, preprocess
from retinasdk.tensorrt.int8 import _half_above, quantize


def images(count: int = 3) -> list[Image]:
    return [blocks(90, 120, seed=seed) for seed in range(count)]


def run(model: onnx.ModelProto, tensor: Any) -> list[Any]:
    """Runs Q/DQ pairs one by one, because ONNX Runtime's int8 kernels saturate on processors without VNNI."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: list[Any] = session.run(None, {session.get_inputs()[0].name: tensor})
    return found


@pytest.fixture(scope="module")
def quantized(network: onnx.ModelProto, spec: ModelSpec) -> onnx.ModelProto:
    return quantize(network, spec, images())


def constants(model: onnx.ModelProto) -> dict[str, Any]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_the_form(network: onnx.ModelProto, quantized: onnx.ModelProto, spec: ModelSpec) -> None:
    """Codes are symmetric int8, weights have a scale for each output channel, biases and last layers are float32."""
    onnx.checker.check_model(quantized, full_check=True)
    values, nodes = constants(quantized), {output: n for n in quantized.graph.node for output in n.output}
    heads = {name for level in spec.levels for name in (level.logits, level.deltas)}
    convolutions = [node for node in quantized.graph.node if node.op_type == "Conv"]
    for node in convolutions:
        sources = [nodes[name].op_type if name in nodes else "weight" for name in node.input]
        if node.output[0] in heads:
            assert "DequantizeLinear" not in sources
            continue
        assert sources[:2] == ["DequantizeLinear", "DequantizeLinear"]
        assert values[node.input[2]].dtype == np.float32
        codes, scale, zero = (values[name] for name in nodes[node.input[1]].input)
        assert codes.dtype == zero.dtype == np.int8
        assert scale.shape == (len(codes),)
        assert (np.abs(codes.reshape(len(codes), -1).astype(int)).max(axis=1) >= 126).all()
    for node in quantized.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert not values[node.input[2]].any()
            scale = values[node.input[1]]
            assert (scale.astype(np.float16) == scale).all()
    assert {value.type.tensor_type.elem_type for value in quantized.graph.output} == {TensorProto.FLOAT}
    assert sum(node.op_type == "Conv" for node in network.graph.node) == len(convolutions)


def test_depthwise_convolutions_stay_out() -> None:
    model = next(item for item in list_models() if item.name == "blood-cells")
    nodes = quantize(onnx.load(model.path), model.spec, images(1)).graph.node
    producer = {output: node.op_type for node in nodes for output in node.output}
    for node in nodes:
        if node.op_type == "Conv" and any(item.name == "group" and item.i > 1 for item in node.attribute):
            assert producer.get(node.input[0]) != "DequantizeLinear"
            assert producer.get(node.input[1]) != "DequantizeLinear"
    assert sum(node.op_type == "QuantizeLinear" for node in nodes) > 20


def test_weights_are_as_near_as_int8_can(network: onnx.ModelProto, quantized: onnx.ModelProto) -> None:
    values, exact = constants(quantized), constants(network)
    weights = [name for name in exact if f"{name}/codes" in values]
    assert len(weights) > 5
    for name in weights:
        weight, scale = exact[name], values[f"{name}/scales"]
        back = values[f"{name}/codes"] * scale.reshape(-1, 1, 1, 1)
        assert (np.abs(back - weight) <= 0.5001 * scale.reshape(-1, 1, 1, 1)).all()


def test_pairs_are_where_tensorrt_wants_them(network: onnx.ModelProto, quantized: onnx.ModelProto) -> None:
    """A tensor has one pair. Pairs are before convolutions and at shortcuts, not between a convolution and its Relu."""
    nodes = quantized.graph.node
    producer = {output: node for node in nodes for output in node.output}
    encoded = [node.input[0] for node in nodes if node.op_type == "QuantizeLinear"]
    assert len(encoded) == len(set(encoded)) > 5
    readers: dict[str, list[str]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    for name in encoded:
        assert set(readers[name]) <= {"QuantizeLinear", "Conv"}  # no activation function; Conv: one that stays float
    additions = [node for node in nodes if node.op_type == "Add"]
    assert additions
    for node in additions:
        sources = [producer[name] for name in node.input]
        # In a feature pyramid nothing but a Resize, which moves codes, is between the pair and the addition.
        sources = [producer[source.input[0]] if source.op_type == "Resize" else source for source in sources]
        assert sorted(source.op_type for source in sources) == ["Conv", "DequantizeLinear"]


def test_shortcuts_of_convolutions(spec: ModelSpec) -> None:
    """If an addition reads two convolutions, as at the start of a ResNet's stage, one of them gets a pair."""
    rng = np.random.default_rng(0)
    weights = {
        name: rng.normal(size=(8, sides, 3, 3)).astype(np.float32) for name, sides in (("a", 3), ("b", 3), ("c", 8))
    }
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Conv", [spec.input, "a"], ["left"], pads=[1] * 4),
            onnx.helper.make_node("Conv", [spec.input, "b"], ["right"], pads=[1] * 4),
            onnx.helper.make_node("Add", ["left", "right"], ["sum"]),
            onnx.helper.make_node("Relu", ["sum"], ["active"]),
            onnx.helper.make_node("Conv", ["active", "c"], ["out"], pads=[1] * 4),
        ],
        "stage",
        [onnx.helper.make_tensor_value_info(spec.input, TensorProto.FLOAT, [1, 3, "h", "w"])],
        [onnx.helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 8, "h", "w"])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    found = quantize(model, spec, images(1))
    encoded = [node.input[0] for node in found.graph.node if node.op_type == "QuantizeLinear"]
    assert encoded == [spec.input, "left"]  # "active" is read by the last convolution alone, which stays float
    (addition,) = (node for node in found.graph.node if node.op_type == "Add")
    assert list(addition.input) == ["left/dequantized", "right"]


def test_ranges_are_those_of_the_cpu_path(
    network: onnx.ModelProto, quantized: onnx.ModelProto, spec: ModelSpec
) -> None:
    """The scales are those of the ranges that the CPU path measures."""
    seen = Network(prepared(network))
    ranges = observe(seen, network_inputs(images(), spec)).ranges
    scales = {
        name.removesuffix("/scale"): value for name, value in constants(quantized).items() if name.endswith("/scale")
    }
    assert len(scales) > 5
    for name, scale in scales.items():
        found = ranges[name]
        assert scale == _half_above(np.float32(max(-found.low, found.high)) / np.float32(127))


def test_networks_that_are_no_float32(network: onnx.ModelProto, quantized: onnx.ModelProto, spec: ModelSpec) -> None:
    with pytest.raises(ModelError, match="quantized already"):
        quantize(quantized, spec, images(1))


def test_heads_stay_near(network: onnx.ModelProto, quantized: onnx.ModelProto, spec: ModelSpec) -> None:
    """On images like those of the calibration, the error is a small part of the standard deviation."""
    transform = Transform.plan((90, 120), spec)
    tensor = preprocess([blocks(90, 120, seed=77)], [transform], spec).tensor
    for exact, rounded in zip(run(network, tensor), run(quantized, tensor), strict=True):
        error = np.sqrt(np.mean((rounded - exact) ** 2))
        assert 0 < error < 0.1 * exact.std()


def test_ranges_come_from_the_images(network: onnx.ModelProto, spec: ModelSpec) -> None:
    """Dark and bright images result in different scales of the input."""
    first = next(node for node in network.graph.node if node.op_type == "Conv")

    def input_scale(level: int) -> float:
        model = quantize(network, spec, [np.full((90, 120, 3), level, np.uint8)])
        node = next(n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == first.input[0])
        return float(constants(model)[node.input[1]])

    mean, std = np.array(spec.normalise.mean), np.array(spec.normalise.std)
    for level in (0, 255):
        largest = np.abs((level - mean) / std).max()
        assert input_scale(level) * 127 == pytest.approx(largest, rel=0.001)


def test_a_fixed_batch(network: onnx.ModelProto, spec: ModelSpec) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(network)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    assert any(node.op_type == "QuantizeLinear" for node in quantize(model, spec, images(1), batch=2).graph.node)


def test_opset_for_typed_graphs_only(network: onnx.ModelProto, spec: ModelSpec) -> None:
    """The opset is only raised for versions that take types from the graph: TensorRT 8 reads none above 17."""

    def opset(model: onnx.ModelProto) -> int:
        return next(item.version for item in model.opset_import if item.domain == "")

    assert opset(quantize(network, spec, images(1), half_scales=False)) == opset(network)
    assert opset(quantize(network, spec, images(1))) == max(19, opset(network))


def test_wrong_images(network: onnx.ModelProto, spec: ModelSpec, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one image, but got none"):
        quantize(network, spec, [])
    file = tmp_path / "a.jpg"
    file.write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"a\.jpg"):
        quantize(network, spec, [file])
    Pillow.fromarray(blocks()).save(file)
    quantize(network, spec, [file])


@pytest.mark.parametrize(("factor", "message"), [(np.nan, "NaN or infinite"), (1e30, "activations must be finite")])
def test_networks_that_are_not_finite(network: onnx.ModelProto, spec: ModelSpec, factor: float, message: str) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(network)
    weights = [node.input[1] for node in model.graph.node if node.op_type == "Conv"][:2]
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            scaled = numpy_helper.to_array(tensor) * np.float32(factor)
            tensor.CopyFrom(numpy_helper.from_array(scaled, tensor.name))
    with pytest.raises(ModelError, match=message):
        quantize(model, spec, images(1))


@given(st.lists(st.floats(2.0**-30, 60000, width=32), min_size=1))
def test_half_above(values: list[float]) -> None:
    given_values = np.array(values, np.float32)
    found = _half_above(given_values)
    assert (found >= given_values).all()
    assert (found.astype(np.float16) == found).all()
    below = np.nextafter(found.astype(np.float16), np.float16(0)).astype(np.float32)
    assert (below < given_values).all()
