"""Small graphs of convolutions, and sessions that know retinasdk's operators."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from retinasdk.backends import winograd_graph

Array = npt.NDArray[np.float32]


SAME = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
WIDE = (16, 64, 3, 3)


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
    options.register_custom_ops_library(str(winograd_graph.library()))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
