"""Where the network itself begins, and what the graph does to an image before that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk.convert.importing.graph import GraphView
from retinasdk.convert.importing.heads import Heads
from retinasdk.errors import ModelError

if TYPE_CHECKING:
    import numpy.typing as npt

# What preprocessing is made of; anything else before the first convolution is a part of the network nobody knows.
_PREPROCESSING = frozenset(
    {
        *("Sub", "Div", "Mul", "Add", "Cast", "Identity", "Transpose", "Unsqueeze", "Squeeze"),
        *("Concat", "Gather", "Slice", "Split", "Resize", "Pad", "Reshape", "Expand", "ScatterND", "Where", "Clip"),
        *("SequenceAt", "SplitToSequence", "Floor", "Round", "CastLike"),
    }
)
# What stands before a first convolution and is learnt or measured with it.
_NETWORK_SCALING = frozenset({"QuantizeLinear", "DequantizeLinear", "BatchNormalization"})
_BYTE = 255.0
_UINT8 = 2  # onnx.TensorProto.UINT8


@dataclass(frozen=True)
class GraphNormalise:
    """(pixel - mean) / std on values 0 to 255, in the order of the network's channels. unit: the graph takes 0 to 1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    unit: bool


@dataclass(frozen=True)
class NetworkInput:
    """tensor: (N, 3, H, W), the network's ready input, name in the graph. image: the graph's own input it comes from.

    steps: operators between the two on the image's own way, from the image on. limits: sides of an in-graph resize
    (shorter, longer), where it is torchvision's. swaps_channels: RGB becomes BGR, or the other way round.
    is_read: all that is done to the values is in `normalise`.
    """

    tensor: str
    image: str
    steps: tuple[str, ...]
    normalise: GraphNormalise | None
    limits: tuple[int, int] | None
    swaps_channels: bool
    is_read: bool


def find_input(view: GraphView, heads: Heads) -> NetworkInput:
    """Raises `ModelError` if the network has not one input of three channels."""
    needed = view.before(heads.tensors)
    first = [i for i in sorted(needed) if view.nodes[i].op_type == "Conv" and not _has_convolution_before(view, i)]
    tensors = {_skip_network_steps(view, index) for index in first}
    if len(tensors) != 1:
        raise ModelError(
            f"wanted a network with one image input, got {len(tensors)} beginnings "
            f"({', '.join(view.name_of(index) for index in first[:4])}); export it for one input"
        )
    tensor = tensors.pop()
    weights = view.shape(view.nodes[first[0]].input[1])
    channels = None if weights is None or len(weights) != 4 else weights[1]
    if channels != 3 or view.attribute(first[0], "group", 1) != 1:
        raise ModelError(
            f"wanted a network on images of 3 channels, got a first convolution ({view.name_of(first[0])}) on "
            f"{channels or 'an unknown number of'} channels; retinasdk feeds RGB or BGR"
        )
    return _walk_to_image(view, tensor)


def _has_convolution_before(view: GraphView, index: int) -> bool:
    name = view.nodes[index].input[0]
    return any(view.nodes[other].op_type == "Conv" for other in view.before([name]))


def _skip_network_steps(view: GraphView, convolution: int) -> str:
    """The tensor before a first convolution, above the padding and the scaling that belong to it."""
    tensor = view.nodes[convolution].input[0]
    while tensor in view.producer:
        index = view.producer[tensor]
        node = view.nodes[index]
        if node.op_type not in _NETWORK_SCALING and not _is_own_padding(view, index, convolution):
            break
        tensor = node.input[0]
    return str(tensor)


def _is_own_padding(view: GraphView, index: int, convolution: int) -> bool:
    """Zeros around a first convolution, fewer than its kernel is large: Keras writes them as a node of their own."""
    node = view.nodes[index]
    pads = view.constant(node.input[1]) if node.op_type == "Pad" and len(node.input) > 1 else None
    kernel = view.attribute(convolution, "kernel_shape") or [1, 1]
    filling = view.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
    if pads is None or pads.size != 8 or filling is None or filling.any() or len(node.input) > 3:
        return False
    sides = pads.reshape(2, 4)
    return not sides[:, :2].any() and bool((sides[:, 2:] >= 0).all() and (sides[:, 2:] < np.array(kernel)).all())


