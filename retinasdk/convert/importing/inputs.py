"""Finds where the network itself begins, and what the graph does to an image before that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk.convert.importing.graph import GraphView
from retinasdk.convert.importing.heads import HeadPair
from retinasdk.errors import ModelError

if TYPE_CHECKING:
    import numpy.typing as npt

# Operators of preprocessing. Any other operator before the first convolution may be a part of the network.
_PREPROCESSING = frozenset(
    {
        *("Sub", "Div", "Mul", "Add", "Cast", "Identity", "Transpose", "Unsqueeze", "Squeeze"),
        *("Concat", "Gather", "Slice", "Split", "Resize", "Pad", "Reshape", "Expand", "ScatterND", "Where", "Clip"),
        *("SequenceAt", "SplitToSequence", "Floor", "Round", "CastLike"),
    }
)
# Operators before a first convolution that belong to the network, because their numbers are learned or calibrated.
_NETWORK_SCALING = frozenset({"QuantizeLinear", "DequantizeLinear", "BatchNormalization"})
_KEEPS_VALUES = frozenset({"Cast", "Identity"})
_BYTE = 255.0
_UINT8 = 2  # onnx.TensorProto.UINT8


@dataclass(frozen=True)
class GraphNormalise:
    """Normalization that the graph itself does: (pixel - mean) / std, in the channel order of the network.

    Attributes:
        mean: Mean of each channel, on a scale of 0 to 255.
        std: Standard deviation of each channel, on a scale of 0 to 255.
        unit: Whether the graph takes pixels of 0 to 1 instead of 0 to 255.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    unit: bool


@dataclass(frozen=True)
class NetworkInput:
    """Where the network begins, and the preprocessing before it.

    Attributes:
        tensor: Name of the preprocessed input (N, 3, H, W) of the network, in the graph.
        image: Name of the graph input that it is computed from.
        steps: Operators on the way from `image` to `tensor`, in order.
        normalise: Normalization in the graph. None if there is none, or if it cannot be read.
        resize_limits: (shorter, longer) side in pixels of a resize in the graph by torchvision's rule, else None.
        swaps_channels: Whether the graph turns RGB into BGR, or BGR into RGB.
        is_normalise_known: False if the graph changes pixel values in a way that cannot be read.
    """

    tensor: str
    image: str
    steps: tuple[str, ...]
    normalise: GraphNormalise | None
    resize_limits: tuple[int, int] | None
    swaps_channels: bool
    is_normalise_known: bool


def find_input(view: GraphView, heads: HeadPair) -> NetworkInput:
    """Finds the input of the network and reads the preprocessing before it.

    Raises:
        ModelError: The network does not have exactly one image input of three channels, or something before the first
            convolution is no preprocessing.
    """
    needed = view.ancestors(heads.tensor_names)
    first = [i for i in sorted(needed) if view.nodes[i].op_type == "Conv" and not _has_convolution_before(view, i)]
    tensors = {_skip_network_steps(view, index) for index in first}
    if len(tensors) != 1:
        raise ModelError(
            f"the network has {len(tensors)} image inputs (first convolutions: "
            f"{', '.join(view.node_label(index) for index in first[:4])}); exactly one is supported. Export it for one "
            "image input"
        )
    tensor = tensors.pop()
    weights = view.shape(view.nodes[first[0]].input[1])
    channels = None if weights is None or len(weights) != 4 else weights[1]
    if channels != 3 or view.attribute(first[0], "group", 1) != 1:
        raise ModelError(
            f"the first convolution ({view.node_label(first[0])}) has {channels or 'an unknown number of'} input "
            f"channel{'' if channels == 1 else 's'}; retinasdk supports images of 3 channels, RGB or BGR"
        )
    return _walk_to_image(view, tensor)


def _has_convolution_before(view: GraphView, index: int) -> bool:
    name = view.nodes[index].input[0]
    return any(view.nodes[other].op_type == "Conv" for other in view.ancestors([name]))


