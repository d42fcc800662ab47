"""The 8-bit form for ONNX Runtime's CPU: against arithmetic in int64, and what ONNX Runtime makes of the graph."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from retinasdk import ModelError
from retinasdk.onnx_graph.network import Network, Range, prepared
from retinasdk.onnx_graph.ranges import observe
from retinasdk.quantization.sensitivity import layers_to_keep, worthwhile
from retinasdk.quantization.writing import Codes, quantized

Array = npt.NDArray[Any]


def run(model: onnx.ModelProto, x: Array, *, optimised: Path | None = None, as_written: bool = False) -> list[Array]:
    """optimised: where to write what ONNX Runtime makes of the graph. as_written: node by node, nothing fused."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if as_written:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: list[Array] = session.run(None, {session.get_inputs()[0].name: x})
    return found


def convolutions(
    weights: list[Array], biases: list[Array], *, activation: str | None = None, groups: int = 1, opset: int = 17
) -> onnx.ModelProto:
    """x (N, C, H, W) through one convolution after the other, each with its activation, to "out"."""
    nodes, constants, tensor = [], [], "x"
    for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        constants += [numpy_helper.from_array(weight, f"w{index}"), numpy_helper.from_array(bias, f"b{index}")]
        output = "out" if index == len(weights) - 1 else f"y{index}"
        written = f"c{index}" if activation else output
        pads = [weight.shape[2] // 2] * 4
        nodes.append(helper.make_node("Conv", [tensor, f"w{index}", f"b{index}"], [written], pads=pads, group=groups))
        if activation == "Clip":
            constants += [numpy_helper.from_array(np.float32(v), f"{n}{index}") for v, n in ((0, "low"), (6, "high"))]
            nodes.append(helper.make_node("Clip", [written, f"low{index}", f"high{index}"], [output]))
        elif activation:
            nodes.append(helper.make_node(activation, [written], [output]))
        tensor = output
    shape = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", None, "H", "W"]) for name in ("x", "out")]
    graph = helper.make_graph(nodes, "convolutions", shape[:1], shape[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def codes_of(values: Array, low: float, high: float) -> tuple[Array, float, int]:
    """uint8 codes, scale and zero point, as ONNX's QuantizeLinear defines them for a range that is widened to 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / 255) or np.float32(1)
    zero = int(np.rint(-low / scale))
    return np.clip(np.rint(values / scale).astype(np.int64) + zero, 0, 255), float(scale), zero


def sums(codes: Array, weight: Array, zero: int, groups: int) -> Array:
    """The convolution in int64, padded with the code of 0, stride 1."""
    out, inner, kernel, _ = weight.shape
    margin = kernel // 2
    padded = np.pad(codes, ((0, 0), (0, 0), (margin, margin), (margin, margin)), constant_values=zero) - zero
    height, width = codes.shape[2:]
    result = np.zeros((len(codes), out, height, width), np.int64)
    for channel in range(out):
        first = channel // (out // groups) * inner
        for y in range(kernel):
            for x in range(kernel):
                part = padded[:, first : first + inner, y : y + height, x : x + width]
                result[:, channel] += np.einsum("nchw,c->nhw", part, weight[channel, :, y, x])
    return result


def largest_code_step(channel: Array, *, depthwise: bool) -> float:
    """Of the weights (C, h, w) of one output channel: codes up to 127, of neighbours of one sign together too."""
    row = [float(value) for value in channel.transpose(1, 2, 0).ravel()]
    bounds = [abs(value) for value in row]
    if not depthwise:
        bounds += [abs(a + b) for a, b in itertools.pairwise(row) if a * b > 0]
    return max(bounds) / 127


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    kernel=st.sampled_from([1, 3]),
    shape=st.sampled_from([(3, 5, 1), (16, 32, 1), (32, 33, 1), (8, 8, 8), (32, 32, 32), (8, 4, 2)]),
    activation=st.sampled_from([None, "Relu", "Clip"]),
    extreme=st.booleans(),
)
def test_a_layer_is_computed_in_integers(
    seed: int, kernel: int, shape: tuple[int, int, int], activation: str | None, extreme: bool
) -> None:
    """To the code, but for sums on the edge between two. Extreme: all activations as large as they can be, so that CPUs
    without VNNI cut sums of two products where weights are too wide: Note [Pairs of products]."""
    inner, out, groups = shape
    random = np.random.default_rng(seed)
    weight = random.standard_normal((out, inner // groups, kernel, kernel)).astype(np.float32)
    bias = random.standard_normal(out).astype(np.float32)
    x = random.uniform(-1, 3, (2, inner, 6, 7)).astype(np.float32)
    if extreme:
        x = np.full_like(x, 3)
    network = Network(prepared(convolutions([weight], [bias], activation=activation, groups=groups)))
    exact = run(network.model, x)[0]
    ranges = {"x": Range(float(x.min()), float(x.max())), "out": Range(float(exact.min()), float(exact.max()))}
    found = run(quantized(network, network.layers, ranges), x)[0]

    codes, scale, zero = codes_of(x, float(x.min()), float(x.max()))
    steps = np.array([largest_code_step(channel, depthwise=groups == out > 1) for channel in weight], np.float32)
    integers = np.rint(weight / steps.reshape(-1, 1, 1, 1)).astype(np.int64)  # in float32, as ONNX defines it
    total = sums(codes, integers, zero, groups) * (scale * steps.astype(np.float64)).reshape(
        1, -1, 1, 1
    ) + bias.reshape(1, -1, 1, 1)
    if activation:
        total = np.clip(total, 0, 6 if activation == "Clip" else None)
    wanted, out_scale, out_zero = codes_of(total, float(exact.min()), float(exact.max()))
    got = np.rint(found / out_scale).astype(np.int64) + out_zero
    np.testing.assert_allclose(found, (got - out_zero) * out_scale, rtol=1e-5, atol=1e-6)
    assert np.abs(got - wanted).max() <= 1
    if not extreme:  # where all sums of a channel are one, which may lie on an edge
        assert (got != wanted).mean() < 0.02


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    kernel=st.sampled_from([1, 3]),
    shape=st.sampled_from([(3, 5, 1), (16, 32, 1), (32, 32, 32), (8, 4, 2)]),
)
def test_biases_take_out_the_shift_of_rounded_weights(seed: int, kernel: int, shape: tuple[int, int, int]) -> None:
    """Exactly, where each channel is its mean everywhere: what is left is the rounding of biases and of the output."""
    inner, out, groups = shape
    random = np.random.default_rng(seed)
    weight = random.standard_normal((out, inner // groups, kernel, kernel)).astype(np.float32)
    means = random.integers(0, 256, inner) / 64  # codes of the range below
    products = np.repeat(means.reshape(groups, -1), out // groups, axis=0) * weight.astype(float).sum((2, 3))
    bias = (random.uniform(-0.1, 0.1, out) - products.sum(axis=1)).astype(np.float32)  # so that steps are small
    wanted = products.sum(axis=1) + bias
    x = np.broadcast_to(means.reshape(1, -1, 1, 1), (1, inner, 5, 6)).astype(np.float32)
    network = Network(prepared(convolutions([weight], [bias], groups=groups)))
    ranges = {"x": Range(0, 255 / 64), "out": Range(-0.1, 0.1)}

    def off(channel_means: dict[str, Array] | None) -> Array:
        found = run(quantized(network, network.layers, ranges, channel_means), x)[0]
        return np.abs(found[0, :, 2, 3] - wanted)

    bias_steps = [largest_code_step(channel, depthwise=groups == out > 1) / 64 for channel in weight]
    assert (off({"x": means}) <= 0.51 * (0.2 / 255 + np.array(bias_steps)) + 1e-5).all()
    if kernel > 1:
        assert off(None).max() > 10 * 0.2 / 255


def test_each_reader_of_shared_weights_has_its_own_bias() -> None:
    """Also where there was none."""
    random = np.random.default_rng(0)
    weight = random.standard_normal((4, 4, 3, 3)).astype(np.float32)
    bias = random.standard_normal(4).astype(np.float32)
    model = convolutions([weight, weight], [bias, bias])
    model.graph.node[1].input[:] = ["y0", "w0"]
    network = Network(prepared(model))
    ranges = {name: Range(-4, 4) for name in ("x", "y0", "out")}
    means = {"x": random.uniform(0, 2, 4), "y0": random.uniform(-1, 0, 4)}
    found = quantized(network, network.layers, ranges, means)
    constants = {item.name: numpy_helper.to_array(item).astype(float) for item in found.graph.initializer}
    steps = np.array([largest_code_step(channel, depthwise=False) for channel in weight]).reshape(-1, 1, 1, 1)
    error = weight - np.rint(weight / steps) * steps
    for tensor, output, before in (("x", "y0", bias), ("y0", "out", 0)):
        wanted = before + (error * means[tensor].reshape(1, -1, 1, 1)).sum((1, 2, 3))
        got = constants[f"{output}/bias/codes"] * constants[f"{output}/bias/scales"]
        np.testing.assert_allclose(got, wanted, atol=0.51 * 8 / 255 * steps.max())


def test_corrected_biases_lessen_the_error(network: onnx.ModelProto) -> None:
    """Of the whole network, on pictures that the means are not of."""
    whole = Network(prepared(network))
    random = np.random.default_rng(0)
    images = [random.uniform(0, 2, (1, 3, 96, 128)).astype(np.float32) for _ in range(6)]
    observed = observe(whole, images[:3])
    errors = {}
    for name, means in (("plain", None), ("corrected", observed.means)):
        model = quantized(whole, whole.layers, observed.ranges, means)
        pairs = [zip(run(network, x), run(model, x), strict=True) for x in images[3:]]
        errors[name] = sum(float(((wanted - got) ** 2).sum()) for outputs in pairs for wanted, got in outputs)
    assert errors["corrected"] < 0.9 * errors["plain"]


def test_layers_in_float32_stay_exact(tmp_path: Path) -> None:
    """ONNX Runtime would quantize the weights of a convolution behind codes itself: Note [Float convolutions]."""
    random = np.random.default_rng(1)
    weights = [random.standard_normal((8, 8, 3, 3)).astype(np.float32) for _ in range(3)]
    weights[1][0] *= 1000  # with one scale for all channels nothing would be left of the others
    biases = [np.zeros(8, np.float32)] * 3
    network = Network(prepared(convolutions(weights, biases, activation="Relu")))
    x = random.uniform(-1, 1, (1, 8, 9, 9)).astype(np.float32)
    ranges = observe(network, [x]).ranges
    for layers in (["w0"], ["w0", "w2"]):
        model = quantized(network, layers, ranges)
        found = run(model, x, optimised=tmp_path / "optimised.onnx")[0]
        kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
        assert kinds.count("QLinearConv") == len(layers)
        wanted = run(model, x, as_written=True)[0]
        step = Codes.of(ranges["out"]).scale if "w2" in layers else 0
        assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max() + 1.01 * step


def test_chains_stay_in_codes(network: onnx.ModelProto, tmp_path: Path) -> None:
    """Every convolution, addition, pooling and resize in 8 bits, no activation function left, few ways to codes."""
    whole = Network(prepared(network))
    x = np.random.default_rng(0).standard_normal((1, 3, 96, 128)).astype(np.float32)
    model = quantized(whole, whole.layers, observe(whole, [x]).ranges)
    onnx.checker.check_model(model, full_check=True)
    run(model, x, optimised=tmp_path / "optimised.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    before = [node.op_type for node in network.graph.node]
    assert kinds.count("QLinearConv") == before.count("Conv")
    assert kinds.count("QLinearAdd") == before.count("Add")
    assert "Conv" not in kinds
    assert kinds.count("Relu") <= 1  # of P7's input, which is P6 itself for the heads
    assert kinds.count("QuantizeLinear") <= 2  # the input, and behind that Relu


def test_any_size_and_batch(network: onnx.ModelProto) -> None:
    whole = Network(prepared(network))
    random = np.random.default_rng(0)
    images = [random.standard_normal((1, 3, *size)).astype(np.float32) for size in ((64, 96), (96, 64))]
    model = quantized(whole, whole.layers, observe(whole, images).ranges)
    for image in images:
        twice = run(model, np.repeat(image, 2, axis=0))
        for alone, both, exact in zip(run(model, image), twice, run(network, image), strict=True):
            np.testing.assert_array_equal(both[0], alone[0])
            np.testing.assert_array_equal(both[1], alone[0])
            if exact.size > 500:  # fewer do not spread
                assert np.sqrt(np.mean((alone - exact) ** 2)) < 0.15 * exact.std()


def test_ranges_and_work_are_counted(network: onnx.ModelProto) -> None:
    whole = Network(prepared(network))
    images = [np.full((1, 3, 64, 96), value, np.float32) for value in (-2, 3)]
    observed = observe(whole, images)
    assert observed.ranges["images"] == Range(-2, 3)
    np.testing.assert_allclose(observed.means["images"], [0.5] * 3)
    first = next(node for node in network.graph.node if node.op_type == "Conv")
    assert observed.work[first.input[1]] == 2 * 8 * 32 * 48 * 27  # images, channels, half the sides, 3 x 3 x 3 weights
    shared = {name: len(nodes) for name, nodes in whole.layers.items() if len(nodes) > 1}
    assert list(shared.values()) == [5] * 4  # both heads' tower and last layer, on five levels


def test_means_are_of_channels() -> None:
    """Of what each layer reads; all images count alike, whatever their size."""
    random = np.random.default_rng(0)
    weights = [random.standard_normal((4, 4, 3, 3)).astype(np.float32) for _ in range(2)]
    biases = [random.standard_normal(4).astype(np.float32) for _ in range(2)]
    images = [random.uniform(0, high, (2, 4, *size)).astype(np.float32) for high, size in ((1, (8, 8)), (5, (4, 6)))]
    found = observe(Network(prepared(convolutions(weights, biases))), images).means
    assert found.keys() == {"x", "y0"}
    first = convolutions(weights[:1], biases[:1])
    for name, tensors in (("x", images), ("y0", [run(first, x)[0] for x in images])):
        wanted = np.mean([tensor.astype(float).mean(axis=(0, 2, 3)) for tensor in tensors], axis=0)
        np.testing.assert_allclose(found[name], wanted, rtol=1e-4, atol=1e-5)


def test_last_layers(network: onnx.ModelProto) -> None:
    chain = [np.ones((4, 4, 1, 1), np.float32)] * 3, [np.zeros(4, np.float32)] * 3
    for activation in (None, "Relu", "Clip"):
        assert Network(prepared(convolutions(*chain, activation=activation))).last == {"w2"}
    outputs = {value.name for value in network.graph.output}
    writers = {node.input[1] for node in network.graph.node if node.output[0] in outputs}
    assert len(writers) == 2
    assert Network(prepared(network)).last == writers


def test_batch_norms_are_folded() -> None:
    model = convolutions([np.ones((4, 3, 1, 1), np.float32)], [np.zeros(4, np.float32)])
    model.graph.node[0].output[0] = "c"
    statistics = {"scale": 2, "shift": 1, "mean": 0.5, "variance": 4}
    constants = [numpy_helper.from_array(np.full(4, value, np.float32), name) for name, value in statistics.items()]
    model.graph.initializer.extend(constants)
    model.graph.node.append(helper.make_node("BatchNormalization", ["c", *statistics], ["out"]))
    network = Network(prepared(model))
    assert [node.op_type for node in network.model.graph.node] == ["Conv"]
    assert len(network.layers) == 1
    x = np.ones((1, 3, 2, 2), np.float32)
    np.testing.assert_allclose(run(network.model, x)[0], run(model, x)[0], rtol=1e-5)


def test_old_opsets() -> None:
    """Converted where that can be done; else refused."""
    old = convolutions([np.ones((4, 3, 3, 3), np.float32)], [np.ones(4, np.float32)], activation="Relu", opset=11)
    assert [item.version for item in prepared(old).opset_import] == [13]
    x = np.ones((1, 3, 4, 4), np.float32)
    np.testing.assert_array_equal(run(prepared(old), x)[0], run(old, x)[0])
    old.graph.node.append(helper.make_node("NoSuchOperator", ["out"], ["other"]))
    with pytest.raises(ModelError, match=r"has opset 11, but quantization needs 13 or newer\. It cannot be converted"):
        prepared(old)


def test_what_cannot_be_quantized() -> None:
    weight, bias = np.ones((4, 3, 1, 1), np.float32), np.zeros(4, np.float32)
    with pytest.raises(ModelError, match="The weight 'w0' has values that are NaN or infinite"):
        prepared(convolutions([weight * np.float32(np.nan)], [bias]))
    with pytest.raises(ModelError, match=r"has float16 weights .* but quantization needs float32"):
        prepared(convolutions([weight.astype(np.float16)], [bias.astype(np.float16)]))
    network = Network(prepared(convolutions([weight], [bias])))
    with pytest.raises(ModelError, match="computes inf in the tensor 'x', but activations must be finite"):
        observe(network, [np.full((1, 3, 2, 2), np.inf, np.float32)])


def test_channels_of_nothing_but_a_bias() -> None:
    """Weights of 0, or next to it, under a large bias, which int32 could not hold in their scale: it stays."""
    weight = np.array([0, 1e-30, 1], np.float32).reshape(3, 1, 1, 1)
    bias = np.array([5, -5, 0.5], np.float32)
    network = Network(prepared(convolutions([weight], [bias])))
    x = np.linspace(0, 1, 16, dtype=np.float32).reshape(1, 1, 4, 4)
    found = run(quantized(network, network.layers, {"x": Range(0, 1), "out": Range(-5, 5)}), x)[0]
    np.testing.assert_allclose(found, run(network.model, x)[0], atol=0.6 * 10 / 255)


@given(
    low=st.floats(-1e6, 1e6, width=32), high=st.floats(-1e6, 1e6, width=32), other=st.sampled_from([0.0, 1e-38, 1e-45])
)
def test_codes_hold_zero_and_both_ends(low: float, high: float, other: float) -> None:
    low, high = sorted((low, high))
    for found in (Range(low, high), Range(-other, other)):
        codes = Codes.of(found)
        assert 0 <= codes.zero <= 255
        assert np.isfinite(codes.scale)
        assert codes.scale > 0
        for end in (min(found.low, 0), max(found.high, 0)):
            code = np.clip(np.rint(end / codes.scale) + codes.zero, 0, 255)
            assert abs((code - codes.zero) * float(codes.scale) - end) <= 1.01 * codes.scale


@given(losses=st.lists(st.floats(0, 1), min_size=1, max_size=20), share=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
def test_layers_to_keep(losses: list[float], share: float, seed: int) -> None:
    """What is left is within the share, and would not be with one layer more."""
    named = {f"w{index}": loss for index, loss in enumerate(losses)}
    work = dict(zip(named, np.random.default_rng(seed).integers(1, 1000, len(named)).tolist(), strict=True))
    kept = layers_to_keep(named, work, share)
    squares = {name: loss**2 for name, loss in named.items()}
    left = sum(value for name, value in squares.items() if name not in kept)
    assert left <= share * sum(squares.values()) + 1e-9
    if kept:
        last = min(kept, key=lambda name: squares[name] / work[name])
        assert left + squares[last] > share * sum(squares.values()) - 1e-9
        assert all(squares[last] / work[last] >= squares[name] / work[name] for name in named.keys() - kept)


def test_crossings(network: onnx.ModelProto) -> None:
    """Into codes and back only where 8 bits meet float32: nothing between a convolution and its activation function."""
    chain = Network(prepared(convolutions([np.ones((4, 4, 1, 1), np.float32)] * 3, [np.zeros(4, np.float32)] * 3)))
    active = convolutions([np.ones((4, 4, 1, 1), np.float32)] * 3, [np.zeros(4, np.float32)] * 3, activation="Relu")
    for model in (chain, Network(prepared(active))):
        assert model.crossings([]) == set()
        assert model.crossings(["w0"]) == {"x", "y0"}
        assert model.crossings(["w1"]) == {"y0", "y1"}
        assert model.crossings(["w0", "w1"]) == {"x", "y1"}
        assert model.crossings(["w0", "w2"]) == {"x", "y0", "y1", "out"}
        assert model.crossings(model.layers) == {"x", "out"}
    whole = Network(prepared(network))
    found = whole.crossings(whole.layers)
    assert found >= {"images"} | whole.outputs
    assert len(found - {"images"} - whole.outputs) == 2  # P6 to its Relu, which the heads do not read, and that to P7


def test_islands_of_codes_are_not_worthwhile() -> None:
    """A thin 1 x 1 layer between two in float32 goes with them; one of 3 x 3 and many channels stays."""
    random = np.random.default_rng(0)
    biases = [np.zeros(64, np.float32)] * 3
    for kernel, wanted in ((1, set()), (3, {"w1"})):
        weights = [random.standard_normal((64, 64, kernel, kernel)).astype(np.float32) for _ in range(3)]
        network = Network(prepared(convolutions(weights, biases, activation="Relu")))
        observed = observe(network, [random.standard_normal((1, 64, 8, 8)).astype(np.float32)])
        assert worthwhile(network, {"w1"}, observed) == wanted
        assert worthwhile(network, network.layers, observed) == set(network.layers)
