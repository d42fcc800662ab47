"""Finds the two heads of a RetinaNet by structure: two matching sets of last convolutions, one for each level."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk.convert.importing.graph import GraphView
from retinasdk.convert.importing.missing_heads import refuse_unknown_layers, what_is_missing
from retinasdk.errors import ModelError

if TYPE_CHECKING:
    import numpy.typing as npt

# Names of the last layers of both heads: mmdetection and mmrotate, detectron2, torchvision, ODTK, keras-retinanet.
_CLASS_NAME = re.compile(r"retina_cls|cls_score|cls_logits|cls_head|classification")
_BOX_NAME = re.compile(r"retina_reg|bbox_pred|bbox_reg|box_head|regression")
COMMAND = "retinasdk import THEIRS.onnx -o MODEL.onnx"
LEVELS = range(3, 8)  # Supported numbers of pyramid levels.
DELTAS = (4, 5, 6)  # Supported numbers of deltas of an anchor: upright boxes, with an angle, with its sine and cosine.

# Operators that move values and compute none.
_MOVES = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast", "Concat", "Slice"})
_MOVES |= {"Split", "Gather", "SequenceConstruct", "SequenceAt", "ConcatFromSequence"}
_SCORES = frozenset({"Sigmoid", "Softmax", "HardSigmoid", "LogSoftmax"})
_SCALING = frozenset({"QuantizeLinear", "DequantizeLinear"})
_KEEPS_VALUES = frozenset({"Cast", "Identity"})  # Keras on PyTorch writes casts from float32 to float32.
_TO_NHWC = [0, 2, 3, 1]
_REGIONS = ("roi", "proposal")  # In the names of operators that only two-stage detectors use.
_INTEGER = frozenset({"QLinearConv", "ConvInteger"})


@dataclass(frozen=True)
class HeadTensor:
    """The raw output of one head at one level, in the original graph.

    Attributes:
        tensor: Name of a tensor (N, C, h, w).
        bias: (C,) values to add to it, if the graph adds the bias only after a transpose. None if it is included.
    """

    tensor: str
    bias: npt.NDArray[Any] | None = None


@dataclass(frozen=True)
class HeadBranch:
    """One of the two heads, classification or box regression, on all levels.

    Attributes:
        tensors: One for each level, in the order of the graph.
        channels: Number of channels, the same on each level.
        shares_weights: Whether all levels use the same weights.
    """

    tensors: tuple[HeadTensor, ...]
    channels: int
    shares_weights: bool

    @property
    def tensor_names(self) -> list[str]:
        """Name of the tensor of each level."""
        return [item.tensor for item in self.tensors]


@dataclass(frozen=True)
class HeadPair:
    """Both heads of a RetinaNet with A anchors per cell and K classes.

    Attributes:
        logits: The classification head, A * K channels.
        deltas: The box regression head, A * `values` channels.
        is_usual: Whether the heads were told apart only by the usual number of anchors, with nothing in the graph that
            shows which is which.
        values: Number of deltas of an anchor: 4, or 5 or 6 for rotated boxes.
    """

    logits: HeadBranch
    deltas: HeadBranch
    is_usual: bool = False
    values: int = 4

    @property
    def anchors(self) -> int:
        """Number of anchors per cell (A)."""
        return self.deltas.channels // self.values

    @property
    def classes(self) -> int:
        """Number of classes (K)."""
        return self.logits.channels // self.anchors

    @property
    def tensor_names(self) -> list[str]:
        """Names of all head tensors: logits of all levels, then deltas of all levels."""
        return self.logits.tensor_names + self.deltas.tensor_names


def find_heads(
    view: GraphView,
    *,
    anchors: int,
    box_head: str | None = None,
    values: Sequence[int] = DELTAS,
    command: str = COMMAND,
) -> HeadPair:
    """Finds the classification head and the box regression head.

    Args:
        view: The graph.
        anchors: Usual number of anchors per cell. It decides where the channels allow several numbers.
        box_head: Name of a tensor, node or weight of the box regression head. Needed only where both heads have the
            same shape and nothing after them tells which is which.
        values: Possible numbers of deltas of an anchor. The first one that fits the channels counts, so upright boxes
            go before rotated ones.
        command: The command that the user can repeat with further options; quoted in error messages.

    Raises:
        ModelError: The graph is not a RetinaNet (the message says what it looks like), or `box_head` is needed.
    """
    _refuse_other_detectors(view)
    refuse_unknown_layers(view)
    last = _last_convolutions(view)
    first, second = _two_sets(view, last)
    branches = _branch(view, first), _branch(view, second)
    return _assign_roles(view, *branches, anchors, box_head, values, command)


def _refuse_other_detectors(view: GraphView) -> None:
    kinds = {node.op_type for node in view.nodes}
    regions = sorted(kind for kind in kinds if any(word in kind.lower() for word in _REGIONS))
    if regions:
        raise ModelError(
            f"this is a two-stage detector such as Faster R-CNN (it crops regions with the operator {regions[0]}); "
            "retinasdk runs only RetinaNet, a one-stage detector"
        )
    integer = sorted(kinds & _INTEGER)
    if integer:
        raise ModelError(
            f"this network is quantized with integer convolutions ({integer[0]}), which cannot be imported. Import the "
            "network as it was before quantization, or a quantized one with QuantizeLinear and DequantizeLinear nodes"
        )


def _last_convolutions(view: GraphView) -> list[int]:
    """Returns the convolutions that lead to an output of the graph without another convolution after them."""
    live = view.ancestors(view.outputs)
    convolutions = [index for index in sorted(live) if view.nodes[index].op_type == "Conv"]
    inputs = [name for index in convolutions for name in view.nodes[index].input if name]
    leading = view.ancestors(inputs)
    return [index for index in convolutions if index not in leading]


def _weights_key(view: GraphView, index: int) -> tuple[Any, ...]:
    """Returns a key that is equal for equal weights: exporters write shared weights once, or once for each level."""
    name = view.nodes[index].input[1]
    producer = view.producer.get(name)
    while producer is not None and view.nodes[producer].op_type in _SCALING:
        name = view.nodes[producer].input[0]
        producer = view.producer.get(name)
    values = view.constant(name)
    if values is None or values.dtype.kind == "O":  # Strings, which are no weights.
        return ("computed", name)
    return values.shape, hashlib.sha256(np.ascontiguousarray(values).tobytes()).digest()


def _channels(view: GraphView, index: int) -> int:
    shape = view.shape(view.nodes[index].output[0])
    if shape is not None and len(shape) == 4 and shape[1] is not None:
        return shape[1]
    weights = view.constant(view.nodes[index].input[1])
    if weights is None:
        raise ModelError(
            f"the weights of the convolution {view.node_label(index)!r} are computed in the graph; they have to be "
            "constants. Export the network in evaluation mode, with constant folding"
        )
    return int(weights.shape[0])


def _two_sets(view: GraphView, last: Sequence[int]) -> tuple[list[int], list[int]]:
    by_weights: dict[tuple[Any, ...], list[int]] = {}
    for index in last:
        by_weights.setdefault(_weights_key(view, index), []).append(index)
    sets = [group for group in by_weights.values() if len(group) > 1]
    single: dict[tuple[int, int], list[int]] = {}
    for group in by_weights.values():
        if len(group) == 1:
            key = (_channels(view, group[0]), int(_becomes_scores(view, view.nodes[group[0]].output[0])))
            single.setdefault(key, []).append(group[0])
    if len(single) == 2 and len({channels for channels, _ in single}) == 1 and not sets:
        sets += list(single.values())  # Equal shapes; the sigmoid after one of them tells them apart.
    else:
        by_channels: dict[int, list[int]] = {}
        for (channels, _), group in single.items():
            by_channels.setdefault(channels, []).extend(group)
        sets += [sorted(group) for group in by_channels.values()]
    sets = [group for group in sets if len(group) >= LEVELS[0]]
    if len(sets) == 2 and len(sets[0]) == len(sets[1]) and len(sets[0]) in LEVELS:
        return sets[0], sets[1]
    missing = what_is_missing(view, sets, [_channels(view, group[0]) for group in sets])
    if missing is not None:
        raise ModelError(missing)
    found = Counter(_channels(view, index) for index in last)
    listed = ", ".join(f"{count} with {channels} channels" for channels, count in sorted(found.items())[:8])
    is_shared = any(len(group) > 1 for group in by_weights.values())
    raise ModelError(
        f"no RetinaNet heads found. The last convolutions are: {listed or 'none'}. A RetinaNet ends in two sets of "
        f"{LEVELS[0]} to {LEVELS[-1]} matching convolutions, one set with A * K channels (class logits) and one with "
        f"A * 4 (boxes). {_looks_like([len(group) for group in sets], len(last), is_shared)}"
    )


def _looks_like(sizes: list[int], count: int, is_shared: bool) -> str:
    if sizes and max(sizes) > LEVELS[-1]:
        return "One head is used more often than a pyramid has levels: export the network for a single image input"
    if len(sizes) > 3 and is_shared:
        return f"There are {len(sizes)} such sets, which looks like two networks in one file: export each one alone"
    if len(sizes) == 3:
        return "A third head (center-ness, objectness) belongs to FCOS, ATSS or YOLOX, which retinasdk does not run"
    if 0 < count <= LEVELS[-1]:
        return "This looks like YOLO or a classifier, which retinasdk does not run"
    return "This looks like SSD or another detector, which retinasdk does not run"


def _branch(view: GraphView, convolutions: Sequence[int]) -> HeadBranch:
    keys = {_weights_key(view, index) for index in convolutions}
    tensors = tuple(_head_tensor(view, index) for index in convolutions)
    return HeadBranch(tensors, _channels(view, convolutions[0]), len(keys) == 1)


def _head_tensor(view: GraphView, index: int) -> HeadTensor:
    """Returns a convolution's output, after the bias and the scaling that some exporters write as separate nodes."""
    tensor, channels = view.nodes[index].output[0], _channels(view, index)
    while True:
        consumers = view.consumers(tensor)
        if len(consumers) != 1 or tensor in view.outputs:
            return HeadTensor(tensor)
        node = view.nodes[consumers[0]]
        if node.op_type == "Transpose" and view.attribute(consumers[0], "perm") == _TO_NHWC:
            return HeadTensor(tensor, _bias_after_transpose(view, node.output[0], channels))
        if node.op_type == "BatchNormalization" or node.op_type in _SCALING or _is_affine(view, node, tensor, channels):
            tensor = node.output[0]
        else:
            return HeadTensor(tensor)


