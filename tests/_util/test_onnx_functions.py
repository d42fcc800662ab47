"""Functions of an ONNX model: what they stand for is counted before it is made."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from foreign import other_frameworks
from onnx import TensorProto, helper
from small_spec import small_spec

from retinasdk import Detector, ModelError, import_onnx
from retinasdk._util.onnx_functions import FunctionsError, check_functions
from retinasdk.onnx_graph.model_file import read_model

SETS = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]


def with_functions(count: int, *, calls: int = 2, last: str = "Relu", inside: bool = False) -> onnx.ModelProto:
    """A model of functions that each call the next one `calls` times, in a branch if `inside`."""
    functions = []
    for number in range(count):
        kind, domain = (f"f{number + 1}", "own") if number + 1 < count else (last, "own" if last != "Relu" else "")
        tensors = ["a", *(f"t{i}" for i in range(calls - 1)), "b"]
        nodes = [helper.make_node(kind, [one], [two], domain=domain) for one, two in itertools.pairwise(tensors)]
        functions.append(helper.make_function("own", f"f{number}", ["a"], ["b"], nodes, SETS))
    node = helper.make_node("f0", ["images"], ["y"], domain="own")
    if inside:
        out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        graph = helper.make_graph([node], "branch", [], [out])
        node = helper.make_node("If", ["flag"], ["y"], then_branch=graph, else_branch=graph)
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("N", 3, "H", "W")) for name in ("images", "y")]
    flag = helper.make_tensor("flag", TensorProto.BOOL, [], [True])
    graph = helper.make_graph([node], "g", value[:1], value[1:], [flag] if inside else [])
    return helper.make_model(graph, opset_imports=SETS, functions=functions, ir_version=8)


def check(model: onnx.ModelProto) -> None:
    check_functions(memoryview(model.SerializeToString()))


def test_what_is_allowed() -> None:
    check(with_functions(16))  # 65,536 operators
    check(with_functions(1, calls=100))
    check(other_frameworks.with_a_function()[0])
    check(other_frameworks.odtk()[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: with_functions(17), "stand for more than 65536 operators"),
        (lambda: with_functions(200), "stand for more than 65536 operators"),
        (lambda: with_functions(16, inside=True), "stand for more than 65536 operators"),
        (lambda: with_functions(3, last="f1"), "its function 'f1' calls itself"),
        (lambda: with_functions(2000, calls=1), "nested hundreds of levels deep"),
    ],
    ids=["17", "200", "in a branch", "itself", "deep"],
)
def test_what_is_not(make: Callable[[], onnx.ModelProto], message: str) -> None:
    with pytest.raises(FunctionsError, match=re.escape(message)):
        check(make())


def test_nobody_replaces_them(tmp_path: Path) -> None:
    """Each of these would not end."""
    path = tmp_path / "model.onnx"
    onnx.save(with_functions(40), str(path))
    message = r"model\.onnx .*functions stand for more than 65536 operators, which no RetinaNet has"
    with pytest.raises(ModelError, match=message):
        Detector(path, spec=small_spec(), device="cpu")
    with pytest.raises(ModelError, match=message):
        import_onnx(path, tmp_path / "heads.onnx", flavour="torchvision")
    with pytest.raises(ModelError, match=message):
        read_model(path, spec=small_spec(), purpose="a test")


@pytest.mark.parametrize("field", [b"\x0a\x00", b"\x2a\x00"], ids=["nodes", "tensors"])
def test_millions_of_fields_are_not_imported(field: bytes, tmp_path: Path) -> None:
    graph = field * 1_000_000
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x3a" + _varint(len(graph)) + graph)
    with pytest.raises(ModelError, match=r"model\.onnx cannot be imported: it has more than 262144 fields"):
        import_onnx(path, tmp_path / "heads.onnx", flavour="torchvision")


def test_millions_of_outermost_fields() -> None:
    with pytest.raises(FunctionsError, match="more than 262144 outermost fields"):
        check_functions(memoryview(b"\x7a\x00" * 300_000))


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])
