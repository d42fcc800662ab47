"""Additions in rewritten graphs: residual blocks, feature pyramids, and depthwise blocks; sums that are left alone."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from conv_graphs import (
    SAME,
    TENSORS,
    Nodes,
    attributes,
    graph_of,
    kinds,
    model_of,
    operators,
    rewritten_model,
    session,
    x_of,
)
from onnx import helper

node = helper.make_node

# -- additions ---------------------------------------------------------------------------------------------------------

BLOCK = [
    node("Conv", ["x", "point"], ["s"]),
    node("Relu", ["s"], ["shortcut"]),
    node("Conv", ["shortcut", "point"], ["a"]),
    node("Relu", ["a"], ["b"]),
    node("Conv", ["b", "wide"], ["c"], **SAME),
    node("Relu", ["c"], ["d"]),
    node("Conv", ["d", "point"], ["e"]),
]


@pytest.mark.parametrize(
    ("behind", "expected"),
    [
        ([node("Add", ["shortcut", "e"], ["f"]), node("Relu", ["f"], ["y"])], []),
        ([node("Conv", ["d", "point"], ["f"]), node("Add", ["e", "f"], ["y"])], ["BlockedConv"]),
        ([node("Add", ["shortcut", "b"], ["f"]), node("Add", ["f", "e"], ["y"])], ["BlockedAdd"]),
        ([node("Add", ["e", "e"], ["y"])], ["BlockedAdd", "FromBlocked"]),
    ],
    ids=["residual", "two branches", "three summands", "twice the same"],
)
def test_residual_blocks(behind: Nodes, expected: list[str], tmp_path: Path) -> None:
    found = kinds(operators(BLOCK + behind, tmp_path))
    base = ["ToBlocked", "BlockedConv", "BlockedConv", "WinogradConv", "BlockedConv"]
    assert Counter(found) == Counter(base + expected)


@pytest.mark.parametrize(
    ("shortcut", "fused"),
    [
        ([("Conv", ["x", "point"], {"strides": [2, 2]})], True),  # of a stage's first block
        ([("Conv", ["x", "point"], {"strides": [2, 2]}), ("Relu", [], {})], True),
        ([("Conv", ["x", "point"], {"strides": [2, 2]}), ("GlobalAveragePool", [], {})], False),
        ([("GlobalAveragePool", ["x"], {}), ("Conv", ["", "point"], {})], False),
        ([("AveragePool", ["x"], {"kernel_shape": [2, 2], "strides": [2, 2]}), ("Conv", ["", "point"], {})], False),
        ([("Conv", ["x", "one"], {"strides": [2, 2]})], False),
        ([("Conv", ["x", "wide"], {"strides": [2, 2], "pads": [1, 1, 1, 1]})], True),
        ([("Conv", ["x", "wide"], {"strides": [2, 2], "pads": [1, 1, 0, 0]})], False),
        ([("Reshape", ["x", "shape"], {}), ("Conv", ["", "point"], {"strides": [2, 2]})], False),
    ],
    ids=[
        "projected",
        "with Relu",
        "pooled last",
        "pooled first",
        "by another way",
        "one channel",
        "3x3",
        "pads",
        "own",
    ],
)
def test_sums_that_may_broadcast_are_left_alone(
    shortcut: list[tuple[str, list[str], dict[str, list[int]]]], fused: bool, tmp_path: Path
) -> None:
    tensors = {"one": TENSORS["point"][:1], "shape": np.array([0, 0, 0, 0])}
    nodes, last = [], "x"
    for index, (kind, inputs, options) in enumerate(shortcut):
        nodes.append(node(kind, [last, *inputs[1:]], [f"s{index}"], **options))
        last = f"s{index}"
    nodes += [
        node("Conv", ["x", "point"], ["a"], strides=[2, 2]),
        node("Conv", ["a", "wide"], ["b"], **SAME),
        node("Conv", ["b", "point"], ["c"]),
        node("Add", ["c", last], ["y"]),
    ]
    found = operators(nodes, tmp_path, x_of(32, 18, 22), tensors=tensors)
    assert ("Add" not in kinds(found)) == fused


# -- feature pyramids --------------------------------------------------------------------------------------------------

FLOOR = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


def pyramid(resize: onnx.NodeProto, *before: onnx.NodeProto, stride: int = 2) -> Nodes:
    return [
        node("Conv", ["x", "wide"], ["upper"], **SAME, strides=[stride, stride]),
        node("Conv", ["x", "point"], ["lateral"]),
        *before,
        resize,
        node("Add", ["lateral", "resized"], ["sum"]),
        node("Conv", ["sum", "wide"], ["y"], **SAME),
    ]


SIZES = [
    node("Shape", ["lateral"], ["l"]),
    node("Slice", ["l", "two", "four"], ["sides"]),
    node("Shape", ["upper"], ["u"]),
    node("Slice", ["u", "zero", "two"], ["batch"]),
    node("Concat", ["batch", "sides"], ["sizes"], axis=0),
]
CALCULATED = [  # As PyTorch's newer exporter does: (size - 1) / 2 + 1.
    node("Shape", ["upper"], ["batch"], start=0, end=2),
    node("Shape", ["x"], ["h"], start=2, end=3),
    node("Squeeze", ["h"], ["h0"]),
    node("Add", ["minus", "h0"], ["h1"]),
    node("Div", ["h1", "one"], ["h2"]),
    node("Add", ["one", "h2"], ["h3"]),
    node("Reshape", ["h3", "list"], ["h4"]),
    node("Shape", ["x"], ["w"], start=3, end=4),
    node("Concat", ["batch", "h4", "w"], ["sizes"], axis=0),
]
NUMBERS = {name: np.array([value]) for name, value in (("zero", 0), ("two", 2), ("four", 4), ("list", -1))}
NUMBERS |= {name: np.array(value) for name, value in (("one", 1), ("minus", -1))}
NUMBERS |= {"scales": np.array([1, 1, 2, 2], np.float32), "thirds": np.array([1, 1, 3, 3], np.float32)}
NUMBERS |= {"1.5": np.array([1, 1, 1.5, 1.5], np.float32), "batches": np.array([2, 1, 2, 2], np.float32)}


@pytest.mark.parametrize(
    ("nodes", "even"),
    [
        (pyramid(node("Resize", ["upper", "", "scales"], ["resized"], **FLOOR)), True),
        (pyramid(node("Resize", ["upper", "", "thirds"], ["resized"], **FLOOR), stride=3), True),
        (pyramid(node("Resize", ["upper", "", "scales"], ["resized"], mode="nearest")), True),  # half_pixel
        (pyramid(node("Resize", ["upper", "", "", "sizes"], ["resized"], **FLOOR), *SIZES), False),
        (pyramid(node("Resize", ["upper", "", "", "sizes"], ["resized"], **FLOOR), *CALCULATED), False),
    ],
    ids=["factor 2", "factor 3", "half pixels", "sizes", "calculated sizes"],
)
def test_feature_pyramids(nodes: Nodes, even: bool, tmp_path: Path) -> None:
    tensors = {"tensors": NUMBERS}
    found = operators(nodes, tmp_path, x_of(32, 18, 24) if even else x_of(32, 17, 23), **tensors)
    assert Counter(kinds(found)) == Counter(ToBlocked=1, BlockedConv=2, WinogradConv=1)
    assert attributes(found[2])["addition"] == 2
    assert (attributes(found[2])["factor"] > 0) == even
    assert list(found[2].input) == ["x/blocked", "upper/blocked"]


def test_a_factor_that_leads_to_another_size_is_an_error(tmp_path: Path) -> None:
    """ONNX's Add would fail, or repeat the lateral if it has one row."""
    nodes = pyramid(node("Resize", ["upper", "", "scales"], ["resized"], **FLOOR))
    edited = rewritten_model(model_of(nodes, TENSORS | NUMBERS), tmp_path)
    assert edited is not None
    for size in ((17, 24), (18, 23), (1, 24)):
        with pytest.raises(Exception, match=r"the added tensor must be enlarged 2 times to the shape of the output"):
            session(edited).run(None, {"x": x_of(32, *size)})