def _skip_network_steps(view: GraphView, convolution: int) -> str:
    """Returns the tensor before a first convolution, and before the padding and scaling that belong to it."""
    tensor = current = view.nodes[convolution].input[0]
    while current in view.producer:
        index = view.producer[current]
        node = view.nodes[index]
        current = node.input[0] if node.input else ""
        if node.op_type in _NETWORK_SCALING or _is_own_padding(view, index, convolution):
            tensor = current
        elif node.op_type not in _KEEPS_VALUES:  # Keras writes casts from float32 to float32 between the two.
            break
    return str(tensor)


def _is_own_padding(view: GraphView, index: int, convolution: int) -> bool:
    """Whether a Pad is the zero padding of a first convolution, which Keras writes as a separate node.

    Keras on PyTorch computes the amounts in the graph, from the size of the image. Then it is the padding of the
    convolution if that has none of its own. Keeping a Pad is safe in any case: the network still does all it did.
    """
    node = view.nodes[index]
    if node.op_type != "Pad" or len(node.input) < 2:
        return False
    pads = view.constant(node.input[1])
    kernel = view.attribute(convolution, "kernel_shape") or [1, 1]
    fill = view.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
    if pads is None and node.input[1] in view.producer:
        return max(kernel) > 1 and not any(view.attribute(convolution, "pads") or [0])
    if pads is None or pads.size != 8 or fill is None or fill.any() or len(node.input) > 3:
        return False
    sides = pads.reshape(2, 4)
    return not sides[:, :2].any() and bool((sides[:, 2:] >= 0).all() and (sides[:, 2:] < np.array(kernel)).all())


def _walk_to_image(view: GraphView, tensor: str) -> NetworkInput:
    """Follows the graph from the network's input back to the image and reads what is done to the pixels."""
    arithmetic = _PixelArithmetic()
    steps: list[str] = []
    current: str | None = tensor
    while current in view.producer:
        index = view.producer[current]
        node = view.nodes[index]
        if node.op_type not in _PREPROCESSING:
            raise ModelError(
                f"before the first convolution there is the operator {node.op_type} ({view.node_label(index)}), which "
                "is no known preprocessing, so it cannot be removed. Export the network without its preprocessing"
            )
        if node.op_type == "Pad":
            _check_padding_is_preprocessing(view, index)
        above = view.pixel_input(index)
        if above is not None:
            arithmetic.prepend(view, index, above)
        steps.append(node.op_type)
        current = above
    if current is None or current not in {item.name for item in view.inputs}:
        raise ModelError("the first convolution does not depend on an input of the graph. Export the network again")
    shape = view.shape(current)
    if shape is not None and len(shape) not in (3, 4):
        raise ModelError(
            f"the input {current!r} has {len(shape)} dimensions; an image has 3 and a batch of images has 4"
        )
    steps.reverse()
    return NetworkInput(
        tensor=tensor,
        image=current,
        steps=tuple(steps),
        normalise=arithmetic.normalise(is_bytes=view.element_type(current) == _UINT8),
        resize_limits=_resize_limits(view, tensor),
        swaps_channels=arithmetic.swapped,
        is_normalise_known=arithmetic.is_identity or arithmetic.known,
    )