def _other_operand(view: GraphView, node: Any, tensor: str) -> npt.NDArray[Any] | None:
    others = [name for name in node.input if name != tensor]
    return view.constant(others[0]) if len(others) == 1 else None


def _is_affine(view: GraphView, node: Any, tensor: str, channels: int) -> bool:
    if node.op_type not in ("Add", "Mul"):
        return False
    values = _other_operand(view, node, tensor)
    return values is not None and (values.size == 1 or values.shape[-3:] == (channels, 1, 1))


def _bias_after_transpose(view: GraphView, transposed: str, channels: int) -> npt.NDArray[Any] | None:
    consumers = view.consumers(transposed)
    while len(consumers) == 1 and view.nodes[consumers[0]].op_type in _KEEPS_VALUES:
        transposed = view.nodes[consumers[0]].output[0]
        consumers = view.consumers(transposed)
    if len(consumers) != 1 or view.nodes[consumers[0]].op_type != "Add":
        return None
    values = _other_operand(view, view.nodes[consumers[0]], transposed)
    return values.reshape(-1) if values is not None and values.size == values.shape[-1] == channels else None


def _becomes_scores(view: GraphView, tensor: str) -> bool:
    """Whether the first operator that computes with the tensor turns it into scores (sigmoid, softmax)."""

    def only_moves(index: int) -> bool:
        node = view.nodes[index]
        if node.op_type == "Add":  # The bias of the convolution.
            return any(view.constant(name) is not None for name in node.input)
        return node.op_type in _MOVES

    return any(view.nodes[index].op_type in _SCORES for index in view.descendants([tensor], through=only_moves))


