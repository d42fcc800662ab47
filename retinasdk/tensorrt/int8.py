"""INT8 for TensorRT: writes quantize/dequantize (Q/DQ) pairs into the graph, with scales measured on real images.

Note [Placement of Q/DQ pairs]. The scheme is the one that TensorRT's explicit quantization takes: symmetric int8, one
scale for an activation, one scale for each output channel of a weight, biases in float. The placement follows NVIDIA's
recommendations ("Working with Quantized Types" in the TensorRT documentation):

- The inputs of a convolution are quantized, its output is not. TensorRT fuses the convolution with the activation
  function behind it and with the Q of the next layer; a pair between the two would prevent that.
- A tensor has one pair, which all its readers share. So the shortcut of a residual block is int8 as well, without which
  TensorRT cannot fuse the addition with the convolution and the next Q. Where both inputs of an addition come straight
  from convolutions, as at the start of a ResNet's stage, one of them gets a pair for the same reason.

The last convolution of each head stays in float, because its output decides the detections. Depthwise and grouped
convolutions stay in float too: they are a small part of the work, and they lose most, because the ranges of their
channels differ widely while activations have one scale. Convolutions in float read the exact tensor.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk._util.lazy import require
from retinasdk._util.progress import ProgressCallback, tracked
from retinasdk.images import ImageInput
from retinasdk.onnx_graph.calibration import calibration_images, network_inputs
from retinasdk.onnx_graph.layers import WEIGHTED
from retinasdk.onnx_graph.network import Network, Range, prepared
from retinasdk.onnx_graph.ranges import observe
from retinasdk.spec import ModelSpec
from retinasdk.tensorrt.float16 import OPSET_OF_HALF_SCALES

if TYPE_CHECKING:
    import numpy.typing as npt

_MAX_CODE = 127


def quantize(
    model: Any,
    spec: ModelSpec,
    images: Sequence[ImageInput],
    *,
    batch: int = 1,
    half_scales: bool = True,
    progress: ProgressCallback | None = None,
) -> Any:
    """Returns a copy of an ONNX model with its convolutions quantized to int8.

    See Note [Placement of Q/DQ pairs]. The scales come from the ranges that the activations have on `images`. All of
    them are float16 numbers (rounded up), so that the result does not depend on the type in which the graph holds them.

    Args:
        model: The network, an `onnx.ModelProto` in float32 that ends at its raw heads.
        spec: The model's spec. It says how images are preprocessed.
        images: Images like those that the model will see, in any form that a `Detector` takes. A few hundred are
            enough.
        batch: Number of images per run, for a network with a fixed batch size. Copies of one image fill the batch.
        half_scales: Convert the model to the first opset in which `to_float16` can store scales in float16, if its
            opset is older and every operator can be converted.
        progress: Called with a `Progress` for each image.

    Returns:
        The quantized `onnx.ModelProto`. The input, the outputs and all tensors outside Q/DQ pairs are float32.

    Raises:
        ModelError: If the model is quantized already, holds float16 weights, or has weights or activations that are
            NaN or infinite.
        ImageError: If an item of `images` cannot be read as an image.
        ValueError: If `images` is empty.
    """
    images = calibration_images(images)
    onnx = require("onnx", "quantizing a model")
    network = Network(prepared(_with_half_scales(onnx, model) if half_scales else model))
    layers = [
        name for name, nodes in network.layers.items() if name not in network.last and not any(map(_is_grouped, nodes))
    ]
    calibrated = tracked(images, progress, "calibrate", "image")
    observed = observe(network, network_inputs(calibrated, spec, batch=batch))
    return _Writer(onnx, network, layers, observed.ranges).model


def _with_half_scales(onnx: Any, model: Any) -> Any:
    """The model in an opset in which scales may be float16, or unchanged where it cannot be converted."""
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if opset >= OPSET_OF_HALF_SCALES:
        return model
    try:
        return onnx.version_converter.convert_version(model, OPSET_OF_HALF_SCALES)
    except Exception:  # An operator without a converter, of many types. Scales stay float32 then, between casts.
        return model


def _is_grouped(node: Any) -> bool:
    return any(item.name == "group" and item.i > 1 for item in node.attribute)


class _Writer:
    """Writes the nodes of the graph again, in order, with a Q/DQ pair before the first reader of a quantized tensor."""

    def __init__(self, onnx: Any, network: Network, layers: Collection[str], ranges: Mapping[str, Range]) -> None:
        self._onnx, self._network, self._ranges = onnx, network, ranges
        self._nodes: list[Any] = []
        self._constants = dict(network.constants)
        self._dequantized: dict[str, str] = {}  # by the name of a tensor or weight: its name behind the pair
        nodes = network.model.graph.node
        convolutions = {node.output[0]: node for name in layers for node in network.layers[name]}
        self._quantized = {node.input[0] for node in convolutions.values()}
        self._quantized |= {  # Note [Placement of Q/DQ pairs]
            node.input[0]
            for node in nodes
            if node.op_type == "Add" and all(name in convolutions for name in node.input)
        }
        for node in nodes:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            if node.output[0] in convolutions:
                copy.input[0] = self._activation(node.input[0])
                copy.input[1] = self._weight(node.input[1])
            elif node.op_type not in WEIGHTED:
                copy.input[:] = [self._activation(name) if name in self._quantized else name for name in node.input]
            self._nodes.append(copy)
        self.model = self._assembled()

    def _activation(self, name: str) -> str:
        """The tensor behind its pair, which is written the first time that it is asked for."""
        if name not in self._dequantized:
            found = self._ranges[name]
            scale = _scales(np.float32(max(-found.low, found.high)))
            parameters = [self._constant(f"{name}/scale", scale), self._constant(f"{name}/zero", np.int8(0))]
            codes, target = f"{name}/codes", f"{name}/dequantized"
            make = self._onnx.helper.make_node
            self._nodes.append(make("QuantizeLinear", [name, *parameters], [codes], f"{name}/Q"))
            self._nodes.append(make("DequantizeLinear", [codes, *parameters], [target], f"{name}/DQ"))
            self._dequantized[name] = target
        return self._dequantized[name]

    def _weight(self, name: str) -> str:
        """The weight behind its DequantizeLinear, which reads constant codes."""
        if name not in self._dequantized:
            weight = self._network.values(name)
            scales = _scales(np.abs(weight.reshape(len(weight), -1)).max(axis=1))
            codes = np.rint(weight / scales.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.int8)
            inputs = [
                self._constant(f"{name}/codes", codes),
                self._constant(f"{name}/scales", scales),
                self._constant(f"{name}/zeros", np.zeros(len(scales), np.int8)),
            ]
            target = f"{name}/dequantized"
            self._nodes.append(self._onnx.helper.make_node("DequantizeLinear", inputs, [target], f"{name}/DQ", axis=0))
            self._dequantized[name] = target
        return self._dequantized[name]

    def _constant(self, name: str, values: Any) -> str:
        self._constants[name] = self._onnx.numpy_helper.from_array(np.asarray(values), name)
        return name

    def _assembled(self) -> Any:
        model = self._onnx.ModelProto()
        model.CopyFrom(self._network.model)
        used = {name for node in self._nodes for name in node.input}
        del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
        model.graph.node.extend(self._nodes)
        model.graph.initializer.extend(item for name, item in self._constants.items() if name in used)
        return model


def _scales(largest: Any) -> npt.NDArray[np.float32]:
    """The scales for the largest magnitudes: float16 numbers, as float32. A tensor of zeros gets the scale 1."""
    return _half_above(np.where(largest == 0, np.float32(1), largest / np.float32(_MAX_CODE)))


def _half_above(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The smallest float16 numbers that are at least `values`, as float32."""
    half = values.astype(np.float16)
    up = np.nextafter(half, np.float16(math.inf), dtype=np.float16)
    return np.where(half.astype(np.float32) < values, up, half).astype(np.float32)
