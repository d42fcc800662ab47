"""The edit that puts the operators into a graph: what is replaced, what is taken in, and what is left alone."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from conv_graphs import SAME, TENSORS, attributes, graph_of, kinds, model_of, operators, rewritten_model, session, x_of
from onnx import TensorProto, helper
from random_retinanet import random_retinanet

from retinasdk.backends import blocked_graph
from retinasdk.models import find_model

node = helper.make_node
# -- single operators --------------------------------------------------------------------------------------------------


def test_a_convolution(tmp_path: Path) -> None:
    """Its Relu is done as well; the photo is read, and the output of the graph written, as they are."""
    nodes = [
        node("Conv", ["x", "stem", "bias"], ["a"], name="first", strides=[2, 2], pads=[3, 3, 2, 3]),
        node("Relu", ["a"], ["y"]),
    ]
    (operator,) = operators(nodes, tmp_path, x_of(3))
    assert (operator.op_type, operator.domain, operator.name) == ("BlockedConv", "retinasdk", "first")
    assert (list(operator.input), list(operator.output)) == (["x"], ["y"])
    expected = {"weights": 1, "bias": 2, "addition": 0, "low": 0.0, "high": math.inf}
    expected |= {"stride_y": 2, "stride_x": 2, "top": 3, "left": 3, "bottom": 2, "right": 3}
    assert attributes(operator) == expected | {"planar_input": 1, "planar_output": 1}


def test_the_rest_of_the_model_stays(tmp_path: Path) -> None:
    model = model_of([node("Conv", ["x", "stem"], ["y"])], TENSORS)
    model.producer_name = "a framework"
    model.metadata_props.add(key="spec", value="{}")
    edited = rewritten_model(model, tmp_path)
    assert edited is not None
    assert edited.counts == {"BlockedConv": 1}
    assert edited.others == {}
    assert [(name, values.shape) for name, values in edited.lent.items()] == [("weights of y", (32, 3, 7, 7))]
    assert np.array_equal(edited.lent["weights of y"], TENSORS["stem"])
    found = onnx.load_model_from_string(edited.model({"weights of y": 1 << 40}))
    (operator,) = found.graph.node
    assert attributes(operator)["weights"] == 1 << 40
    # What is lent is gone from the graph. Other tensors are there even if nothing reads them.
    assert [tensor.name for tensor in found.graph.initializer] == [name for name in TENSORS if name != "stem"]
    assert found.opset_import.pop() == helper.make_opsetid("retinasdk", 1)
    for emptied in (found, model):
        del emptied.graph.node[:], emptied.graph.initializer[:]
    assert found == model


def test_weights_that_are_read_elsewhere_stay_in_the_graph(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "wide"], ["y"], **SAME),
        node("ReduceSum", ["wide"], ["z"]),
    ]
    edited = rewritten_model(model_of(nodes, {"wide": TENSORS["wide"]}, ("y", "z")), tmp_path)
    assert edited is not None
    assert [tensor.name for tensor in graph_of(edited).initializer] == ["wide"]
    _, z = session(edited).run(None, {"x": x_of()})
    assert z == pytest.approx(TENSORS["wide"].sum(), abs=1e-3)


def test_equal_weights_are_lent_once(tmp_path: Path) -> None:
    """PyTorch writes equal tensors once, and an Identity for each of their other names."""
    nodes = [
        node("Identity", ["wide"], ["second"]),
        node("Identity", ["second"], ["third"]),
        node("Identity", ["bias"], ["other bias"]),
        node("Identity", ["x"], ["same x"]),
        node("Conv", ["same x", "second", "other bias"], ["a"], **SAME),
        node("Conv", ["a", "third", "bias"], ["y"], **SAME),
    ]
    found = operators(nodes, tmp_path)
    assert kinds(found) == ["Identity", "ToBlocked", "WinogradConv", "WinogradConv"]
    assert [(attributes(each)["weights"], attributes(each)["bias"]) for each in found[2:]] == [(1, 2)] * 2


def test_winograd(tmp_path: Path) -> None:
    """Of 3x3 with stride 1 and padding 1, with enough channels."""
    nodes = [
        node("Conv", ["x", "wide"], ["a"], **SAME),
        node("Conv", ["a", "wide"], ["b"], auto_pad="SAME_LOWER"),
        node("Conv", ["b", "few"], ["c"], **SAME),
        node("Conv", ["b", "wide"], ["d"], kernel_shape=[3, 3]),
        node("Conv", ["b", "wide"], ["e"], **SAME, strides=[2, 2]),
        node("Conv", ["c", "narrow"], ["f"], **SAME),
    ]
    tensors = {"narrow": TENSORS["wide"][:, :9]}
    found = operators(nodes, tmp_path, outputs=("c", "d", "e", "f"), tensors=tensors)
    assert Counter(kinds(found)) == Counter(ToBlocked=1, WinogradConv=3, BlockedConv=3, FromBlocked=1)
    expected = {"weights": 1, "bias": 0, "addition": 0, "low": -math.inf, "high": math.inf, "patch": 6}
    assert attributes(found[1]) == expected | {"planar_output": 0}


@pytest.mark.parametrize(
    ("size", "patch"), [((5, 5), 0), ((8, 8), 4), ((12, 12), 4), ((64, 96), 6), ((800, 1088), 6), (None, 6)]
)
def test_small_images_have_smaller_patches(size: tuple[int, int] | None, patch: int, tmp_path: Path) -> None:
    model = model_of([node("Conv", ["x", "wide"], ["y"], **SAME)], TENSORS)
    edited = rewritten_model(model, tmp_path, size)
    assert edited is not None
    assert attributes(graph_of(edited).node[1]).get("patch", 0) == patch
    if size is not None:  # The size may also be known from the graph.
        model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 32, *size]))
        edited = rewritten_model(model, tmp_path)
        assert edited is not None
        assert attributes(graph_of(edited).node[1]).get("patch", 0) == patch


@pytest.mark.parametrize(("channels", "patches"), [(32, [6, 4, 0]), (256, [6, 6, 6])])
def test_large_weights_are_kept_in_one_form(channels: int, patches: list[int], tmp_path: Path) -> None:
    """At a small level, the memory is worth more than the time."""
    weights = np.zeros((channels, channels, 3, 3), np.float32)
    nodes = [node("Conv", ["x", "w"], ["y0"], **SAME)]
    for level, kernel in ((1, 4), (2, 8)):
        pool = {"kernel_shape": [kernel] * 2, "strides": [kernel] * 2}
        nodes += [
            node("MaxPool", [f"y{level - 1}"], [f"p{level}"], **pool),
            node("Conv", [f"p{level}", "w"], [f"y{level}"], **SAME),
        ]
    edited = rewritten_model(model_of(nodes, {"w": weights}, ("y2",)), tmp_path, (64, 96))
    assert edited is not None
    convolutions = [item for item in graph_of(edited).node if "Conv" in item.op_type]
    assert [attributes(each).get("patch", 0) for each in convolutions] == patches


@pytest.mark.parametrize(
    ("kind", "inputs", "limits"),
    [
        ("Relu", [], (0.0, math.inf)),
        ("Clip", ["zero", "six"], (0.0, 6.0)),
        ("Clip", ["zero"], (0.0, math.inf)),
        ("Clip", ["", "six"], (-math.inf, 6.0)),
        ("Clip", ["minus", "zero"], (-1.0, 0.0)),
        ("Clip", ["one", "six"], None),  # 0 would not stay 0, as the unused channels of a blocked image must.
        ("Clip", ["minus", "minus"], None),
        ("Clip", ["zero", "given"], None),
        ("LeakyRelu", [], None),
    ],
)
def test_limits(kind: str, inputs: list[str], limits: tuple[float, float] | None, tmp_path: Path) -> None:
    numbers = {"zero": 0.0, "six": 6.0, "one": 1.0, "minus": -1.0}
    nodes = [
        node("Conv", ["x", "stem"], ["a"]),
        node(kind, ["a", *inputs], ["y"]),
    ]
    tensors = {name: np.array(value, np.float32) for name, value in numbers.items()}
    model = model_of(nodes, TENSORS | tensors, inputs=("given",) if "given" in inputs else ())
    edited = rewritten_model(model, tmp_path)
    assert edited is not None
    found = graph_of(edited).node
    assert kinds(found) == (["BlockedConv", kind] if limits is None else ["BlockedConv"])
    if limits is not None:
        assert (attributes(found[0])["low"], attributes(found[0])["high"]) == limits


def test_limits_that_are_attributes_or_constants(tmp_path: Path) -> None:
    six = helper.make_tensor("six", TensorProto.FLOAT, [], [6.0])
    nodes = [
        node("Constant", [], ["high"], value=six),
        node("Conv", ["x", "stem"], ["a"]),
        node("Clip", ["a", "", "high"], ["y"]),
    ]
    (operator,) = operators(nodes, tmp_path, x_of(3))
    assert (attributes(operator)["low"], attributes(operator)["high"]) == (-math.inf, 6.0)
    old = model_of([nodes[1], node("Clip", ["a"], ["y"], min=0.0, max=6.0)], TENSORS)
    old.opset_import[0].version = 6
    edited = rewritten_model(old, tmp_path)
    assert edited is not None
    assert (attributes(graph_of(edited).node[0])["low"], attributes(graph_of(edited).node[0])["high"]) == (0.0, 6.0)


def test_constants_behind_a_convolution(tmp_path: Path) -> None:
    """A normalization, and factors and summands for each channel, become part of the weights."""
    names = ("scale", "shift", "mean", "variance", "factor", "summand")
    tensors = {name: (np.abs(np.random.default_rng(0).standard_normal(32)) + 0.5).astype(np.float32) for name in names}
    tensors |= {name: tensors[name].reshape(1, 32, 1, 1) for name in ("factor", "summand")}
    nodes = [
        node("Conv", ["x", "stem", "bias"], ["a"]),
        node("BatchNormalization", ["a", *names[:4]], ["b"], epsilon=0.01),
        node("Mul", ["factor", "b"], ["c"]),
        node("Add", ["c", "summand"], ["d"]),
        node("Relu", ["d"], ["y"]),
    ]
    assert kinds(operators(nodes, tmp_path, x_of(3), tensors=tensors)) == ["BlockedConv"]
    tensors["variance"] = -tensors["variance"]  # The square root is no number.
    edited = rewritten_model(model_of(nodes, TENSORS | tensors), tmp_path)
    assert edited is not None
    assert kinds(graph_of(edited).node) == ["BlockedConv", "BatchNormalization", "Mul", "Add", "Relu"]


def test_pooling(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "stem"], ["a"]),
        node("MaxPool", ["a"], ["b"], kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 2, 1]),
        node("Conv", ["b", "point"], ["y"]),
    ]
    found = operators(nodes, tmp_path, x_of(3))
    assert kinds(found) == ["BlockedConv", "BlockedMaxPool", "BlockedConv"]
    expected = {"kernel_y": 3, "kernel_x": 2, "stride_y": 2, "stride_x": 1}
    assert attributes(found[1]) == expected | {"top": 1, "left": 0, "bottom": 2, "right": 1}
    for change in ({"ceil_mode": 1}, {"dilations": [2, 2]}, {"auto_pad": "SAME_UPPER", "strides": [2, 2], "pads": []}):
        options = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]} | change
        options = {name: value for name, value in options.items() if value}
        nodes[1] = node("MaxPool", ["a"], ["b"], **options)
        assert "MaxPool" in kinds(operators(nodes, tmp_path, x_of(3)))


@pytest.mark.parametrize(
    "conv",
    [
        node("Conv", ["x", "wide"], ["y"], **SAME, dilations=[2, 2]),
        node("Conv", ["x", "wide"], ["y"], auto_pad="SAME_UPPER", strides=[2, 2]),
        node("Conv", ["x", "grouped"], ["y"], **SAME, group=2),
        node("Conv", ["x", "given"], ["y"], **SAME),
        node("Conv", ["x", "wide", "given"], ["y"], **SAME),
        node("Conv", ["x", "wide"], ["y"], kernel_shape=[3, 3], pads=[3, 0, 0, 0]),
        node("Conv", ["x", "wide"], ["y"], kernel_shape=[3, 3], strides=[32, 1]),
        node("ConvTranspose", ["x", "wide"], ["y"]),
        node("Conv", ["x", "wide"], ["y"], domain="own", **SAME),
    ],
    ids=["dilated", "padded by size", "grouped", "weights", "bias", "much padding", "stride", "transposed", "domain"],
)
def test_convolutions_that_are_left_alone(conv: onnx.NodeProto, tmp_path: Path) -> None:
    given = ("given",) if "given" in conv.input else ()
    assert rewritten_model(model_of([conv], TENSORS, inputs=given), tmp_path) is None


def test_sizes_that_are_certain_without_the_input(tmp_path: Path) -> None:
    """A 1x1 convolution needs no padding, whatever its stride."""
    nodes = [node("Conv", ["x", "point"], ["y"], auto_pad="SAME_UPPER", strides=[2, 2])]
    assert kinds(operators(nodes, tmp_path)) == ["ToBlocked", "BlockedConv"]


# -- layouts -----------------------------------------------------------------------------------------------------------


def test_images_are_rearranged_once(tmp_path: Path) -> None:
    nodes = [
        node("Sigmoid", ["x"], ["s"]),
        node("Conv", ["s", "wide"], ["a"], **SAME),
        node("Conv", ["s", "wide"], ["b"], **SAME),
        node("Sigmoid", ["b"], ["c"]),
        node("Softplus", ["b"], ["d"]),
        node("Conv", ["b", "wide"], ["e"], **SAME),
        node("Relu", ["b"], ["f"]),
        node("Conv", ["f", "wide"], ["g"], **SAME),
    ]
    found = operators(nodes, tmp_path, outputs=("a", "c", "d", "e", "g"))
    assert Counter(kinds(found)) == Counter(
        Sigmoid=2, Softplus=1, ToBlocked=1, FromBlocked=1, WinogradConv=1, WinogradLevels=1, Relu=1
    )
    (relu,) = (item for item in found if item.op_type == "Relu")
    assert (list(relu.input), list(relu.output)) == (["b/blocked"], ["f/blocked"])


def test_elementwise_operators_stay_with_their_neighbors(tmp_path: Path) -> None:
    nodes = [
        node("LeakyRelu", ["x"], ["a"]),
        node("Conv", ["a", "wide"], ["b"], **SAME),
        node("LeakyRelu", ["b"], ["c"]),
        node("Conv", ["c", "wide"], ["d"], **SAME),
        node("LeakyRelu", ["d"], ["y"]),
    ]
    found = operators(nodes, tmp_path)
    assert kinds(found) == ["LeakyRelu", "ToBlocked", "WinogradConv", "LeakyRelu", "WinogradConv", "LeakyRelu"]


def test_names_are_new(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "wide"], ["a"], **SAME),
        node("Conv", ["a", "wide"], ["a/blocked"], **SAME),
        node("Conv", ["a/blocked", "wide"], ["y"], **SAME),
    ]
    operators(nodes, tmp_path)


def test_a_lone_convolution_among_others_is_left_alone(tmp_path: Path) -> None:
    """Rearranging its images takes longer than what is saved."""
    tensors = {"small": np.ones((5, 5, 1, 1), np.float32), "large": TENSORS["wide"]}
    nodes = [
        node("Sigmoid", ["x"], ["a"]),
        node("Conv", ["a", "small"], ["b"]),
        node("Sigmoid", ["b"], ["y"]),
    ]
    assert rewritten_model(model_of(nodes, tensors), tmp_path) is None
    nodes[1] = node("Conv", ["a", "large"], ["b"])
    assert rewritten_model(model_of(nodes, tensors), tmp_path) is not None
    assert rewritten_model(model_of([node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2])], {}), tmp_path) is None


# -- whole networks ----------------------------------------------------------------------------------------------------


def test_whole_networks_stay_blocked(tmp_path: Path) -> None:
    """From the photo to the heads, no image is rearranged."""
    edited = blocked_graph.rewritten(find_model("people"), input_size=(512, 768))
    assert edited is not None
    assert edited.others == {}
    assert set(edited.counts) == {"BlockedConv", "WinogradConv", "WinogradLevels", "DepthwiseBlock"}
    assert edited.counts["DepthwiseBlock"] == 16  # The first one reads the photo.
    assert edited.counts["BlockedConv"] == 5
    assert edited.counts["WinogradLevels"] == 6  # Three layers of each head.
    edited = rewritten_model(random_retinanet("tiny")[0], tmp_path)
    assert edited is not None
    assert edited.others == {"Relu": 1}  # Before P7. It is done on blocked images.
    assert set(edited.counts) == {"BlockedConv", "WinogradConv", "WinogradLevels"}


# -- what is not rewritten at all --------------------------------------------------------------------------------------


def test_files_that_are_left_alone(tmp_path: Path) -> None:
    conv = node("Conv", ["x", "wide"], ["y"], **SAME)
    external = tmp_path / "external.onnx"
    onnx.save(model_of([conv], TENSORS), str(external), save_as_external_data=True, size_threshold=0)
    assert blocked_graph.rewritten(external) is None
    branch = helper.make_graph([conv], "branch", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    choice = node("If", ["given"], ["z"], then_branch=branch, else_branch=branch)
    nested = [node("Conv", ["x", "wide"], ["q"], **SAME), choice]
    assert rewritten_model(model_of(nested, TENSORS, ("z",)), tmp_path) is None
    half = {"wide": TENSORS["wide"].astype(np.float16)}
    assert rewritten_model(model_of([conv], half), tmp_path) is None
    quantized = [conv, node("QuantizeLinear", ["y", "scale"], ["z"])]
    scale = {"scale": np.array(0.1, np.float32)}
    assert rewritten_model(model_of(quantized, TENSORS | scale, ("z",)), tmp_path) is None


def test_initializers_that_are_inputs_are_not_constant(tmp_path: Path) -> None:
    model = model_of([node("Conv", ["x", "wide"], ["y"], **SAME)], TENSORS, inputs=("wide",))
    assert rewritten_model(model, tmp_path) is None


@pytest.mark.parametrize("wrong", ["made twice", "read too early"])
def test_nodes_out_of_order_are_refused(wrong: str, tmp_path: Path) -> None:
    nodes = [node("Conv", ["x", "wide"], ["a"], **SAME), node("Conv", ["a", "wide"], ["y"], **SAME)]
    nodes = [nodes[0], *nodes] if wrong == "made twice" else nodes[::-1]
    with pytest.raises(ValueError, match="made twice, or read before it is made"):
        rewritten_model(model_of(nodes, TENSORS), tmp_path)
