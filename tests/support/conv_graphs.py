"""Small graphs of convolutions, and sessions that know retinasdk's operators."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from retinasdk.backends import blocked_graph
from retinasdk.backends.graph_edit import Rewritten
from retinasdk.backends.lent_weights import lent

Array = npt.NDArray[np.float32]


Nodes: TypeAlias = list[onnx.NodeProto]

SAME = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
_random = np.random.default_rng(0)
_SHAPES = {
    "wide": (32, 32, 3, 3),
    "point": (32, 32, 1, 1),
    "stem": (32, 3, 7, 7),
    "few": (9, 32, 3, 3),
    "depth": (32, 1, 3, 3),
    "grouped": (32, 16, 3, 3),
    "bias": (32,),
}
TENSORS = {
    name: (_random.standard_normal(shape) / np.sqrt(max(1.0, np.prod(shape[1:])))).astype(np.float32)
    for name, shape in _SHAPES.items()
}


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


def rewritten_model(
    model: onnx.ModelProto, folder: Path, input_size: tuple[int, int] | None = None
) -> Rewritten | None:
    """Returns the model with the operators of retinasdk, or None if it is left alone."""
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return blocked_graph.rewritten(path, input_size=input_size)


def graph_of(edited: Rewritten) -> onnx.GraphProto:
    """Returns the graph of a rewritten model, in which the keys of lent tensors are 1, 2 and so on."""
    keys = {name: index for index, name in enumerate(edited.lent, start=1)}
    return onnx.load_model_from_string(edited.model(keys)).graph


def session(model: bytes | onnx.ModelProto | Rewritten, *, threads: int = 2) -> onnxruntime.InferenceSession:
    """Opens a session of ONNX Runtime for a model, or for a rewritten one."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    if isinstance(model, onnx.ModelProto):
        model = model.SerializeToString()
    if isinstance(model, bytes):
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    library = blocked_graph.library()
    assert library is not None
    options.register_custom_ops_library(str(library))
    with lent(library, model.lent) as keys:
        return onnxruntime.InferenceSession(model.model(keys), options, providers=["CPUExecutionProvider"])


def x_of(channels: int = 32, height: int = 18, width: int = 23) -> Array:
    return np.random.default_rng(1).standard_normal((2, channels, height, width)).astype(np.float32)


def operators(nodes: Nodes, folder: Path, x: Array | None = None, **options: Any) -> list[onnx.NodeProto]:
    """The nodes of the rewritten graph, whose results have been compared with those of the original one."""
    model = model_of(nodes, TENSORS | options.pop("tensors", {}), **options)
    edited = rewritten_model(model, folder)
    assert edited is not None
    x = x_of() if x is None else x
    for ours, plain in zip(session(edited).run(None, {"x": x}), session(model).run(None, {"x": x}), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-4 * max(1.0, np.abs(plain).max()))
    return list(graph_of(edited).node)


def kinds(nodes: list[onnx.NodeProto]) -> list[str]:
    return [item.op_type for item in nodes]


def attributes(operator: onnx.NodeProto) -> dict[str, float]:
    return {item.name: helper.get_attribute_value(item) for item in operator.attribute}
