"""Finds what one 8-bit operator of retinasdk can do in a graph of QuantizeLinear and DequantizeLinear nodes.

The operators are implemented in `csrc/onnxruntime/int8_ops.cpp`. A code stands for the number scale * (code - zero).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from retinasdk.backends.blocked_steps import SAME, UPSAMPLED, clamp_limits, pooling, upsampling
from retinasdk.backends.graph_facts import GraphFacts, Shape, Window, window
from retinasdk.backends.graph_nodes import Floats, Node

CONV, DEPTHWISE, ADD, FLOAT_CONV = "QuantizedConv", "QuantizedDepthwise", "QuantizedAdd", "ConvOfCodes"
MAX_POOL = "QuantizedMaxPool"

_MAX_CHANNELS, _MAX_KERNEL, _MAX_WEIGHTS = 65536, 31, 32768  # Of the operators; weights: of one output.
_MAX_SUM, _MAX_PRODUCT = (1 << 31) - 1, 255 * 128
_MAX_CODE = 255


@dataclass(frozen=True)
class Codes:
    """A tensor of uint8 codes.

    Attributes:
        name: Name of the tensor of codes.
        scale: Step between two codes, a float32.
        zero: Code of the number 0.
    """

    name: str
    scale: float
    zero: int

    def code(self, number: float) -> int:
        """Returns the code of a number, as QuantizeLinear rounds it."""
        step = np.rint(np.float32(number) / np.float32(self.scale))
        return int(np.clip(step + self.zero, 0, _MAX_CODE))


@dataclass(frozen=True)
class QuantizedStep:
    """One operator in the place of some nodes.

    Attributes:
        kind: Name of the operator.
        nodes: Places of the nodes in the graph, the last one at the end.
        inputs: The codes that it reads.
        output: Name of the tensor that it makes: of codes, or of numbers if the operator is `ConvOfCodes`.
        attributes: Values of the attributes.
        weights: The lent tensors by the name of their attribute.
    """

    kind: str
    nodes: tuple[int, ...]
    inputs: tuple[Codes, ...]
    output: str
    attributes: dict[str, int | float]
    weights: dict[str, Floats] = field(default_factory=dict)

    @property
    def place(self) -> int:
        """Where the operator goes: in the place of its last node, so that all its inputs exist."""
        return self.nodes[-1]


@dataclass(frozen=True)
class _Weights:
    codes: npt.NDArray[np.int8]
    scales: Floats  # (out,)


class QuantizedFinder:
    """Finds the steps of a graph."""

    def __init__(self, facts: GraphFacts) -> None:
        """Takes what is known of the graph."""
        self._facts = facts
        self._lent: dict[tuple[str, str], Floats] = {}  # By the name of the tensor: equal ones are lent once.

    def step(self, index: int) -> QuantizedStep | None:
        """Returns the step that begins at a node, or None."""
        node = self._facts.nodes[index]
        if node.is_standard("Conv") and len(node.inputs) > 1:
            return self._convolution(index, node)
        if node.is_standard("MaxPool"):
            return self._max_pool(index, node)
        return self._addition(index, node) if node.is_standard("Add") and len(node.inputs) == 2 else None

    def codes(self, name: str) -> Codes | None:
        """Returns the codes that a tensor is decoded from, if they have one scale and are not constant."""
        node = self._facts.maker(name)
        if node is None or not node.is_standard("DequantizeLinear"):
            return None
        found = self._coded(node, node.inputs[0])
        return None if found is None or self._facts.constant(found.name) is not None else found

    def quantized(self, name: str) -> tuple[str, Codes] | None:
        """Returns the tensor that codes are made from by QuantizeLinear, and how."""
        node = self._facts.maker(name)
        if node is None or not node.is_standard("QuantizeLinear"):
            return None
        found = self._coded(node, name)
        return None if found is None else (node.inputs[0], found)

    def _coded(self, node: Node, codes: str) -> Codes | None:
        """Returns the scale and zero of a QuantizeLinear or DequantizeLinear of activations."""
        scales, zeros = self._facts.floats(node.input(1)), self._facts.constant(node.input(2))
        if scales is None or zeros is None or zeros.type != np.uint8 or scales.size < 1 or zeros.shape != scales.shape:
            return None
        values, scale = zeros.values().reshape(-1), scales.reshape(-1)
        one = bool((values == values[0]).all() and (scale == scale[0]).all())
        if not one or not np.isfinite(scale[0]) or scale[0] <= 0 or node.has("block_size"):
            return None
        return Codes(codes, float(scale[0]), int(values[0]))

    def _rounding(self, name: str) -> tuple[tuple[int, ...], Codes, tuple[int, int]] | None:
        """Follows an activation function and QuantizeLinear. Returns their places, the codes, and their limits."""
        facts, limits = self._facts, None
        places: tuple[int, ...] = ()
        reader = facts.lone_reader(name, "Relu", "Clip", "QuantizeLinear")
        if reader is not None and not facts.nodes[reader].is_standard("QuantizeLinear"):
            limits = clamp_limits(facts, facts.nodes[reader])
            places = (reader,)
            reader = None if limits is None else facts.lone_reader(facts.nodes[reader].outputs[0], "QuantizeLinear")
        if reader is None:
            return None
        node = facts.nodes[reader]
        codes = self._coded(node, node.outputs[0])
        if codes is None or node.inputs[0] in facts.outputs or codes.name in facts.outputs:
            return None
        low, high = (0, _MAX_CODE) if limits is None else (codes.code(limits[0]), codes.code(limits[1]))
        return (*places, reader), codes, (low, high)

    # -- convolutions --------------------------------------------------------------------------------------------------

    def _convolution(self, index: int, node: Node) -> QuantizedStep | None:
        read = self.codes(node.inputs[0])
        if read is None:
            return None
        floats = self._facts.floats(node.inputs[1])
        if floats is not None:
            return self._float_convolution(index, node, read, floats)
        weights = self._weights(node.inputs[1])
        if weights is None:
            return None
        walk = _window(node, weights.codes.shape)
        rounding = self._rounding(node.outputs[0])
        most = _MAX_SUM - weights.codes[0].size * _MAX_PRODUCT
        bias = self._bias(node.input(2), np.float32(read.scale) * weights.scales, most)
        if walk is None or rounding is None or bias is None:
            return None
        kind = _kind(node, weights.codes.shape, walk)
        places, codes, (low, high) = rounding
        multipliers = np.float32(read.scale) * weights.scales / np.float32(codes.scale)
        if kind is None or not np.isfinite(multipliers).all():
            return None
        lent = {
            "weights": self._lent.setdefault(("weights", node.inputs[1]), weights.codes.astype(np.float32)),
            "multipliers": multipliers.astype(np.float32),
        }
        if bias.any():
            lent["bias"] = bias.view(np.float32)
        attributes: dict[str, int | float] = {
            "in_zero": read.zero,
            "zero": codes.zero,
            "low": low,
            "high": high,
            "bias": 0,
            **_walk(walk),
        }
        return QuantizedStep(kind, (index, *places), (read,), codes.name, attributes, lent)

    def _float_convolution(self, index: int, node: Node, read: Codes, weights: Floats) -> QuantizedStep | None:
        walk = _window(node, weights.shape)
        bias = self._facts.floats(node.input(2)) if node.input(2) else None
        if walk is None or _kind(node, weights.shape, walk) != CONV or not np.isfinite(weights).all():
            return None
        if node.input(2) and (bias is None or bias.shape != weights.shape[:1]):
            return None
        lent = {"weights": self._lent.setdefault(("weights", node.inputs[1]), weights)}
        if bias is not None:
            lent["bias"] = self._lent.setdefault(("bias", node.input(2)), bias)
        attributes: dict[str, int | float] = {"in_scale": read.scale, "in_zero": read.zero, "bias": 0, **_walk(walk)}
        return QuantizedStep(FLOAT_CONV, (index,), (read,), node.outputs[0], attributes, lent)

    def _weights(self, name: str) -> _Weights | None:
        """Returns constant int8 weights with a scale for each output channel, or one, and without zero points."""
        node = self._facts.maker(name)
        if node is None or not node.is_standard("DequantizeLinear") or node.has("block_size"):
            return None
        codes, scales = self._facts.constant(node.inputs[0]), self._facts.floats(node.input(1))
        if codes is None or codes.type != np.int8 or len(codes.shape) != 4 or min(codes.shape) < 1 or scales is None:
            return None
        is_per_channel = scales.shape == codes.shape[:1] and node.integer("axis", 1) in (0, -4)
        if not (is_per_channel or scales.shape == ()) or not self._is_zero(node.input(2)):
            return None
        if not (np.isfinite(scales).all() and (scales > 0).all()):
            return None
        values = codes.values().astype(np.int8)
        return _Weights(values, np.ascontiguousarray(np.broadcast_to(scales, codes.shape[:1])))

    def _is_zero(self, name: str) -> bool:
        """Returns whether a zero point is left out or 0."""
        found = self._facts.constant(name) if name else None
        return not name or (found is not None and not found.values().any())

    def _bias(self, name: str, scales: Floats, most: int) -> npt.NDArray[np.int32] | None:
        """Returns a bias in steps of the sums, which have these scales, or zeros if it is left out.

        Args:
            name: Name of the tensor.
            scales: (out,)
            most: Limit of the steps.
        """
        if not name:
            return np.zeros(scales.shape, np.int32)
        node = self._facts.maker(name)
        if node is None or not node.is_standard("DequantizeLinear") or not self._is_zero(node.input(2)):
            return None
        codes, own = self._facts.constant(node.inputs[0]), self._facts.floats(node.input(1))
        if codes is None or codes.type != np.int32 or codes.shape != scales.shape or own is None:
            return None
        values = codes.values().astype(np.int32)
        fits = own.shape in ((), scales.shape) and np.array_equal(np.broadcast_to(own, scales.shape), scales)
        return values if fits and (np.abs(values.astype(np.int64)) <= most).all() else None

    # -- poolings and additions ----------------------------------------------------------------------------------------

    def _max_pool(self, index: int, node: Node) -> QuantizedStep | None:
        read, walk, rounding = self.codes(node.inputs[0]), pooling(node), self._rounding(node.outputs[0])
        if read is None or walk is None or rounding is None:
            return None
        places, codes, limits = rounding
        if (codes.scale, codes.zero) != (read.scale, read.zero) or limits != (0, _MAX_CODE):
            return None  # The largest number would get another code than the largest code.
        attributes: dict[str, int | float] = {"kernel_y": walk.kernel[0], "kernel_x": walk.kernel[1], **_walk(walk)}
        return QuantizedStep(MAX_POOL, (index, *places), (read,), codes.name, attributes)

    def _addition(self, index: int, node: Node) -> QuantizedStep | None:
        rounding, shape = self._rounding(node.outputs[0]), self._facts.shape(node.outputs[0])
        one, other = (self._facts.shape(name) for name in node.inputs)
        if rounding is None or shape is None:
            return None
        for name, added in (node.inputs, node.inputs[::-1]):
            first, second = self.codes(name), self.codes(added)
            sizes = {"addition": SAME}
            enlarged = self._enlarged(added, shape)
            if self._facts.shape(name) != shape or first is None or second is None:
                continue
            if enlarged is not None:
                second, sizes = enlarged[0], {"addition": UPSAMPLED, "factor": enlarged[1]}
            elif one != other:
                continue
            places, codes, (low, high) = rounding
            # The order matters to the last bit: see CodeSum in int8_kernels.h.
            sizes["z_first"] = int(added == node.inputs[0])
            attributes: dict[str, int | float] = {"scale": codes.scale, "zero": codes.zero, "low": low, "high": high}
            attributes |= {"x_scale": first.scale, "x_zero": first.zero, "z_scale": second.scale}
            attributes |= {"z_zero": second.zero, **sizes}
            return QuantizedStep(ADD, (index, *places), (first, second), codes.name, attributes)
        return None

    def _enlarged(self, name: str, shape: Shape) -> tuple[Codes, int] | None:
        """Returns the codes that a tensor is made from by enlarging them, and the factor: see `upsampling`."""
        codes = self.codes(name)
        made = None if codes is None else self.quantized(codes.name)
        resize = None if made is None else self._facts.maker(made[0])
        if codes is None or made is None or resize is None or not resize.is_standard("Resize", "Upsample"):
            return None
        source = self.codes(resize.inputs[0])
        if source is None or (source.scale, source.zero) != (codes.scale, codes.zero) or made[1] != codes:
            return None
        factor = upsampling(self._facts, resize, shape)
        return None if factor is None else (source, factor)


def _window(node: Node, shape: tuple[int, ...]) -> Window | None:
    if len(shape) != 4 or min(shape) < 1 or max(shape[2:]) > _MAX_KERNEL or max(shape[:2]) > _MAX_CHANNELS:
        return None
    kernel = (shape[2], shape[3])
    walk = window(node, kernel)
    if walk is None or walk.pads is None or any(walk.pads[side] >= kernel[side % 2] for side in range(4)):
        return None
    return walk if max(walk.strides) <= _MAX_KERNEL else None


def _walk(walk: Window) -> dict[str, int | float]:
    pads = dict(zip(("top", "left", "bottom", "right"), walk.pads or (), strict=True))
    return {"stride_y": walk.strides[0], "stride_x": walk.strides[1], **pads}


def _kind(node: Node, shape: tuple[int, ...], walk: Window) -> str | None:
    """Returns the operator for a convolution, or None if there is none."""
    group = node.integer("group", 1)
    if group == 1:
        return CONV if np.prod(shape[1:]) <= _MAX_WEIGHTS else None
    depthwise = (group, 1) == shape[:2] and walk.kernel in ((3, 3), (5, 5)) and walk.strides in ((1, 1), (2, 2))
    return DEPTHWISE if depthwise else None
