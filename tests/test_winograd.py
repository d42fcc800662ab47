"""3x3 convolutions by Winograd's algorithm: the operator against float64 NumPy, the edit of graphs, the switch."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from random_retinanet import save_random_retinanet

from retinasdk import Detector
from retinasdk.backends import _winograd
from retinasdk.backends.onnx_cpu import OnnxCpuBackend
from retinasdk.models import find_model, list_models

Array = npt.NDArray[np.float32]

SAME = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
WIDE = (16, 64, 3, 3)


def direct(x: Array, weights: Array, bias: Array | None) -> npt.NDArray[np.float64]:
    """The convolution as it is defined, in float64: (N, in, H, W) by (out, in, 3, 3), padding 1."""
    height, width = x.shape[2:]
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    result = np.zeros((x.shape[0], weights.shape[0], height, width))
    for dy in range(3):
        for dx in range(3):
            part = padded[:, :, dy : dy + height, dx : dx + width]
            result += np.einsum("oc,nchw->nohw", weights[:, :, dy, dx].astype(np.float64), part)
    return result if bias is None else result + bias[:, None, None]


def model_of(
    nodes: list[onnx.NodeProto],
    tensors: dict[str, Array],
    outputs: tuple[str, ...] = ("y",),
    inputs: tuple[str, ...] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", *inputs)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(values, name) for name, values in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def session(model: bytes, *, threads: int = 2) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(str(_winograd.library()))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@settings(max_examples=60)
@given(
    batch=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    relu=st.booleans(),
    biased=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_operator(
    batch: int, channels: tuple[int, int], size: tuple[int, int], relu: bool, biased: bool, seed: int
) -> None:
    random = np.random.default_rng(seed)
    inputs, outputs = channels
    x = random.standard_normal((batch, inputs, *size)).astype(np.float32)
    tensors = {"w": random.standard_normal((outputs, inputs, 3, 3)).astype(np.float32)}
    if biased:
        tensors["b"] = random.standard_normal(outputs).astype(np.float32)
    node = helper.make_node("WinogradConv", ["x", *tensors], ["y"], domain="retinasdk", relu=int(relu))
    model = model_of([node], tensors)
    model.opset_import.append(helper.make_opsetid("retinasdk", 1))
    (found,) = session(model.SerializeToString()).run(None, {"x": x})
    expected = direct(x, tensors["w"], tensors.get("b"))
    if relu:
        expected = np.maximum(expected, 0.0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.sqrt(9 * inputs))


@settings(max_examples=40)
@given(
    batch=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 80), st.integers(1, 80)),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    relu=st.booleans(),
    biased=st.booleans(),
    residual=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_pointwise_operator(
    batch: int,
    channels: tuple[int, int],
    size: tuple[int, int],
    relu: bool,
    biased: bool,
    residual: bool,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    inputs, outputs = channels
    given = {"x": random.standard_normal((batch, inputs, *size)).astype(np.float32)}
    if residual:
        given["z"] = random.standard_normal((batch, outputs, *size)).astype(np.float32)
    tensors = {"w": random.standard_normal((outputs, inputs, 1, 1)).astype(np.float32)}
    if biased:
        tensors["b"] = random.standard_normal(outputs).astype(np.float32)
    names = ["x", "w", "b" if biased else "", "z" if residual else ""]
    node = helper.make_node("PointwiseConv", names, ["y"], domain="retinasdk", relu=int(relu), residual=int(residual))
    model = model_of([node], tensors, inputs=tuple(given)[1:])
    model.opset_import.append(helper.make_opsetid("retinasdk", 1))
    (found,) = session(model.SerializeToString()).run(None, given)
    expected = np.einsum("oc,nchw->nohw", tensors["w"][:, :, 0, 0].astype(np.float64), given["x"].astype(np.float64))
    expected += tensors["b"][:, None, None] if biased else 0.0
    expected += given.get("z", 0.0)
    if relu:
        expected = np.maximum(expected, 0.0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.sqrt(inputs))


def test_operator_refuses() -> None:
    weights = np.zeros((8, 4, 3, 3), np.float32)
    node = helper.make_node("WinogradConv", ["x", "w"], ["y"], domain="retinasdk", relu=0)
    model = model_of([node], {"w": weights})
    model.opset_import.append(helper.make_opsetid("retinasdk", 1))
    with pytest.raises(Exception, match=r"WinogradConv: input must be \(N, 4, H, W\)"):
        session(model.SerializeToString()).run(None, {"x": np.zeros((1, 5, 6, 6), np.float32)})
    assert session(model.SerializeToString()).run(None, {"x": np.zeros((1, 4, 0, 6), np.float32)})[0].size == 0
    del model.graph.initializer[:]
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, None))
    with pytest.raises(Exception, match=r"weights must be constant, \(out, in, 3, 3\)"):
        session(model.SerializeToString())


def test_what_is_replaced(tmp_path: Path) -> None:
    """One that is, with its Relu and without; then each reason for which one is not."""
    random = np.random.default_rng(0)
    tensors = {
        "wide": random.standard_normal(WIDE).astype(np.float32),
        "bias": random.standard_normal(16).astype(np.float32),
        "given": random.standard_normal(WIDE).astype(np.float32),
        "narrow": random.standard_normal((16, 8, 3, 3)).astype(np.float32),
        "pointwise": random.standard_normal((16, 64, 1, 1)).astype(np.float32),
    }
    conv = helper.make_node
    nodes = [
        conv("Conv", ["x", "wide", "bias"], ["a"], **SAME),
        conv("Relu", ["a"], ["with relu"]),
        conv("Conv", ["x", "wide"], ["y"], auto_pad="SAME_UPPER"),
        conv(
            "Conv", ["x", "wide", ""], ["read twice"], name="named", **SAME, strides=[1, 1], dilations=[1, 1], group=1
        ),
        conv("Relu", ["read twice"], ["b"]),
        conv("Add", ["read twice", "b"], ["sum"]),
        conv("Conv", ["x", "wide"], ["strided"], **SAME, strides=[2, 2]),
        conv("Conv", ["x", "wide"], ["dilated"], **SAME, dilations=[2, 2]),
        conv("Conv", ["x", "wide"], ["valid"], kernel_shape=[3, 3]),
        conv("Conv", ["x", "given"], ["not constant"], **SAME),
        conv("Conv", ["x", "narrow"], ["grouped"], **SAME, group=8),
        conv("Conv", ["x", "pointwise"], ["one"], kernel_shape=[1, 1]),
    ]
    outputs = ("with relu", "y", "sum", "strided", "dilated", "valid", "not constant", "grouped", "one")
    model = model_of(nodes, tensors, outputs, ("given",))
    path = tmp_path / "model.onnx"
    onnx.save(model, str(path))
    edited = _winograd.rewritten(path)
    assert edited is not None
    content, replaced = edited
    assert replaced == 3

    def operator(inputs: list[str], output: str, *, relu: int, name: str = "") -> onnx.NodeProto:
        return helper.make_node("WinogradConv", inputs, [output], name=name, domain="retinasdk", relu=relu)

    expected = onnx.ModelProto()
    expected.CopyFrom(model)
    del expected.graph.node[:]
    expected.graph.node.extend(
        [
            operator(["x", "wide", "bias"], "with relu", relu=1),
            operator(["x", "wide"], "y", relu=0),
            operator(["x", "wide", ""], "read twice", relu=0, name="named"),
            *nodes[4:],
        ]
    )
    expected.opset_import.append(helper.make_opsetid("retinasdk", 1))
    found = onnx.load_model_from_string(content)
    for node in found.graph.node:
        if not node.name:
            node.ClearField("name")
    assert found == expected

    x = random.standard_normal((2, 64, 9, 11)).astype(np.float32)
    ours = session(content).run(None, {"x": x})
    plain = session(model.SerializeToString()).run(None, {"x": x})
    for one, other in zip(ours, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-3)


def test_weights_by_another_name(tmp_path: Path) -> None:
    """PyTorch writes equal tensors once, and an Identity for each of their other names."""
    random = np.random.default_rng(3)
    tensors = {
        "wide": random.standard_normal((64, 64, 3, 3)).astype(np.float32) / 24,
        "bias": random.standard_normal(64).astype(np.float32),
    }
    node = helper.make_node
    nodes = [
        node("Identity", ["wide"], ["second"]),
        node("Identity", ["second"], ["third"]),
        node("Identity", ["bias"], ["other bias"]),
        node("Identity", ["x"], ["same x"]),
        node("Conv", ["same x", "second", "other bias"], ["a"], **SAME),
        node("Conv", ["a", "third", "bias"], ["y"], **SAME),
    ]
    path = tmp_path / "model.onnx"
    model = model_of(nodes, tensors, ("y",))
    onnx.save(model, str(path))
    edited = _winograd.rewritten(path)
    assert edited is not None
    content, replaced = edited
    assert replaced == 2
    operators = [node for node in onnx.load_model_from_string(content).graph.node if node.domain == "retinasdk"]
    assert [list(node.input) for node in operators] == [["same x", "wide", "bias"], ["a", "wide", "bias"]]
    x = random.standard_normal((1, 64, 9, 11)).astype(np.float32)
    (ours,), (plain,) = (session(each).run(None, {"x": x}) for each in (content, model.SerializeToString()))
    np.testing.assert_allclose(ours, plain, rtol=0, atol=2e-3)


def test_residual_blocks(tmp_path: Path) -> None:
    """A bottleneck block: three operators are left of its eight nodes. Then two branches that share one Add."""
    random = np.random.default_rng(0)
    shapes = {"narrow": (64, 96, 1, 1), "wide": (64, 64, 3, 3), "expand": (96, 64, 1, 1), "stem": (96, 96, 1, 1)}
    tensors = {name: random.standard_normal(shape).astype(np.float32) * 0.1 for name, shape in shapes.items()}
    conv = helper.make_node
    block = [
        conv("Conv", ["x", "stem"], ["s"], kernel_shape=[1, 1]),
        conv("Relu", ["s"], ["shortcut"]),
        conv("Conv", ["shortcut", "narrow"], ["a"], kernel_shape=[1, 1]),
        conv("Relu", ["a"], ["b"]),
        conv("Conv", ["b", "wide"], ["c"], **SAME),
        conv("Relu", ["c"], ["d"]),
        conv("Conv", ["d", "expand"], ["e"], kernel_shape=[1, 1]),
        conv("Add", ["shortcut", "e"], ["f"]),
        conv("Relu", ["f"], ["y"]),
    ]
    two = [
        *block[:6],
        conv("Conv", ["d", "expand"], ["e"], kernel_shape=[1, 1]),
        conv("Conv", ["d", "expand"], ["g"], kernel_shape=[1, 1]),
        conv("Add", ["e", "g"], ["y"]),
    ]
    x = random.standard_normal((2, 96, 9, 11)).astype(np.float32)
    for nodes, kinds in (
        (block, ["Conv", "Relu", "PointwiseConv", "WinogradConv", "PointwiseConv"]),
        (two, ["Conv", "Relu", "PointwiseConv", "WinogradConv", "PointwiseConv", "PointwiseConv"]),
    ):
        model = model_of(nodes, tensors)
        path = tmp_path / "model.onnx"
        onnx.save(model, str(path))
        edited = _winograd.rewritten(path)
        assert edited is not None
        assert sorted(node.op_type for node in onnx.load_model_from_string(edited[0]).graph.node) == sorted(kinds)
        (ours,) = session(edited[0]).run(None, {"x": x})
        (plain,) = session(model.SerializeToString()).run(None, {"x": x})
        np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-4 * plain.std())


@pytest.mark.parametrize(
    ("shortcut", "fused"),
    [
        ([("Conv", ["x", "project"], {"strides": [2, 2]})], True),  # of a stage's first block
        ([("Conv", ["x", "project"], {"strides": [2, 2]}), ("Relu", [], {})], True),
        ([("Conv", ["x", "project"], {"strides": [2, 2]}), ("GlobalAveragePool", [], {})], False),
        ([("GlobalAveragePool", ["x"], {}), ("Conv", ["", "project"], {})], False),
        ([("AveragePool", ["x"], {"kernel_shape": [2, 2], "strides": [2, 2]}), ("Conv", ["", "project"], {})], False),
        ([("Conv", ["x", "one"], {"strides": [2, 2]})], False),
    ],
    ids=["projected", "with Relu", "pooled last", "pooled first", "by another way", "one channel"],
)
def test_sums_that_may_broadcast_are_left_alone(
    shortcut: list[tuple[str, list[str], dict[str, list[int]]]], fused: bool, tmp_path: Path
) -> None:
    random = np.random.default_rng(7)
    shapes = {"narrow": (64, 64, 1, 1), "wide": (64, 64, 3, 3), "expand": (96, 64, 1, 1)}
    shapes |= {"project": (96, 64, 1, 1), "one": (1, 64, 1, 1)}
    tensors = {name: random.standard_normal(shape).astype(np.float32) * 0.1 for name, shape in shapes.items()}
    node = helper.make_node
    nodes, last = [], "x"
    for index, (kind, inputs, attributes) in enumerate(shortcut):
        nodes.append(node(kind, [last, *inputs[1:]], [f"s{index}"], **attributes))
        last = f"s{index}"
    nodes += [
        node("Conv", ["x", "narrow"], ["a"], strides=[2, 2]),
        node("Conv", ["a", "wide"], ["b"], **SAME),
        node("Conv", ["b", "expand"], ["c"]),
        node("Add", ["c", last], ["y"]),
    ]
    path = tmp_path / "model.onnx"
    model = model_of(nodes, tensors)
    onnx.save(model, str(path))
    edited = _winograd.rewritten(path)
    assert edited is not None
    assert ("Add" not in [item.op_type for item in onnx.load_model_from_string(edited[0]).graph.node]) == fused
    x = random.standard_normal((2, 64, 10, 14)).astype(np.float32)
    (ours,), (plain,) = (session(each).run(None, {"x": x}) for each in (edited[0], model.SerializeToString()))
    np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-4 * plain.std())


def test_files_that_are_left_alone(tmp_path: Path) -> None:
    weights = np.zeros(WIDE, np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], **SAME)
    external = tmp_path / "external.onnx"
    onnx.save(model_of([node], {"w": weights}), str(external), save_as_external_data=True, size_threshold=0)
    assert _winograd.rewritten(external) is None
    branch = helper.make_graph([node], "branch", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    choice = helper.make_node("If", ["given"], ["z"], then_branch=branch, else_branch=branch)
    nested = tmp_path / "nested.onnx"
    onnx.save(
        model_of([helper.make_node("Conv", ["x", "w"], ["q"], **SAME), choice], {"w": weights}, ("z",)), str(nested)
    )
    assert _winograd.rewritten(nested) is None
    half = tmp_path / "half.onnx"
    onnx.save(model_of([node], {"w": weights.astype(np.float16)}), str(half))
    assert _winograd.rewritten(half) is None


@given(content=st.binary(max_size=60))
def test_what_is_no_onnx_is_refused(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("bad") / "model.onnx"
    path.write_bytes(content)
    with contextlib.suppress(ValueError):
        assert _winograd.rewritten(path) is None


@pytest.mark.parametrize("name", [model.name for model in list_models()])
def test_bundled_heads_agree(name: str) -> None:
    """Within 1e-3 of what each head varies by; the operator is in use."""
    path = find_model(name)
    edited = _winograd.rewritten(path)
    assert edited is not None
    assert edited[1] == 34  # 33 of 3x3, and a lateral one
    fast, plain = (OnnxCpuBackend(path, spec=None, threads=2, convolution=each) for each in ("auto", "direct"))
    assert_heads_agree(fast, plain, (320, 416))


@pytest.mark.heavy
def test_resnet50_heads_agree(tmp_path: Path) -> None:
    path = save_random_retinanet(tmp_path / "model.onnx", "resnet50", classes=20)
    fast, plain = (OnnxCpuBackend(path, spec=None, threads=2, convolution=each) for each in ("auto", "direct"))
    assert_heads_agree(fast, plain, (416, 544))


def assert_heads_agree(fast: OnnxCpuBackend, plain: OnnxCpuBackend, size: tuple[int, int]) -> None:
    x = np.random.default_rng(1).standard_normal((2, 3, *size)).astype(np.float32)
    ours, theirs = fast.infer(x), plain.infer(x)
    for one, other in zip(ours.logits + ours.deltas, theirs.logits + theirs.deltas, strict=True):
        assert one.shape == other.shape
        assert 0.0 < np.abs(one - other).max() < 1e-3 * other.std()


def test_switch(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"convolution must be one of auto, direct; got 'fast'"):
        Detector("people", convolution="fast")
    caplog.set_level(logging.DEBUG, "retinasdk")
    picture = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    Detector("people", device="cpu")(picture)
    assert caplog.messages == ["people.onnx: 34 convolutions by retinasdk's operators"]
    caplog.clear()
    plain = Detector("people", device="cpu", convolution="direct")(picture)
    assert caplog.messages == []
    monkeypatch.setattr(_winograd, "library", lambda: None)
    assert Detector("people", device="cpu")(picture) == plain
    assert caplog.messages == [
        "people.onnx: direct convolutions, as retinasdk was built without its operators for ONNX Runtime"
    ]
    caplog.clear()
    monkeypatch.setattr(_winograd, "library", lambda: tmp_path / "missing.so")
    assert Detector("people", device="cpu")(picture) == plain
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("people.onnx: direct convolutions, as Winograd's are not to be had: ")


def test_workers_use_the_same(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "retinasdk")
    for convolution, messages in (("auto", 2), ("direct", 0)):
        caplog.clear()
        backend = OnnxCpuBackend(find_model("people"), spec=None, threads=2, convolution=convolution)
        backend.for_workers()
        assert len(caplog.messages) == messages
        backend.close()