@pytest.mark.parametrize(
    "nodes",
    [
        pyramid(node("Resize", ["upper", "", "1.5"], ["resized"], **FLOOR), stride=1),
        pyramid(node("Resize", ["upper", "", "scales"], ["resized"], **(FLOOR | {"nearest_mode": "ceil"}))),
        pyramid(node("Resize", ["upper", "", "scales"], ["resized"], mode="linear")),
        pyramid(node("Resize", ["upper", "", "scales"], ["resized"], **FLOOR), stride=1),
        pyramid(node("Resize", ["upper", "", "", "sizes"], ["resized"], mode="nearest"), *SIZES),
        pyramid(node("Resize", ["upper", "", "", "sizes"], ["resized"], **FLOOR), *SIZES, stride=3),
    ],
    ids=["factor 1.5", "rounded up", "linear", "another size", "half pixels", "a third"],
)
def test_resizes_that_are_left_alone(nodes: Nodes, tmp_path: Path) -> None:
    edited = rewritten_model(model_of(nodes, TENSORS | NUMBERS), tmp_path)
    assert edited is not None
    assert "Resize" in edited.others


# -- depthwise blocks --------------------------------------------------------------------------------------------------


def test_inverted_residual(tmp_path: Path) -> None:
    tensors = {"expand": TENSORS["point"], "six": np.array(6, np.float32), "zero": np.array(0, np.float32)}
    nodes = [
        node("Conv", ["x", "wide"], ["s"], **SAME),
        node("Conv", ["s", "expand", "bias"], ["a"]),
        node("Clip", ["a", "zero", "six"], ["b"]),
        node("Conv", ["b", "depth"], ["c"], **SAME, group=32),
        node("Clip", ["c", "zero", "six"], ["d"]),
        node("Conv", ["d", "point"], ["e"]),
        node("Add", ["s", "e"], ["f"]),
        node("Conv", ["f", "few"], ["y"], **SAME),
    ]
    found = operators(nodes, tmp_path, tensors=tensors)
    assert kinds(found) == ["ToBlocked", "WinogradConv", "DepthwiseBlock", "WinogradConv"]
    block = attributes(found[2])
    assert list(found[2].input) == ["s/blocked", "s/blocked"]
    assert {name: block[name] for name in ("low", "expand_high", "project_high", "addition", "top", "stride_x")} == {
        "low": 0.0, "expand_high": 6.0, "project_high": math.inf, "addition": 1, "top": 1, "stride_x": 1,
    }  # fmt: skip
    keys = [name for name in block if "weights" in name or "bias" in name]
    assert sorted(keys) == ["bias", "expand_bias", "expand_weights", "project_bias", "project_weights", "weights"]