def _assign_roles(
    view: GraphView,
    first: HeadBranch,
    second: HeadBranch,
    anchors: int,
    box_head: str | None,
    values: Sequence[int],
    command: str,
) -> HeadPair:
    """Decides which of two heads is the box regression head."""
    fitting = [
        HeadPair(logits, deltas, values=count)
        for count in values
        for logits, deltas in ((first, second), (second, first))
        if deltas.channels % count == 0 and logits.channels % (deltas.channels // count) == 0
    ]
    named = [heads for heads in fitting if not _has_name_of_other_head(view, heads)]
    if fitting and not named and box_head is None:
        raise ModelError(
            f"{fitting[0].deltas.tensors[0].tensor!r} has the channels of a box head with {fitting[0].values} deltas "
            "for each anchor, but its name or that of the other head says the reverse. If the model detects rotated "
            f"boxes, or is of another framework, name that: {command} --flavour NAME. Otherwise name a tensor of the "
            "box head: "
            f"{command} --box-head {shlex.quote(fitting[0].deltas.tensors[0].tensor)} (in Python: box_head=)"
        )
    fitting = fitting if box_head is not None else named
    choices = [heads for heads in fitting if heads.values == fitting[0].values]
    if box_head is not None:
        choices = [heads for heads in choices if box_head in _names_around(view, heads.deltas)]
        if not choices:
            names = " or ".join(repr(head.tensors[0].tensor) for head in (first, second))
            raise ModelError(f"{box_head!r} does not belong to a box head. Name a tensor of it: {names}")
    elif len(choices) > 1:
        scored = [heads for heads in choices if _becomes_scores(view, heads.logits.tensors[0].tensor)]
        scored = [heads for heads in scored if not _becomes_scores(view, heads.deltas.tensors[0].tensor)]
        choices = scored or choices
        usual = [heads for heads in choices if heads.anchors == anchors]
        if len(choices) > 1 and len(usual) == 1:
            choices = [replace(usual[0], is_usual=True)]
    if not choices:
        raise ModelError(
            f"this is not a RetinaNet: its last convolutions have {first.channels} and {second.channels} channels. The "
            f"heads of a RetinaNet have A * K and {' or '.join(f'A * {count}' for count in values)} channels, and no "
            "number of anchors A fits these"
        )
    if len(choices) > 1:
        ways = "".join(
            f"\n  {command} --box-head {shlex.quote(heads.deltas.tensors[0].tensor)}"
            f"  # {heads.anchors} anchors, {heads.classes} classes"
            for heads in choices
        )
        raise ModelError(
            f"the heads have {first.channels} and {second.channels} channels, so each may be the class head or the box "
            f"head, and nothing after them tells which. Name a tensor of the box head (in Python: box_head=):{ways}"
        )
    return choices[0]


def _has_name_of_other_head(view: GraphView, heads: HeadPair) -> bool:
    """Whether the last layer of one head has the name that frameworks give to the other one."""
    deltas, logits = (" ".join(_names_around(view, head)) for head in (heads.deltas, heads.logits))
    return any(
        name.search(own) is not None and other.search(own) is None
        for own, name, other in ((deltas, _CLASS_NAME, _BOX_NAME), (logits, _BOX_NAME, _CLASS_NAME))
    )


def _names_around(view: GraphView, head: HeadBranch) -> set[str]:
    """Returns the names by which a person may identify a head: its tensors, its nodes, its weights."""
    names = set(head.tensor_names)
    for tensor in head.tensor_names:
        index = view.producer[tensor]
        names.update((view.nodes[index].name, *view.nodes[index].input, *view.nodes[index].output))
    return names - {""}
