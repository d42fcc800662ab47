"""Tests that 8-bit graphs are rewritten, and that the codes are those of ONNX Runtime."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from retinasdk import Detector, _native
from retinasdk.backends import blocked_graph, quantized_graph, sessions
from retinasdk.backends.graph_edit import Rewritten
from retinasdk.backends.lent_weights import lent
from retinasdk.models import find_model
from retinasdk.onnx_graph.calibration import network_inputs
from retinasdk.onnx_graph.network import Network, Range, prepared
from retinasdk.onnx_graph.ranges import observe
from retinasdk.quantization.writing import quantized

ASTRONAUT = Path(__file__).parents[2] / "examples/photos/people/astronaut.jpg"

pytestmark = pytest.mark.skipif(blocked_graph.library() is None, reason="retinasdk was built without its operators")


class Floats:
    """A network in float32, built layer by layer."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.channels = {"x": 3}

    def constant(self, values: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

    def add(self, kind: str, inputs: list[str], channels: int, name: str = "", **attributes: Any) -> str:
        output = name or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        self.channels[output] = channels
        return output

    def conv(self, x: str, out: int, side: int = 1, stride: int = 1, *, depthwise: bool = False, name: str = "") -> str:
        group = self.channels[x] if depthwise else 1
        weights = self.random.normal(size=(out, self.channels[x] // group, side, side))
        weights *= 1 / np.sqrt(weights[0].size)
        inputs = [x, self.constant(weights)]
        if self.random.random() < 0.8:
            inputs.append(self.constant(self.random.normal(size=out) * 0.2))
        pads = [side // 2] * 4
        return self.add("Conv", inputs, out, name, group=group, strides=[stride] * 2, pads=pads)

    def activation(self, x: str) -> str:
        kind = self.random.integers(3)
        if kind == 0:
            return x
        limits = [] if kind == 1 else [self.constant(np.float32(0)), self.constant(np.float32(2))]
        return self.add("Relu" if kind == 1 else "Clip", [x, *limits], self.channels[x])

    def resize(self, x: str) -> str:
        inputs = [x, "", self.constant(np.array([1, 1, 2, 2]))]
        how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self.add("Resize", inputs, self.channels[x], **how)

    def model(self, outputs: list[str]) -> Any:
        graph = helper.make_graph(
            self.nodes,
            "test",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, None, None])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            self.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def in_codes(model: Any, kept: set[str] = frozenset(), image: np.ndarray | None = None) -> Any:
    """Returns the network in 8 bits. `kept`: outputs of the convolutions that stay in float32."""
    network = Network(prepared(model))
    layers = [name for name, nodes in network.layers.items() if not any(node.output[0] in kept for node in nodes)]
    wanted = sorted(network.tensors(layers))
    shown = onnx.ModelProto()
    shown.CopyFrom(network.model)
    shown.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in wanted
        if name not in {item.name for item in shown.graph.output} | {"x"}
    )
    session = onnxruntime.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {"x": photo() if image is None else image}
    values = dict(zip([item.name for item in session.get_outputs()], session.run(None, feeds), strict=True)) | feeds
    ranges = {name: Range(float(values[name].min()), float(values[name].max())) for name in wanted}
    return quantized(network, layers, ranges)


def photo(height: int = 32, width: int = 48) -> np.ndarray:
    made: np.ndarray = np.random.default_rng(3).normal(size=(1, 3, height, width)).astype(np.float32)
    return made


def rewritten(model: Any, folder: Path) -> Rewritten | None:
    path = folder / "model.onnx"
    onnx.save(model, path)
    return quantized_graph.rewritten(path)


def session_of(edited: Rewritten, threads: int = 2) -> Any:
    library = blocked_graph.library()
    assert library is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.register_custom_ops_library(str(library))
    with lent(library, edited.lent) as keys:
        return onnxruntime.InferenceSession(edited.model(keys), options, providers=["CPUExecutionProvider"])


def check_equal(model: Any, folder: Path, feeds: dict[str, np.ndarray]) -> Rewritten:
    """Checks that a rewritten model has the outputs of the model in ONNX Runtime, to the last bit."""
    edited = rewritten(model, folder)
    assert edited is not None
    direct = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = direct.run(None, feeds)
    for threads in (1, 3):
        for found, wanted in zip(session_of(edited, threads).run(None, feeds), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
    return edited


def random_network(seed: int) -> Any:
    """Returns a network whose first tensor is in codes, so that every layer can be."""
    net = Floats(seed)
    x = net.activation(net.conv("x", int(net.random.integers(1, 40)), 3, 2))
    maps = [x]
    for _ in range(int(net.random.integers(2, 7))):
        x = maps[-1]
        kind = net.random.integers(5)
        channels = net.channels[x]
        if kind == 0:
            side, stride = int(net.random.choice([3, 5])), int(net.random.choice([1, 1, 2]))
            made = net.activation(net.conv(x, channels, side, stride, depthwise=True))
        elif kind == 1:
            other = net.activation(net.conv(x, channels, 3))
            made = net.activation(net.add("Add", [x, other] if net.random.random() < 0.5 else [other, x], channels))
        elif kind == 2:
            lower = net.resize(net.conv(net.conv(x, channels, 3, 2), channels))
            here = net.conv(x, channels)
            made = net.add("Add", [here, lower] if net.random.random() < 0.5 else [lower, here], channels)
        else:
            side, stride = int(net.random.choice([1, 1, 3])), int(net.random.choice([1, 1, 2]))
            made = net.activation(net.conv(x, int(net.random.integers(1, 70)), side, stride))
        maps.append(made)
    return net.model([net.conv(maps[-1], 7, name="y")])


@pytest.mark.parametrize("seed", range(25))
def test_codes_of_random_networks_are_those_of_onnxruntime(seed: int, tmp_path: Path) -> None:
    image = photo(64, 96)
    edited = check_equal(in_codes(random_network(seed), image=image), tmp_path, {"x": image})
    assert edited.counts["QuantizedConv"] >= 1
    assert "Conv" not in edited.others


def test_sums_of_all_codes_are_those_of_onnxruntime(tmp_path: Path) -> None:
    every = np.arange(256, dtype=np.uint8)
    codes = np.stack(np.meshgrid(every, every)).reshape(1, 2, 256, 256)
    for scales, zeros in (
        ((0.02, 0.05, 0.043), (0, 255, 77)),
        ((0.1, 0.1, 0.1), (128, 3, 0)),
        ((1, 0.5, 2), (9, 9, 9)),
    ):
        net = Floats(0)
        names = [(net.constant(np.float32(s)), f"zero{i}") for i, s in enumerate(scales)]
        zero = [numpy_helper.from_array(np.uint8(value), f"zero{i}") for i, value in enumerate(zeros)]
        nodes = []
        for i, (scale, name) in enumerate(names[:2]):
            # Each input is decoded from its codes, which are made from exact multiples of the scale.
            nodes.append(helper.make_node("QuantizeLinear", [f"x{i}", scale, name], [f"q{i}"]))
            nodes.append(helper.make_node("DequantizeLinear", [f"q{i}", scale, name], [f"d{i}"]))
        nodes.append(helper.make_node("Add", ["d0", "d1"], ["sum"]))
        nodes.append(helper.make_node("QuantizeLinear", ["sum", *names[2]], ["q2"]))
        nodes.append(helper.make_node("DequantizeLinear", ["q2", *names[2]], ["d2"]))
        one = numpy_helper.from_array(np.full((1, 1, 1, 1), 64, np.int8), "one")
        nodes.append(helper.make_node("DequantizeLinear", ["one", "unit", "none"], ["weights"], axis=0))
        nodes.append(helper.make_node("Conv", ["d2", "weights"], ["product"]))
        nodes.append(helper.make_node("QuantizeLinear", ["product", *names[2]], ["q3"]))
        nodes.append(helper.make_node("DequantizeLinear", ["q3", *names[2]], ["y"]))
        more = [
            one,
            numpy_helper.from_array(np.full(1, 1 / 64, np.float32), "unit"),
            numpy_helper.from_array(np.zeros(1, np.int8), "none"),
        ]
        shape = [1, 1, 256, 256]
        graph = helper.make_graph(
            nodes,
            "sums",
            [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, shape) for i in range(2)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [*net.constants, *zero, *more],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        feeds = {
            f"x{i}": (codes[:, i : i + 1].astype(np.float32) - np.float32(zeros[i])) * np.float32(scales[i])
            for i in range(2)
        }
        assert check_equal(model, tmp_path, feeds).counts["QuantizedAdd"] == 1


def test_convolutions_in_float32_read_codes(tmp_path: Path) -> None:
    net = Floats(1)
    x = net.conv(net.conv("x", 24, 3, 2), 20, 3)
    model = in_codes(net.model([net.conv(x, 9, 3, name="y")]), {"y"})
    edited = rewritten(model, tmp_path)
    assert edited is not None
    assert edited.counts["ConvOfCodes"] == 1
    direct = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = direct.run(None, {"x": photo()})
    (found,) = session_of(edited).run(None, {"x": photo()})
    np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max(), rtol=0)


def test_other_readers_get_planar_codes(tmp_path: Path) -> None:
    net = Floats(2)
    x = net.conv(net.conv("x", 24, 3, 2), 20, 3)
    pooled = net.add("AveragePool", [x], 20, kernel_shape=[2, 2], strides=[2, 2])
    edited = check_equal(in_codes(net.model([net.conv(pooled, 9, name="y")])), tmp_path, {"x": photo()})
    assert edited.counts["PlanarCodes"] == 2  # of the pooling, and of the output
    assert edited.counts["QuantizedMaxPool"] == 0


@pytest.mark.parametrize(("side", "stride", "pads"), [(2, 2, [0] * 4), (3, 2, [1] * 4), (3, 1, [2, 0, 1, 1])])
def test_the_largest_codes_stay_blocked(side: int, stride: int, pads: list[int], tmp_path: Path) -> None:
    net = Floats(2)
    x = net.conv(net.conv("x", 24, 3, 2), 20, 3)
    pooled = net.add("MaxPool", [x], 20, kernel_shape=[side] * 2, strides=[stride] * 2, pads=pads)
    edited = check_equal(in_codes(net.model([net.conv(pooled, 9, name="y")])), tmp_path, {"x": photo()})
    assert edited.counts["QuantizedMaxPool"] == 1
    assert edited.counts["PlanarCodes"] == 1  # of the output
    assert edited.others["MaxPool"] == 0


def test_first_layers_in_float32_are_blocked(tmp_path: Path) -> None:
    net = Floats(5)
    x = net.conv(net.conv("x", 24, 3, 2), 32, 3, name="float")
    pooled = net.add("MaxPool", [x], 32, kernel_shape=[2, 2], strides=[2, 2])
    outputs = [net.conv(x, 20, 3, name="y"), net.conv(pooled, 9, name="z")]
    model = in_codes(net.model(outputs), {net.nodes[0].output[0], "float"})
    edited = rewritten(model, tmp_path)
    assert edited is not None
    assert edited.counts["BlockedConv"] + edited.counts["WinogradConv"] == 2
    assert edited.counts["QuantizeBlocked"] >= 1
    direct = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found, expected = (each.run(None, {"x": photo()}) for each in (session_of(edited), direct))
    for one, other in zip(found, expected, strict=True):
        # What is rounded to another code changes what follows by a step or two.
        np.testing.assert_allclose(one, other, atol=0.02 * np.abs(other).max(), rtol=0)


def test_float_networks_are_left_to_others(tmp_path: Path) -> None:
    net = Floats(2)
    assert rewritten(net.model([net.conv(net.conv("x", 24, 3, 2), 20, 3)]), tmp_path) is None


@pytest.mark.parametrize("change", ["zero", "int8", "bias", "group"])
def test_what_is_not_of_the_package_is_left_alone(change: str, tmp_path: Path) -> None:
    net = Floats(4)
    inner = net.conv("x", 8, 3, 2)
    group = 2 if change == "group" else 1
    weights = net.constant(net.random.normal(size=(8, 8 // group, 1, 1)))
    y = net.add("Conv", [inner, weights, net.constant(net.random.normal(size=8))], 8, "y", group=group)
    model = in_codes(net.model([y]))
    tensors = {item.name: item for item in model.graph.initializer}
    if change == "zero":  # of weights
        tensors[f"{weights}/weights/zeros"].CopyFrom(
            numpy_helper.from_array(np.ones(8, np.int8), f"{weights}/weights/zeros")
        )
    elif change == "bias":  # not in steps of the sums
        name = "y/exact/bias/scales" if "y/exact/bias/scales" in tensors else "y/bias/scales"
        scales = numpy_helper.to_array(tensors[name]) * np.float32(2)
        tensors[name].CopyFrom(numpy_helper.from_array(scales, name))
    elif change == "int8":  # activations
        for name in [name for name in tensors if name.startswith(f"{inner}/zero")]:
            tensors[name].CopyFrom(numpy_helper.from_array(np.int8(3), name))
    edited = rewritten(model, tmp_path)
    assert edited is None or edited.others["Conv"] >= 1


@pytest.mark.heavy
def test_people_in_8_bits_finds_the_same_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Detector("people", device="cpu", convolution="direct") as detector:
        spec, (tensor,) = detector.spec, network_inputs([ASTRONAUT], detector.spec)
    network = Network(prepared(onnx.load(find_model("people"))))
    observed = observe(network, [tensor])
    path = tmp_path / "people.onnx"
    onnx.save(quantized(network, network.layers.keys() - network.last, observed.ranges), path)
    edited = quantized_graph.rewritten(path, input_size=(512, 512))
    assert edited is not None
    assert edited.others == Counter()
    assert edited.counts["QuantizedDepthwise"] >= 15
    with Detector(path, spec=spec, device="cpu", convolution="direct") as direct:
        expected = direct(ASTRONAUT)
    monkeypatch.setattr(sessions, "open_direct", lambda *_: session_of(edited))
    with Detector(path, spec=spec, device="cpu", convolution="direct") as ours:
        found = ours(ASTRONAUT)
    assert len(expected) >= 1
    assert len(found) == len(expected)
    np.testing.assert_allclose(found.xyxy, expected.xyxy, atol=2)
    np.testing.assert_allclose(found.scores, expected.scores, atol=0.02)


def test_is_fast_names_the_instruction_set() -> None:
    assert _native.int8_isa() in ("vnni", "avx_vnni", "avx2", "dotprod", "plain")
    assert quantized_graph.is_fast() == (_native.int8_isa() != "plain")


@pytest.mark.parametrize(
    ("isa", "expected"),
    [
        ("plain", {"plain"}),
        ("avx2", {"avx2", "avx_vnni"}),
        ("avx512", {"avx2", "avx_vnni", "vnni"}),
        ("neon", {"dotprod", "plain"}),
    ],
)
def test_a_limited_instruction_set_also_limits_the_8_bit_kernels(isa: str, expected: set[str], tmp_path: Path) -> None:
    command = "from retinasdk import _native; print(_native.int8_isa())"
    environment = os.environ | {"RETINASDK_ISA": isa}
    run = [sys.executable, "-c", command]
    answer = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    if "but this processor runs" in answer.stderr:
        pytest.skip(f"this processor has no {isa}")
    assert answer.stdout.strip() in expected
