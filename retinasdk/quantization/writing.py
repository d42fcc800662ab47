"""A network in the Q/DQ form that ONNX Runtime's CPU computes in 8 bits from end to end.

Activations are uint8 with a zero point, weights int8 with a scale for each output channel, biases int32 in the scale of
the sums. Everything between two quantized convolutions that can stay in 8 bits does: activation functions vanish in the
rounding to uint8, additions are quantized too, pooling and nearest resizing keep the codes as they are.

Note [Pairs of products]: CPUs without VNNI multiply by vpmaddubsw, which adds two products in 16 bits and cuts what
passes 32767. Weights of full eight bits would be cut there: 2 * 255 * 127. So two weights that are neighbours in the
order of the sum (row, column, channel), and of one sign, have codes that sum up to 128 at most; 255 * 128 passes. That
leaves each channel between seven and eight bits. Depthwise convolutions, whose kernels add in 32 bits, have all eight.
Where there is VNNI, such codes are as fast as others.

Note [Corrected biases]: rounded weights shift the mean of what a channel writes by (rounded - exact) * mean of what it
reads, which all that follows reads as well. The bias takes that shift out (Nagel et al., Data-free quantization through
weight equalization and bias correction, 2019, section 4.2; with means of the calibration's images here, each reader of
shared weights with its own). Padding is left out of account.

Note [Float convolutions]: ONNX Runtime quantizes the weights of any convolution whose input comes from a
DequantizeLinear with one scale, when it loads the graph, with one scale for all channels. A convolution that is to stay
in float32 therefore reads through a DequantizeLinear of its own, which has the same scale once for each channel.
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
    """The model with these layers in 8 bits. ranges: of `network.tensors(layers)` at least.

    means: (channels,) of what these layers read; with them their biases are corrected: Note [Corrected biases].
    """
    return _Writer(network, layers, ranges, means).model


@dataclass(frozen=True)
class Codes:
    """number = scale * (code - zero), code from 0 to 255."""

    scale: np.float32
    zero: int

    @classmethod
    def of(cls, found: Range) -> Codes:
        """Codes for a range, widened to have 0, which padding needs exactly."""
        low, high = min(found.low, 0.0), max(found.high, 0.0)
        scale = np.float32((high - low) / _MAX_ACTIVATION)
        if scale < np.finfo(np.float32).tiny:  # a tensor of zeros
            scale = np.float32(1)
        return cls(scale, int(np.rint(-low / scale)))


def weight_scales(weight: npt.NDArray[np.float32], is_depthwise: bool) -> npt.NDArray[np.float64]:
    """(channels,) the smallest scales with which each output channel's weights have codes that may be multiplied."""
    in_order = np.moveaxis(weight, 1, -1).reshape(len(weight), -1).astype(np.float64)
    scales: npt.NDArray[np.float64] = np.abs(in_order).max(axis=1) / _MAX_WEIGHT
    if not is_depthwise and in_order.shape[1] > 1:
        for sign in (1, -1):  # Note [Pairs of products]
            part = np.maximum(sign * in_order, 0)
            scales = np.maximum(scales, (part[:, :-1] + part[:, 1:]).max(axis=1) / _MAX_PAIR)
    return scales


def mean_shift(error: npt.NDArray[np.float64], means: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(outputs,) what a convolution writes too little on average. error: (outputs, inputs of a group, ...), the exact
    weights less the rounded ones. means: (inputs,)."""
    by_group = means.reshape(-1, error.shape[1])
    missing = error.reshape(*error.shape[:2], -1).sum(axis=2).reshape(len(by_group), -1, error.shape[1])
    shift: npt.NDArray[np.float64] = np.einsum("goc,gc->go", missing, by_group).ravel()
    return shift


@dataclass(frozen=True)
class _Weights:
    """name: of a layer's weights behind their DequantizeLinear. error: the exact ones less those."""

    name: str
    scales: npt.NDArray[np.float32]
    error: npt.NDArray[np.float64]


def _is_depthwise(node: Any, weight: npt.NDArray[np.float32]) -> bool:
    return weight.shape[1] == 1 and any(item.name == "group" and item.i == len(weight) > 1 for item in node.attribute)


class _Writer:
    """Writes the nodes again, in order, with Q/DQ pairs behind every tensor that has codes."""

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
        self._decoded: dict[str, str] = {}  # of a tensor with codes: its name behind the pair
        quantized = {id(node): name for name in layers for node in network.layers[name]}
        for node in network.model.graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            if id(node) in quantized:
                self._quantise(node, copy)
            else:
                copy.input[:] = [self._decode(name) if name in self._written else name for name in node.input]
                if node.op_type in _KEPT_FROM_RUNTIME and node.input[0] in self._written:
                    copy.input[0] = self._decode_by_channel(node)
                elif node.op_type == "Shape" and node.input[0] in self._written:
                    copy.input[0] = f"{node.input[0]}/codes"  # which have it too
            self._write(copy)
        self.model = self._assembled()

    def _quantise(self, node: Any, copy: Any) -> None:
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
            copy.input.append(self._dequantised(f"{node.output[0]}/bias", steps, scales))

    def _weights(self, name: str) -> _Weights:
        if name in self._rounded:  # for another of its convolutions
            return self._rounded[name]
        weight, nodes = self._network.values(name), self._network.layers[name]
        wanted = weight_scales(weight, _is_depthwise(nodes[0], weight))
        for node in nodes:  # wide enough for the biases to fit into their codes, where weights are next to nothing
            if len(node.input) > 2:
                biases = np.abs(self._network.values(node.input[2]).astype(np.float64))
                wanted = np.maximum(wanted, biases / _MAX_BIAS / self._codes_of(node.input[0]).scale)
        scales = np.where(wanted < np.finfo(np.float32).tiny, 1, wanted).astype(np.float32)
        by_channel = scales.reshape(-1, *[1] * (weight.ndim - 1))
        codes = np.rint(weight / by_channel).astype(np.int8)
        error = weight.astype(np.float64) - codes * by_channel.astype(np.float64)
        self._rounded[name] = _Weights(self._dequantised(f"{name}/weights", codes, scales), scales, error)
        return self._rounded[name]

    def _dequantised(self, name: str, codes: npt.NDArray[Any], scales: npt.NDArray[np.float32]) -> str:
        """Writes constant codes with a scale for each of the first axis, and names what they stand for."""
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
        """The tensor behind its Q/DQ pair, which is written the first time that it is asked for."""
        if tensor not in self._decoded:
            self._write_pair(tensor, tensor, f"{tensor}/decoded")
        return self._decoded[tensor]

    def _decode_by_channel(self, node: Any) -> str:
        """What a convolution in float32 reads: Note [Float convolutions]."""
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
        """Adds a node; where what it writes has codes, also their pair."""
        self._nodes.append(node)
        for index, name in enumerate(node.output):
            if name not in self._written:
                continue
            if name in self._network.outputs:  # which keeps its name, behind the pair
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