FIRST = [
    node("Conv", ["x", "stem", "bias"], ["s"], strides=[2, 2], pads=[3, 3, 2, 3]),
    node("Relu", ["s"], ["a"]),
    node("Conv", ["a", "depth"], ["b"], **SAME, group=32),
    node("Conv", ["b", "point"], ["y"]),
]


@pytest.mark.parametrize("size", [(18, 24), (17, 23), (2, 1), (3, 70)])
def test_the_first_layer_is_part_of_a_block(size: tuple[int, int], tmp_path: Path) -> None:
    block, last = operators(FIRST, tmp_path, x_of(3, *size))
    assert (block.op_type, last.op_type, list(block.input)) == ("DepthwiseBlock", "FromBlocked", ["x"])
    found = attributes(block)
    assert {name: found[f"expand_{name}"] for name in ("stride_y", "top", "left", "bottom", "right", "low")} == {
        "stride_y": 2, "top": 3, "left": 3, "bottom": 2, "right": 3, "low": 0.0,
    }  # fmt: skip
    assert (found["planar_input"], found["stride_y"], found["top"]) == (1, 1, 1)


def test_the_photo_is_read_and_added(tmp_path: Path) -> None:
    """It is read as it is, and added as a blocked image."""
    tensors = {"first": np.full((32, 3, 3, 3), 0.1, np.float32), "back": np.full((3, 32, 1, 1), 0.1, np.float32)}
    nodes = [
        node("Conv", ["x", "first"], ["a"], **SAME),
        node("Conv", ["a", "depth"], ["b"], **SAME, group=32),
        node("Conv", ["b", "back"], ["c"]),
        node("Add", ["x", "c"], ["d"]),
        node("Conv", ["d", "first"], ["y"], **SAME),
    ]
    model, x = model_of(nodes, TENSORS | tensors), x_of(3)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x.shape))
    edited = rewritten_model(model, tmp_path)
    assert edited is not None
    (block,) = (item for item in graph_of(edited).node if item.op_type == "DepthwiseBlock")
    assert list(block.input) == ["x", "x/blocked"]
    assert attributes(block)["planar_input"] == 1
    ours, plain = (session(one).run(None, {"x": x})[0] for one in (edited, model))
    np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-4 * np.abs(plain).max())


def test_first_layers_by_themselves(tmp_path: Path) -> None:
    """Of which something else is read, or before which something is done in the blocked layout."""
    found = operators([*FIRST, node("Relu", ["a"], ["z"])], tmp_path, x_of(3), outputs=("y", "z"))
    assert Counter(kinds(found))["BlockedConv"] == 1
    tensors = {"few": np.ones((3, 3, 1, 1), np.float32)}
    before = [node("Conv", ["x", "few"], ["p"]), node("Conv", ["p", "stem", "bias"], ["s"])]
    found = operators([*before, *FIRST[1:]], tmp_path, x_of(3), tensors=tensors)
    assert kinds(found) == ["BlockedConv", "BlockedConv", "DepthwiseBlock", "FromBlocked"]


def test_depthwise_convolutions_whose_neighbors_are_read_elsewhere(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "wide"], ["s"], **SAME),
        node("Conv", ["s", "point"], ["a"]),
        node("Conv", ["a", "depth"], ["b"], **SAME, group=32),
        node("Conv", ["b", "point"], ["y"]),
    ]
    found = operators(nodes, tmp_path, outputs=("a", "b", "y"))
    expected = Counter(ToBlocked=1, WinogradConv=1, BlockedConv=2, DepthwiseBlock=1, FromBlocked=2)
    assert Counter(kinds(found)) == expected
    assert "expand_weights" not in attributes(next(item for item in found if item.op_type == "DepthwiseBlock"))
