"""What the float32 network does on the calibration's images: ranges and means of tensors, the work of each layer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk._util.lazy import require
from retinasdk.errors import ModelError
from retinasdk.onnx_graph.network import Network, Range

if TYPE_CHECKING:
    import numpy.typing as npt

_PURPOSE = "quantizing a model"


@dataclass(frozen=True)
class Observed:
    """Over all images. ranges, sizes: of each tensor that may get codes, and its numbers; means: of each tensor that a
    layer reads, (channels,), all images alike; work: multiplications of each layer."""

    ranges: dict[str, Range]
    sizes: dict[str, int]
    means: dict[str, npt.NDArray[np.float64]]
    work: dict[str, int]


def observe(network: Network, inputs: Iterable[npt.NDArray[np.float32]]) -> Observed:
    """Runs the network on each input (N, 3, h, w). Of a tensor a run leaves two numbers, a shape and channels' means.

    Raises `ModelError` where a number is not finite.
    """
    onnx = require("onnx", _PURPOSE)
    tensors = network.tensors(network.layers)
    convolutions = [node.output[0] for nodes in network.layers.values() for node in nodes]
    read = list(dict.fromkeys(node.input[0] for nodes in network.layers.values() for node in nodes))
    wanted = [(kind, name) for name in tensors for kind in ("ReduceMin", "ReduceMax")]
    wanted += [("Shape", name) for name in dict.fromkeys([*tensors, *convolutions])]
    wanted += [("GlobalAveragePool", name) for name in read]
    names = [f"{name}/{kind}" for kind, name in wanted]
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    for (kind, name), output in zip(wanted, names, strict=True):
        options = {"keepdims": 0} if kind in ("ReduceMin", "ReduceMax") else {}
        model.graph.node.append(onnx.helper.make_node(kind, [name], [output], **options))
        of = onnx.TensorProto.INT64 if kind == "Shape" else onnx.TensorProto.FLOAT
        model.graph.output.append(onnx.helper.make_tensor_value_info(output, of, None))
    session = open_session(model)

    lows, highs = dict.fromkeys(tensors, math.inf), dict.fromkeys(tensors, -math.inf)
    sizes = dict.fromkeys([*tensors, *convolutions], 0)
    means: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in read}
    for tensor in inputs:
        for (kind, name), value in zip(wanted, session.run(names, {network.input: tensor}), strict=True):
            if kind == "Shape":
                sizes[name] += math.prod(map(int, value))
            elif kind == "GlobalAveragePool":  # (N, channels, 1, 1)
                means[name].append(value.reshape(value.shape[:2]).mean(axis=0, dtype=np.float64))
            elif not np.isfinite(value):
                raise ModelError(
                    f"wanted finite activations on the images, got {value} in {name!r}; is the normalisation in the "
                    "spec the network's?"
                )
            elif kind == "ReduceMin":
                lows[name] = min(lows[name], float(value))
            else:
                highs[name] = max(highs[name], float(value))
    # Each number that a convolution writes takes as many multiplications as one of its output channels has weights.
    work = {
        name: sum(sizes[node.output[0]] for node in nodes) * math.prod(network.constants[name].dims[1:])
        for name, nodes in network.layers.items()
    }
    return Observed(
        ranges={name: Range(lows[name], highs[name]) for name in tensors},
        sizes=sizes,
        means={name: np.mean(found, axis=0) for name, found in means.items()},
        work=work,
    )


def open_session(model: Any) -> Any:
    """ONNX Runtime's session of a model in memory, on the CPU."""
    runtime = require("onnxruntime", _PURPOSE)
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors come as exceptions
    return runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
