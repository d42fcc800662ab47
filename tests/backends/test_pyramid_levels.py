"""Convolutions of a head that one operator does for all levels of the pyramid."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from conv_graphs import (
    SAME,
    TENSORS,
    attributes,
    graph_of,
    kinds,
    model_of,
    operators,
    rewritten_model,
    session,
    x_of,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from retinasdk.backends import blocked_graph
from retinasdk.backends.lent_weights import lent

LEVELS = "WinogradLevels"


def conv(source: str, output: str, weights: str = "wide", *more: str) -> onnx.NodeProto:
    return helper.make_node("Conv", [source, weights, *more], [output], **SAME)


def pyramid(count: int) -> list[onnx.NodeProto]:
    """The levels l0, l1 and so on, each half as large as the one before."""
    nodes = [conv("x", "l0", "stem3")]
    for level in range(1, count):
        pool = helper.make_node("MaxPool", [f"l{level - 1}"], [f"l{level}"], kernel_shape=[2, 2], strides=[2, 2])
        nodes.append(pool)
    return nodes


# Weights that differ from the usual ones.
OTHERS = {name: np.roll(TENSORS["wide"], shift, axis=0) for shift, name in enumerate(("stem3", "layer0", "layer1"), 1)}


def head(level: int, *, layers: int = 2) -> list[onnx.NodeProto]:
    """A head with shared weights, at a level."""
    nodes, name = [], f"l{level}"
    for layer in range(layers):
        nodes += [
            conv(name, f"c{layer}_{level}", f"layer{layer}"),
            helper.make_node("Relu", [f"c{layer}_{level}"], [f"r{layer}_{level}"]),
        ]
        name = f"r{layer}_{level}"
    return [*nodes, conv(name, f"y{level}", "few")]


def test_a_head_has_one_operator_for_each_layer(tmp_path: Path) -> None:
    nodes = pyramid(3) + [node for level in range(3) for node in head(level)]
    found = operators(nodes, tmp_path, x_of(height=64, width=70), tensors=OTHERS, outputs=("y0", "y1", "y2"))
    assert Counter(kinds(found)) == Counter(ToBlocked=1, WinogradConv=1, BlockedMaxPool=2, WinogradLevels=3)
    first, second, last = (node for node in found if node.op_type == LEVELS)
    assert list(first.input) == ["l0/blocked", "l1/blocked", "l2/blocked"]
    assert list(second.input) == list(first.output) == ["r0_0/blocked", "r0_1/blocked", "r0_2/blocked"]
    assert list(last.output) == ["y0", "y1", "y2"]
    assert [attributes(node)["levels"] for node in (first, second, last)] == [3, 3, 3]
    assert [attributes(node)["planar_output"] for node in (first, second, last)] == [0, 0, 1]


def test_the_order_of_the_graph_is_one_in_which_it_can_run(tmp_path: Path) -> None:
    """What reads an output of the first level stood before the last level."""
    nodes = [*pyramid(2), *head(0), helper.make_node("Sigmoid", ["y0"], ["s0"]), *head(1)]
    model = model_of(nodes, TENSORS | OTHERS, outputs=("s0", "y1"))
    edited = rewritten_model(model, tmp_path, (64, 70))
    assert edited is not None
    assert edited.counts[LEVELS] == 3
    made = {"x"}
    for node in graph_of(edited).node:
        assert made.issuperset(name for name in node.input if name), node.name
        made.update(node.output)
    x = x_of(height=64, width=70)
    for ours, plain in zip(session(edited).run(None, {"x": x}), session(model).run(None, {"x": x}), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-4)


def test_more_levels_than_an_operator_has(tmp_path: Path) -> None:
    """They are divided, and one that is left stays by itself."""
    sources = [f"s{i}" for i in range(17)]
    nodes = [helper.make_node("Mul", ["x", "one"], [name]) for name in sources]
    nodes += [conv(name, f"y{name}") for name in sources]
    outputs = tuple(f"y{name}" for name in sources)
    tensors = {"one": np.ones(1, np.float32)}
    found = operators(nodes, tmp_path, tensors=tensors, outputs=outputs)
    assert Counter(kinds(found))[LEVELS] == 2
    assert Counter(kinds(found))["WinogradConv"] == 1
    assert [attributes(node)["levels"] for node in found if node.op_type == LEVELS] == [8, 8]


def test_convolutions_that_need_each_other_stay_apart(tmp_path: Path) -> None:
    """The same weights one after the other, directly and with something between."""
    direct = [conv("x", "a"), conv("a", "y")]
    assert Counter(kinds(operators(direct, tmp_path))) == Counter(ToBlocked=1, WinogradConv=2)
    between = [conv("x", "a"), helper.make_node("Sigmoid", ["a"], ["b"]), conv("b", "y")]
    assert Counter(kinds(operators(between, tmp_path)))["WinogradConv"] == 2


def test_two_groups_that_need_each_other(tmp_path: Path) -> None:
    """a1 -> b1 and b2 -> a2: a and b cannot both be one operator."""
    nodes = [
        conv("x", "a1", "layer0"),
        conv("a1", "b1", "layer1"),
        conv("x", "b2", "layer1"),
        conv("b2", "a2", "layer0"),
        conv("b1", "y1", "wide"),
        conv("a2", "y2", "wide"),
    ]
    found = operators(nodes, tmp_path, tensors=OTHERS, outputs=("y1", "y2"))
    assert Counter(kinds(found)) == Counter(ToBlocked=1, WinogradLevels=2, WinogradConv=2)


@pytest.mark.parametrize("difference", ["weights", "bias", "limits", "layout", "addition"])
def test_different_convolutions_stay_apart(difference: str, tmp_path: Path) -> None:
    tensors = {"copy": TENSORS["wide"].copy(), "shift": np.ones(32, np.float32)}
    nodes, outputs = [helper.make_node("Sigmoid", ["x"], ["s"])], ("a", "b")
    nodes.append(conv("x", "a"))
    if difference == "weights":  # Equal ones, but two tensors: what is lent is compared by where it lies.
        nodes.append(conv("s", "b", "copy"))
    elif difference == "bias":
        nodes.append(conv("s", "b", "wide", "shift"))
    elif difference == "limits":
        nodes += [conv("s", "c"), helper.make_node("Relu", ["c"], ["b"])]
    elif difference == "layout":
        nodes += [conv("s", "c"), conv("c", "b", "copy")]
    else:
        nodes += [conv("x", "c"), helper.make_node("Add", ["c", "a"], ["d"]), conv("d", "b", "copy")]
    assert LEVELS not in kinds(operators(nodes, tmp_path, tensors=tensors, outputs=outputs))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
def test_any_levels(seed: int) -> None:
    """The same bits as one operator for each level."""
    random = np.random.default_rng(seed)
    count, (channels, outputs) = int(random.integers(1, 9)), random.integers(1, 40, 2)
    weights = random.standard_normal((outputs, channels, 3, 3)).astype(np.float32)
    images = [
        random.standard_normal((random.integers(0, 3), -(-channels // 16), *random.integers(1, 30, 2), 16))
        for _ in range(count)
    ]
    for image in images:
        image[:, -1, :, :, (channels - 1) % 16 + 1 :] = 0.0
    feeds = {f"x{i}": image.astype(np.float32) for i, image in enumerate(images)}
    ways = {"low": 0.0, "high": 6.0, "patch": int(random.choice([4, 6])), "planar_output": int(random.integers(2))}
    together = open_levels(weights, list(feeds), levels=count, **ways).run(None, feeds)
    for found, (name, image) in zip(together, feeds.items(), strict=True):
        (alone,) = open_levels(weights, [name], kind="WinogradConv", addition=0, **ways).run(None, {name: image})
        np.testing.assert_array_equal(found, alone)


def open_levels(
    weights: np.ndarray, inputs: list[str], *, kind: str = LEVELS, outputs: int | None = None, **ways: float
) -> onnxruntime.InferenceSession:
    library = blocked_graph.library()
    assert library is not None
    names = [f"y{i}" for i in range(len(inputs) if outputs is None else outputs)]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(str(library))
    with lent(library, {"weights": weights}) as keys:
        node = helper.make_node(kind, inputs, names, domain="retinasdk", bias=0, **keys, **ways)
        graph = helper.make_graph(
            [node],
            "levels",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inputs],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names],
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("retinasdk", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def test_what_is_refused() -> None:
    weights = np.ones((16, 16, 3, 3), np.float32)
    ways = {"low": 0.0, "high": 6.0, "patch": 6, "planar_output": 0}
    for levels in (0, 9, 1 << 40):
        with pytest.raises(Exception, match=f"levels must be 1 to 8, got {levels}"):
            open_levels(weights, ["a", "b"], levels=levels, **ways)
    image = np.zeros((1, 1, 6, 7, 16), np.float32)
    with pytest.raises(Exception, match=r"(?s)WinogradLevels.*(input 2 is missing|index out of range)"):
        open_levels(weights, ["a", "b"], levels=3, **ways).run(None, {"a": image, "b": image})
    with pytest.raises(Exception, match=r"(?s)WinogradLevels.*(output 1 is missing|index out of range)"):
        open_levels(weights, ["a", "b"], outputs=1, levels=2, **ways).run(None, {"a": image, "b": image})
    wrong = np.zeros((1, 2, 6, 7, 16), np.float32)
    with pytest.raises(Exception, match=r"the input must be \(N, 1, H, W, 16\)"):
        open_levels(weights, ["a", "b"], levels=2, **ways).run(None, {"a": image, "b": wrong})
