"""The edit that puts the operators into a graph: what is replaced, what is taken in, and what is left alone."""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from conv_graphs import SAME, WIDE, model_of, session
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from retinasdk._util.onnx_files import external_locations
from retinasdk._util.onnx_wire import bytes_field
from retinasdk.backends import onnx_cpu, winograd_graph

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


def with_external_bias(folder: Path, value: float, name: str = "bias.bin") -> Path:
    """A network whose convolution could be replaced, and whose last bias is in a file of its own."""
    folder.mkdir(exist_ok=True)
    weights = np.zeros(WIDE, np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], **SAME),
        helper.make_node("Add", ["c", "bias"], ["y"]),
    ]
    model = model_of(nodes, {"w": weights, "bias": np.full((1, 16, 1, 1), value, np.float32)})
    tensor = model.graph.initializer[1]
    (folder / name).write_bytes(tensor.raw_data)
    onnx.external_data_helper.set_external_data(tensor, location=name)
    tensor.ClearField("raw_data")
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("convolution", ["auto", "direct"])
def test_external_data_comes_from_the_folder_of_the_model(
    convolution: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = with_external_bias(tmp_path / "ours", 1)
    with_external_bias(tmp_path / "theirs", 2)
    monkeypatch.chdir(tmp_path / "theirs")
    opened = onnx_cpu._open_session(path, 1, convolution)
    (y,) = opened.run(None, {"x": np.zeros((1, 64, 4, 4), np.float32)})
    assert np.unique(y).tolist() == [1]
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(
        onnx_cpu._open_session(path, 1, convolution).run(None, {"x": np.zeros((1, 64, 4, 4), np.float32)})[0], y
    )


def tensor_outside() -> onnx.TensorProto:
    tensor = numpy_helper.from_array(np.ones((1, 16, 1, 1), np.float32), "e")
    onnx.external_data_helper.set_external_data(tensor, location="weights/e.bin")
    tensor.ClearField("raw_data")
    return tensor


def branch(*nodes: onnx.NodeProto, initializer: list[onnx.TensorProto] | None = None) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "branch", [], [], initializer or [])


def constant(**attributes: object) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["e"], **attributes)


def choice(then: onnx.GraphProto) -> onnx.NodeProto:
    return helper.make_node("If", ["x"], ["z"], then_branch=then)


def function(node: onnx.NodeProto) -> onnx.FunctionProto:
    return helper.make_function("own", "F", [], ["e"], [node], [helper.make_opsetid("", 17)])


def sparse_outside() -> onnx.SparseTensorProto:
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    return helper.make_sparse_tensor(tensor_outside(), indices, [16])


@pytest.mark.parametrize(
    "hide",
    [
        lambda model: model.graph.initializer.append(tensor_outside()),
        lambda model: model.graph.sparse_initializer.append(sparse_outside()),
        lambda model: model.graph.node.append(constant(value=tensor_outside())),
        lambda model: model.graph.node.append(constant(sparse_value=sparse_outside())),
        lambda model: model.graph.node.append(choice(branch(constant(value=tensor_outside())))),
        lambda model: model.graph.node.append(choice(branch(initializer=[tensor_outside()]))),
        lambda model: model.graph.node.append(helper.make_node("Own", ["x"], ["z"], all=[tensor_outside()])),
        lambda model: model.functions.append(function(constant(value=tensor_outside()))),
    ],
    ids=["initializer", "sparse", "constant", "sparse constant", "subgraph", "in a subgraph", "list", "function"],
)
def test_external_data_is_found_wherever_it_is(hide: Callable[[onnx.ModelProto], None], tmp_path: Path) -> None:
    model = model_of([helper.make_node("Conv", ["x", "w"], ["y"], **SAME)], {"w": np.zeros(WIDE, np.float32)})
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert external_locations(memoryview(path.read_bytes())) == set()
    assert winograd_graph.rewritten(path) is not None
    hide(model)
    path.write_bytes(model.SerializeToString())
    assert external_locations(memoryview(path.read_bytes())) == {"weights/e.bin"}
    assert winograd_graph.rewritten(path) is None


# -- what files can cost -----------------------------------------------------------------------------------------------

UNKNOWN = bytes_field(99, b"")
NODE, NAME = bytes_field(1, b""), bytes_field(1, b"")


@pytest.mark.parametrize(
    "inside",
    [
        lambda size: UNKNOWN * (size // len(UNKNOWN)),
        lambda size: bytes_field(7, UNKNOWN * (size // len(UNKNOWN))),
        lambda size: bytes_field(7, NODE * (size // len(NODE))),
        lambda size: bytes_field(7, bytes_field(1, NAME * (size // len(NAME)))),
        lambda size: bytes_field(7, bytes_field(1, bytes_field(5, UNKNOWN * (size // len(UNKNOWN))))),
        lambda size: bytes_field(7, bytes_field(5, bytes_field(1, b"\1" * size))),
        lambda size: bytes_field(7, bytes_field(1, bytes_field(1, ("x" * size + "\N{OK HAND SIGN}").encode()))),
    ],
    ids=["in the model", "in the graph", "nodes", "inputs", "in an attribute", "a shape", "a name"],
)
def test_memory_is_a_multiple_of_the_file(inside: Callable[[int], bytes], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    size = 8 << 20
    path.write_bytes(inside(size) if inside(8)[:1] == b"\x3a" else inside(size) + bytes_field(7, b""))
    tracemalloc.start()
    try:
        with contextlib.suppress(ValueError):
            assert winograd_graph.rewritten(path) is None
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * size


@pytest.mark.parametrize("stride", [1, 2])
def test_steps_are_linear_in_the_number_of_nodes(stride: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long chain of convolutions in front of residual blocks whose shortcuts come from far away."""
    tensors = {"one": np.zeros((64, 64, 1, 1), np.float32), "wide": np.zeros((64, 64, 3, 3), np.float32)}

    def steps(blocks: int) -> int:
        node = helper.make_node
        nodes = [node("Conv", ["x", "one"], ["n0"], strides=[stride, stride])]
        nodes += [node("Conv", [f"n{i}", "one"], [f"n{i + 1}"], strides=[stride, stride]) for i in range(2 * blocks)]
        last = f"n{2 * blocks}"
        for i in range(blocks):
            nodes += [
                node("Conv", [last, "wide"], [f"w{i}"], **SAME),
                node("Conv", [f"w{i}", "one"], [f"p{i}"]),
                node("Conv", [f"n{i}", "one"], [f"s{i}"]),
                node("Add", [f"p{i}", f"s{i}"], [f"a{i}"]),
            ]
            last = f"a{i}"
        path = tmp_path / "model.onnx"
        path.write_bytes(model_of(nodes, tensors, (last,)).SerializeToString())
        taken = 0

        def counted(edit: winograd_graph._Edit, name: str) -> object:
            nonlocal taken
            taken += 1
            return maker(edit, name)

        with monkeypatch.context() as patched:
            patched.setattr(winograd_graph._Edit, "_maker", counted)
            assert winograd_graph.rewritten(path) is not None
        return taken

    maker = winograd_graph._Edit._maker
    assert steps(400) <= 2.2 * steps(200)
    assert steps(50) <= 2 * 50 * 4 * winograd_graph._REACH


@given(content=st.binary(max_size=60))
def test_what_is_no_onnx_is_refused(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("bad") / "model.onnx"
    path.write_bytes(content)
    with contextlib.suppress(ValueError):
        assert winograd_graph.rewritten(path) is None
