"""Measures a float32 network on calibration images: ranges and means of its tensors, and the work of its layers."""

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
    """What was measured over all calibration images.

    Attributes:
        ranges: Range of each tensor that can have codes, by name.
        sizes: Number of values of each of these tensors and of each convolution's output, summed over the images.
        means: Mean of each channel, (channels,) float64, of each tensor that a layer reads. Every image counts alike.
        work: Number of multiplications of each layer, by the name of its weight.
    """

    ranges: dict[str, Range]
    sizes: dict[str, int]
    means: dict[str, npt.NDArray[np.float64]]
    work: dict[str, int]


def observe(network: Network, inputs: Iterable[npt.NDArray[np.float32]]) -> Observed:
    """Runs a network on calibration images and measures its tensors.

    Memory does not grow with the number of images: a run only keeps the extremes, the shape and the channel means of
    each tensor, not the tensor itself.

    Args:
        network: The network.
        inputs: Network inputs, (images, 3, height, width) float32 each.

    Returns:
        The measurements.

    Raises:
        ModelError: If an activation is NaN or infinite.
    """
    onnx = require("onnx", _PURPOSE)
    tensors = network.tensors(network.layers)
    convolutions = [node.output[0] for nodes in network.layers.values() for node in nodes]
    read = list(dict.fromkeys(node.input[0] for nodes in network.layers.values() for node in nodes))
    probes = [(kind, name) for name in tensors for kind in ("ReduceMin", "ReduceMax")]
    probes += [("Shape", name) for name in dict.fromkeys([*tensors, *convolutions])]
    probes += [("GlobalAveragePool", name) for name in read]
    names = [f"{name}/{kind}" for kind, name in probes]
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    for (kind, name), output in zip(probes, names, strict=True):
        options = {"keepdims": 0} if kind in ("ReduceMin", "ReduceMax") else {}
        model.graph.node.append(onnx.helper.make_node(kind, [name], [output], **options))
        of = onnx.TensorProto.INT64 if kind == "Shape" else onnx.TensorProto.FLOAT
        model.graph.output.append(onnx.helper.make_tensor_value_info(output, of, None))
    session = open_session(model)

    lows, highs = dict.fromkeys(tensors, math.inf), dict.fromkeys(tensors, -math.inf)
    sizes = dict.fromkeys([*tensors, *convolutions], 0)
    means: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in read}
    for tensor in inputs:
        for (kind, name), value in zip(probes, session.run(names, {network.input: tensor}), strict=True):
            if kind == "Shape":
                sizes[name] += math.prod(map(int, value))
            elif kind == "GlobalAveragePool":  # (N, channels, 1, 1)
                means[name].append(value.reshape(value.shape[:2]).mean(axis=0, dtype=np.float64))
            elif not np.isfinite(value):
                raise ModelError(
                    f"The network computes {value} in the tensor {name!r}, but activations must be finite. Check that "
                    "the normalization in the spec is the one that the network was trained with."
                )
            elif kind == "ReduceMin":
                lows[name] = min(lows[name], float(value))
            else:
                highs[name] = max(highs[name], float(value))
    # Each output value of a convolution takes as many multiplications as one output channel has weights.
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
    """Opens an ONNX Runtime session on the CPU for an `onnx.ModelProto`."""
    runtime = require("onnxruntime", _PURPOSE)
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # Only errors are logged; they are also raised as exceptions.
    return runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