def _walk_to_image(view: GraphView, tensor: str) -> NetworkInput:
    """Up from the network's input, gathering what is done to every pixel: y = scale * x + shift, by channel."""
    affine = _Affine()
    steps: list[str] = []
    current: str | None = tensor
    while current in view.producer:
        index = view.producer[current]
        node = view.nodes[index]
        if node.op_type not in _PREPROCESSING:
            raise ModelError(
                f"wanted an image, or its preprocessing, before the first convolution; got the operator {node.op_type} "
                f"({view.name_of(index)}), which retinasdk would have to leave out; export the network alone"
            )
        if node.op_type == "Pad":
            _refuse_padding_of_the_network(view, index)
        above = view.pixel_input(index)
        if above is not None:
            affine.undo(view, index, above)
        steps.append(node.op_type)
        current = above
    if current is None or current not in {item.name for item in view.inputs}:
        raise ModelError("wanted a network that computes from an image, got one whose first convolution has none")
    shape = view.shape(current)
    if shape is not None and len(shape) not in (3, 4):
        raise ModelError(f"wanted an image or a batch of them as input, got {current!r} of {len(shape)} dimensions")
    steps.reverse()
    return NetworkInput(
        tensor=tensor,
        image=current,
        steps=tuple(steps),
        normalise=affine.normalise(is_bytes=view.element_type(current) == _UINT8),
        limits=_resize_limits(view, tensor),
        swaps_channels=affine.swapped,
        is_read=affine.is_plain or affine.known,
    )


def _refuse_padding_of_the_network(view: GraphView, index: int) -> None:
    """Images are padded right and below: zeros on all sides are a convolution's, where they would be lost."""
    pads = view.constant(view.nodes[index].input[1]) if len(view.nodes[index].input) > 1 else None
    if pads is not None and pads[: pads.size // 2].any():
        raise ModelError(
            f"wanted the padding of the first convolution right before it, got it ({view.name_of(index)}) before other "
            "steps, where it would be taken for preprocessing and cut; export the network with channels first, or let "
            "an optimiser move the transposes"
        )


class _Affine:
    """y = scale * x + shift of the steps walked so far, in the order of the network's channels."""

    def __init__(self) -> None:
        self.scale = np.ones(3)
        self.shift = np.zeros(3)
        self.known = True
        self.swapped = False
        self.is_plain = True

    def undo(self, view: GraphView, index: int, above: str) -> None:
        """Takes in a step that lies above those so far; `above` is its input that holds pixels."""
        node = view.nodes[index]
        if node.op_type in ("Add", "Sub", "Mul", "Div"):
            self._undo_arithmetic(view, node, above)
        elif node.op_type == "Concat" and len({*node.input} & view.pixels) > 1 and view.attribute(index, "axis") != 0:
            self.known, self.is_plain = False, False  # channels put together one by one
        elif _swaps_channels(view, index):
            self.swapped = not self.swapped

    def _undo_arithmetic(self, view: GraphView, node: Any, above: str) -> None:
        others = [name for name in node.input if name != above]
        values = view.constant(others[0]) if len(others) == 1 else None
        backwards = node.op_type in ("Sub", "Div") and node.input[0] != above
        if values is None or values.size not in (1, 3) or backwards:
            self.known, self.is_plain = False, False
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
        self.is_plain = False

    def normalise(self, *, is_bytes: bool) -> GraphNormalise | None:
        """As mean and standard deviation; None: the graph leaves pixels as they are, or does what is not known."""
        if self.is_plain or not self.known or not (np.isfinite(self.scale).all() and (self.scale > 0).all()):
            return None
        mean, std = -self.shift / self.scale, 1 / self.scale
        # Values 0 to 1 have means and deviations below 1, values 0 to 255 have not.
        unit = not is_bytes and bool((np.abs(mean) <= 1).all() and (std <= 1).all() and not (std == 1).all())
        if unit:
            mean, std = mean * _BYTE, std * _BYTE
        return GraphNormalise(_three(mean), _three(std), unit)


def _three(values: Sequence[Any] | npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Without the digits that float32 constants leave behind."""
    first, second, third = (float(f"{value:.7g}") for value in values)
    return first, second, third


def _swaps_channels(view: GraphView, index: int) -> bool:
    """Whether a Gather or a Slice turns the order of three channels round."""
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
    """(shorter, longer) side of a resize by torchvision's rule: factors of ReduceMin and ReduceMax of the sides."""
    found: dict[str, int] = {}
    before = view.before([tensor])
    for index in sorted(before):
        kind = view.nodes[index].op_type
        if kind not in ("ReduceMin", "ReduceMax") or kind in found:
            continue
        values = _factor_behind(view, view.nodes[index].output[0])
        if values is not None:
            found[kind] = values
    return (found["ReduceMin"], found["ReduceMax"]) if len(found) == 2 else None


def _factor_behind(view: GraphView, tensor: str) -> int | None:
    """The constant c of c / x or 1 / x * c, for the scalar tensor x."""
    while True:
        users = view.users(tensor)
        if len(users) != 1:
            return None
        node = view.nodes[users[0]]
        if node.op_type in ("Mul", "Div"):
            others = [view.constant(name) for name in node.input if name != tensor]
            value = others[0] if others else None
            return None if value is None or value.size != 1 else round(float(value.reshape(-1)[0]))
        if node.op_type not in ("Cast", "Reciprocal", "Identity"):
            return None
        tensor = node.output[0]
