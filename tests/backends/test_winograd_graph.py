"""The edit that puts the operators into a graph: what is replaced, what is taken in, and what is left alone."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from conv_graphs import SAME, WIDE, model_of, session
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from retinasdk.backends import winograd_graph

Array = npt.NDArray[np.float32]


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
    edited = winograd_graph.rewritten(path)
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
    edited = winograd_graph.rewritten(path)
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
        edited = winograd_graph.rewritten(path)
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
    edited = winograd_graph.rewritten(path)
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
    assert winograd_graph.rewritten(external) is None
    branch = helper.make_graph([node], "branch", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    choice = helper.make_node("If", ["given"], ["z"], then_branch=branch, else_branch=branch)
    nested = tmp_path / "nested.onnx"
    onnx.save(
        model_of([helper.make_node("Conv", ["x", "w"], ["q"], **SAME), choice], {"w": weights}, ("z",)), str(nested)
    )
    assert winograd_graph.rewritten(nested) is None
    half = tmp_path / "half.onnx"
    onnx.save(model_of([node], {"w": weights.astype(np.float16)}), str(half))
    assert winograd_graph.rewritten(half) is None


@given(content=st.binary(max_size=60))
def test_what_is_no_onnx_is_refused(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("bad") / "model.onnx"
    path.write_bytes(content)
    with contextlib.suppress(ValueError):
        assert winograd_graph.rewritten(path) is None
