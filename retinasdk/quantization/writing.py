"""Writes a network in the Q/DQ form that ONNX Runtime computes in 8 bits on the CPU from end to end.

Activations are uint8 with a zero point, weights are int8 with a scale per output channel, biases are int32 in the
scale of the sums. Between two quantized convolutions, everything that can stay in 8 bits does: activation functions
merge into the rounding to uint8, additions are quantized too, pooling and nearest resizing keep the codes unchanged.

Note [Pairs of products]
Processors without VNNI multiply with vpmaddubsw, which adds two products in 16 bits and saturates above 32767.
Weights of full eight bits would saturate: 2 * 255 * 127. So two weights that are neighbors in the order of the sum
(row, column, channel) and have the same sign get codes that sum to at most 128, since 255 * 128 fits. This leaves each
channel between seven and eight bits. Depthwise convolutions, whose kernels add in 32 bits, use all eight. With VNNI
such codes are as fast as others.

Note [Corrected biases]
Rounding the weights shifts the mean of an output channel by (rounded - exact) * mean of the input. The bias removes
this shift (Nagel et al., Data-free quantization through weight equalization and bias correction, 2019, section 4.2;
here with means from the calibration images, separately for each convolution that shares weights). Padding is neglected.

Note [Float convolutions]
When ONNX Runtime loads a graph, it quantizes the weights of every convolution whose input comes from a DequantizeLinear
with a single scale, with one scale for all channels. A convolution that must stay in float32 therefore reads from a
DequantizeLinear of its own, which repeats the same scale for each channel.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk._util.lazy import require
from retinasdk.onnx_graph.network import Network, Range

if TYPE_CHECKING:
    import numpy.typing as npt

_MAX_ACTIVATION = 255
_MAX_WEIGHT = 127
_MAX_PAIR = 127  # before both are rounded: Note [Pairs of products]
_MAX_BIAS = 1 << 30  # leaves room for the sum
_KEPT_FROM_RUNTIME = ("Conv", "ConvTranspose")  # Note [Float convolutions]


def quantized(
    network: Network,
    layers: Collection[str],
    ranges: Mapping[str, Range],
    means: Mapping[str, npt.NDArray[np.float64]] | None = None,
) -> Any:
    """Returns the model with some layers in 8 bits, as an `onnx.ModelProto`.

    Args:
        network: The float32 network.
        layers: Names of the layers to quantize.
        ranges: Ranges of at least `network.tensors(layers)`.
        means: (channels,) mean of each tensor that these layers read. If given, biases are corrected: Note [Corrected
            biases].
    """
    return _Writer(network, layers, ranges, means).model


@dataclass(frozen=True)
class Codes:
    """How a tensor is coded: number = scale * (code - zero), with codes from 0 to 255.

    Attributes:
        scale: Step between two codes.
        zero: Code of the number 0.
    """

    scale: np.float32
    zero: int

    @classmethod
    def of(cls, found: Range) -> Codes:
        """Returns the codes for a range, widened to contain 0, which padding needs exactly."""
        low, high = min(found.low, 0.0), max(found.high, 0.0)
        scale = np.float32((high - low) / _MAX_ACTIVATION)
        if scale < np.finfo(np.float32).tiny:  # a tensor of zeros
            scale = np.float32(1)
        return cls(scale, int(np.rint(-low / scale)))


def weight_scales(weight: npt.NDArray[np.float32], is_depthwise: bool) -> npt.NDArray[np.float64]:
    """Returns (channels,) float64: the smallest scale per output channel whose codes do not saturate."""
    in_order = np.moveaxis(weight, 1, -1).reshape(len(weight), -1).astype(np.float64)
    scales: npt.NDArray[np.float64] = np.abs(in_order).max(axis=1) / _MAX_WEIGHT
    if not is_depthwise and in_order.shape[1] > 1:
        for sign in (1, -1):  # Note [Pairs of products]
            part = np.maximum(sign * in_order, 0)
            scales = np.maximum(scales, (part[:, :-1] + part[:, 1:]).max(axis=1) / _MAX_PAIR)
    return scales


def mean_shift(error: npt.NDArray[np.float64], means: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns (outputs,) float64: by how much the mean of each output is too low after rounding the weights.

    Args:
        error: (outputs, inputs per group, ...), the exact weights minus the rounded ones.
        means: (inputs,), mean of each input channel.
    """
    by_group = means.reshape(-1, error.shape[1])
    missing = error.reshape(*error.shape[:2], -1).sum(axis=2).reshape(len(by_group), -1, error.shape[1])
    shift: npt.NDArray[np.float64] = np.einsum("goc,gc->go", missing, by_group).ravel()
    return shift


