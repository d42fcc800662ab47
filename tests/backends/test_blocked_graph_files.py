"""Files that are not rewritten: those with external data, those that cost too much, and those that are no models."""

from __future__ import annotations

import contextlib
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from conv_graphs import SAME, model_of, rewritten_model
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from retinasdk._util.onnx_files import external_locations
from retinasdk._util.onnx_wire import bytes_field
from retinasdk.backends import blocked_graph, sessions

node = helper.make_node
TENSORS = {name: np.full((32, 32, side, side), 0.01, np.float32) for name, side in (("wide", 3), ("point", 1))}


def with_external_bias(folder: Path, value: float, name: str = "bias.bin") -> Path:
    """A network whose convolution could be replaced, and whose last bias is in a file of its own."""
    folder.mkdir(exist_ok=True)
    weights = np.zeros((16, 64, 3, 3), np.float32)
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


def test_external_data_comes_from_the_folder_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = with_external_bias(tmp_path / "ours", 1)
    with_external_bias(tmp_path / "theirs", 2)
    x = np.zeros((1, 64, 4, 4), np.float32)
    for folder in ("theirs", "."):
        monkeypatch.chdir(tmp_path / folder)
        (y,) = sessions.open_direct(path, 1).run(None, {"x": x})
        assert np.unique(y).tolist() == [1]
        with pytest.raises(sessions.NotRewrittenError):
            sessions.open_blocked(path, 1, (4, 4))


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
    model = model_of([helper.make_node("Conv", ["x", "w"], ["y"], **SAME)], {"w": np.zeros((16, 64, 3, 3), np.float32)})
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert external_locations(memoryview(path.read_bytes())) == set()
    assert blocked_graph.rewritten(path) is not None
    hide(model)
    path.write_bytes(model.SerializeToString())
    assert external_locations(memoryview(path.read_bytes())) == {"weights/e.bin"}
    assert blocked_graph.rewritten(path) is None


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
            assert blocked_graph.rewritten(path) is None
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * size


def test_time_is_linear_in_the_number_of_nodes(tmp_path: Path) -> None:
    """A long chain of residual blocks, whose shortcuts come from far away, and of pyramids."""

    def calls(blocks: int) -> int:
        nodes = [node("Conv", ["x", "wide"], ["n0"], **SAME)]
        nodes += [node("Conv", [f"n{i}", "point"], [f"n{i + 1}"]) for i in range(blocks)]
        last = f"n{blocks}"
        for i in range(blocks):
            nodes += [
                node("Conv", [last, "wide"], [f"w{i}"], **SAME),
                node("Add", [f"w{i}", f"n{i}"], [f"a{i}"]),
                node("Shape", [f"a{i}"], [f"s{i}"]),
                node("Resize", [f"a{i}", "", "", f"s{i}"], [f"r{i}"], mode="nearest"),
                node("Add", [f"r{i}", f"a{i}"], [f"l{i}"]),
            ]
            last = f"l{i}"
        taken = 0

        def count(*_: object) -> None:
            nonlocal taken
            taken += 1

        model = model_of(nodes, TENSORS, (last,))
        sys.setprofile(count)
        try:
            assert rewritten_model(model, tmp_path) is not None
        finally:
            sys.setprofile(None)
        return taken

    calls(1)
    assert calls(400) <= 2.2 * calls(200)


@given(content=st.binary(max_size=60))
def test_what_is_no_onnx_is_refused(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("bad") / "model.onnx"
    path.write_bytes(content)
    with contextlib.suppress(ValueError):
        assert blocked_graph.rewritten(path) is None