def _check_padding_is_preprocessing(view: GraphView, index: int) -> None:
    """Raises `ModelError` for padding of all sides: images are padded right and bottom, so a convolution needs it."""
    pads = view.constant(view.nodes[index].input[1]) if len(view.nodes[index].input) > 1 else None
    if pads is not None and pads[: pads.size // 2].any():
        raise ModelError(
            f"the padding of the first convolution ({view.node_label(index)}) is not directly before the convolution, "
            "so it would be removed together with the preprocessing. Export the network with channels first, or let an "
            "optimizer move the transposes"
        )


class _PixelArithmetic:
    """The arithmetic on pixel values read so far: y = scale * x + shift, in the channel order of the network."""

    def __init__(self) -> None:
        self.scale = np.ones(3)
        self.shift = np.zeros(3)
        self.known = True
        self.swapped = False
        self.is_identity = True

    def prepend(self, view: GraphView, index: int, above: str) -> None:
        """Adds a step that comes before those read so far; `above` is the input of it that holds pixels."""
        node = view.nodes[index]
        if node.op_type in ("Add", "Sub", "Mul", "Div"):
            self._prepend_operator(view, node, above)
        elif (
            node.op_type == "Concat"
            and len({*node.input} & view.pixel_tensors) > 1
            and view.attribute(index, "axis") != 0
        ):
            self.known, self.is_identity = False, False  # Channels are computed one by one, which is not read.
        elif _swaps_channels(view, index):
            self.swapped = not self.swapped

    def _prepend_operator(self, view: GraphView, node: Any, above: str) -> None:
        others = [name for name in node.input if name != above]
        values = view.constant(others[0]) if len(others) == 1 else None
        is_reversed = node.op_type in ("Sub", "Div") and node.input[0] != above
        if values is None or values.size not in (1, 3) or is_reversed:
            self.known, self.is_identity = False, False
            return
        value = np.broadcast_to(values.astype(np.float64).reshape(-1), (3,))
        zero, one = np.zeros(3), np.ones(3)
        scale, shift = {
            "Add": (one, value),
            "Sub": (one, -value),
            "Mul": (value, zero),
            "Div": (1 / np.where(value == 0, np.nan, value), zero),
        }[node.op_type]
        self._compose(scale, shift)

    def _compose(self, scale: npt.NDArray[np.float64], shift: npt.NDArray[np.float64]) -> None:
        if self.swapped:
            scale, shift = scale[::-1], shift[::-1]
        self.shift = self.shift + self.scale * shift
        self.scale = self.scale * scale
        self.is_identity = False

    def normalise(self, *, is_bytes: bool) -> GraphNormalise | None:
        """Returns mean and standard deviation; None if the graph does not change values, or in an unknown way."""
        if self.is_identity or not self.known or not (np.isfinite(self.scale).all() and (self.scale > 0).all()):
            return None
        mean, std = -self.shift / self.scale, 1 / self.scale
        # Means and standard deviations of pixels of 0 to 1 are below 1, those of pixels of 0 to 255 are not.
        unit = not is_bytes and bool((np.abs(mean) <= 1).all() and (std <= 1).all() and not (std == 1).all())
        if unit:
            mean, std = mean * _BYTE, std * _BYTE
        return GraphNormalise(_three(mean), _three(std), unit)


def _three(values: Sequence[Any] | npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Rounds away the digits that float32 constants add."""
    first, second, third = (float(f"{value:.7g}") for value in values)
    return first, second, third


def _swaps_channels(view: GraphView, index: int) -> bool:
    """Whether a Gather or a Slice reverses the order of three channels."""
    node = view.nodes[index]
    if node.op_type == "Gather":
        values = view.constant(node.input[1])
        return values is not None and values.reshape(-1).tolist() == [2, 1, 0]
    if node.op_type == "Slice" and len(node.input) > 4:
        axes, steps = view.constant(node.input[3]), view.constant(node.input[4])
        shape = view.shape(node.input[0])
        if axes is None or steps is None or shape is None or steps.reshape(-1).tolist() != [-1]:
            return False
        return shape[int(axes.reshape(-1)[0])] == 3
    return False


def _resize_limits(view: GraphView, tensor: str) -> tuple[int, int] | None:
    """Reads (shorter, longer) side of a resize by torchvision's rule: the factors of ReduceMin and ReduceMax."""
    found: dict[str, int] = {}
    before = view.ancestors([tensor])
    for index in sorted(before):
        kind = view.nodes[index].op_type
        if kind not in ("ReduceMin", "ReduceMax") or kind in found:
            continue
        values = _factor_after(view, view.nodes[index].output[0])
        if values is not None:
            found[kind] = values
    return (found["ReduceMin"], found["ReduceMax"]) if len(found) == 2 else None


def _factor_after(view: GraphView, tensor: str) -> int | None:
    """Returns the constant c in c / x or 1 / x * c, for a scalar tensor x."""
    while True:
        consumers = view.consumers(tensor)
        if len(consumers) != 1:
            return None
        node = view.nodes[consumers[0]]
        if node.op_type in ("Mul", "Div"):
            others = [view.constant(name) for name in node.input if name != tensor]
            value = others[0] if others else None
            return None if value is None or value.size != 1 else round(float(value.reshape(-1)[0]))
        if node.op_type not in ("Cast", "Reciprocal", "Identity"):
            return None
        tensor = node.output[0]