@dataclass(frozen=True)
class _Weights:
    """Quantized weights: their name after the DequantizeLinear, their scales, and exact minus rounded weights."""

    name: str
    scales: npt.NDArray[np.float32]
    error: npt.NDArray[np.float64]


def _is_depthwise(node: Any, weight: npt.NDArray[np.float32]) -> bool:
    return weight.shape[1] == 1 and any(item.name == "group" and item.i == len(weight) > 1 for item in node.attribute)


class _Writer:
    """Copies the nodes in order, and adds a Q/DQ pair after every tensor that has codes."""

    def __init__(
        self,
        network: Network,
        layers: Collection[str],
        ranges: Mapping[str, Range],
        means: Mapping[str, npt.NDArray[np.float64]] | None,
    ) -> None:
        self._onnx = onnx = require("onnx", "quantizing a model")
        self._network, self._ranges, self._means = network, ranges, means
        self._written = network.written_in_codes(layers)
        self._nodes: list[Any] = []
        self._constants = dict(network.constants)
        self._codes: dict[str, Codes] = {}
        self._rounded: dict[str, _Weights] = {}
        self._decoded: dict[str, str] = {}  # name after the Q/DQ pair, by tensor
        quantized = {id(node): name for name in layers for node in network.layers[name]}
        for node in network.model.graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            if id(node) in quantized:
                self._quantize(node, copy)
            else:
                copy.input[:] = [self._decode(name) if name in self._written else name for name in node.input]
                if node.op_type in _KEPT_FROM_RUNTIME and node.input[0] in self._written:
                    copy.input[0] = self._decode_by_channel(node)
                elif node.op_type == "Shape" and node.input[0] in self._written:
                    copy.input[0] = f"{node.input[0]}/codes"  # which have the same shape
            self._write(copy)
        self.model = self._assembled()

    def _quantize(self, node: Any, copy: Any) -> None:
        scale, weights = self._codes_of(node.input[0]).scale, self._weights(node.input[1])
        copy.input[:] = [self._decode(node.input[0]), weights.name]
        bias = np.zeros(len(weights.scales))
        if len(node.input) > 2:
            bias += self._network.values(node.input[2])
        if self._means is not None:
            bias += mean_shift(weights.error, self._means[node.input[0]])
        if bias.any() or len(node.input) > 2:
            scales = (scale * weights.scales).astype(np.float32)
            steps = np.rint(bias / scales).astype(np.int32)
            copy.input.append(self._dequantized(f"{node.output[0]}/bias", steps, scales))

    def _weights(self, name: str) -> _Weights:
        if name in self._rounded:  # by another convolution that shares them
            return self._rounded[name]
        weight, nodes = self._network.values(name), self._network.layers[name]
        wanted = weight_scales(weight, _is_depthwise(nodes[0], weight))
        for node in nodes:  # with tiny weights, the scale must still be large enough for the bias
            if len(node.input) > 2:
                biases = np.abs(self._network.values(node.input[2]).astype(np.float64))
                wanted = np.maximum(wanted, biases / _MAX_BIAS / self._codes_of(node.input[0]).scale)
        scales = np.where(wanted < np.finfo(np.float32).tiny, 1, wanted).astype(np.float32)
        by_channel = scales.reshape(-1, *[1] * (weight.ndim - 1))
        codes = np.rint(weight / by_channel).astype(np.int8)
        error = weight.astype(np.float64) - codes * by_channel.astype(np.float64)
        self._rounded[name] = _Weights(self._dequantized(f"{name}/weights", codes, scales), scales, error)
        return self._rounded[name]

    def _dequantized(self, name: str, codes: npt.NDArray[Any], scales: npt.NDArray[np.float32]) -> str:
        """Adds constant codes with a scale for each entry of the first axis, and returns the decoded tensor's name."""
        inputs = [self._constant(f"{name}/codes", codes), self._constant(f"{name}/scales", scales)]
        inputs.append(self._constant(f"{name}/zeros", np.zeros(len(scales), codes.dtype)))
        self._nodes.append(self._onnx.helper.make_node("DequantizeLinear", inputs, [name], name, axis=0))
        return name

    def _constant(self, name: str, values: Any) -> str:
        if name not in self._constants:
            self._constants[name] = self._onnx.numpy_helper.from_array(np.asarray(values), name)
        return name

    def _codes_of(self, tensor: str) -> Codes:
        shared = self._written.get(tensor, tensor)
        if shared not in self._codes:
            self._codes[shared] = Codes.of(self._ranges[shared])
        return self._codes[shared]

    def _decode(self, tensor: str) -> str:
        """Returns the tensor's name after its Q/DQ pair, which is added on first use."""
        if tensor not in self._decoded:
            self._write_pair(tensor, tensor, f"{tensor}/decoded")
        return self._decoded[tensor]

    def _decode_by_channel(self, node: Any) -> str:
        """Returns what a convolution in float32 reads: Note [Float convolutions]."""
        tensor, weight = node.input[0], self._network.constants.get(node.input[1])
        target = f"{tensor}/decoded by channel"
        if weight is None:
            return self._decode(tensor)
        if f"{target}/scales" not in self._constants:
            groups = next((item.i for item in node.attribute if item.name == "group"), 1)
            channels = weight.dims[0] if node.op_type == "ConvTranspose" else weight.dims[1] * groups
            codes = self._codes_of(tensor)
            inputs = [
                f"{tensor}/codes",
                self._constant(f"{target}/scales", np.full(channels, codes.scale)),
                self._constant(f"{target}/zeros", np.full(channels, codes.zero, np.uint8)),
            ]
            self._nodes.append(self._onnx.helper.make_node("DequantizeLinear", inputs, [target], target, axis=1))
        return target

    def _write_pair(self, tensor: str, source: str, target: str) -> None:
        codes, shared = self._codes_of(tensor), self._written.get(tensor, tensor)
        parameters = [
            self._constant(f"{shared}/scale", codes.scale),
            self._constant(f"{shared}/zero", np.uint8(codes.zero)),
        ]
        make, middle = self._onnx.helper.make_node, f"{tensor}/codes"
        self._nodes.append(make("QuantizeLinear", [source, *parameters], [middle], f"{tensor}/Q"))
        self._nodes.append(make("DequantizeLinear", [middle, *parameters], [target], f"{tensor}/DQ"))
        self._decoded[tensor] = target

    def _write(self, node: Any) -> None:
        """Adds a node, and the Q/DQ pairs of the outputs that have codes."""
        self._nodes.append(node)
        for index, name in enumerate(node.output):
            if name not in self._written:
                continue
            if name in self._network.outputs:  # the name belongs to the tensor after the pair
                node.output[index] = f"{name}/exact"
                self._write_pair(name, node.output[index], name)
            else:
                self._decode(name)

    def _assembled(self) -> Any:
        model = self._onnx.ModelProto()
        model.CopyFrom(self._network.model)
        used = {name for node in self._nodes for name in node.input}
        del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
        model.graph.node.extend(self._nodes)
        model.graph.initializer.extend(item for name, item in self._constants.items() if name in used)
        return model
