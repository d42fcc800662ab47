"""Finding RetinaNet's heads by structure: the last convolutions, in two matching sets of one a level."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk.convert.importing.graph import GraphView
from retinasdk.errors import ModelError

if TYPE_CHECKING:
    import numpy.typing as npt

LEVELS = range(3, 8)  # as many levels may a pyramid have

# They move values and compute none.
_MOVES = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast", "Concat", "Slice"})
_MOVES |= {"Split", "Gather", "SequenceConstruct", "SequenceAt", "ConcatFromSequence"}
_SCORES = frozenset({"Sigmoid", "Softmax", "HardSigmoid", "LogSoftmax"})
_SCALING = frozenset({"QuantizeLinear", "DequantizeLinear"})
_TO_NHWC = [0, 2, 3, 1]
_REGIONS = ("roi", "proposal")  # in the names of operators of two-stage detectors
_INTEGER = frozenset({"QLinearConv", "ConvInteger"})


@dataclass(frozen=True)
class Tap:
    """Where one level's raw output is taken.

    tensor: (N, C, h, w), name in the graph. bias: (C,) to add to it, where the graph adds it only behind a transpose.
    """

    tensor: str
    bias: npt.NDArray[Any] | None = None


@dataclass(frozen=True)
class Head:
    """One of the two heads. taps: one a level, in the graph's order. shared: the levels share their weights."""

    taps: tuple[Tap, ...]
    channels: int
    shared: bool

    @property
    def tensors(self) -> list[str]:
        return [tap.tensor for tap in self.taps]


@dataclass(frozen=True)
class Heads:
    """logits: A * K channels. deltas: A * 4 channels."""

    logits: Head
    deltas: Head

    @property
    def anchors(self) -> int:
        return self.deltas.channels // 4

    @property
    def classes(self) -> int:
        return self.logits.channels // self.anchors

    @property
    def tensors(self) -> list[str]:
        return self.logits.tensors + self.deltas.tensors


def find_heads(view: GraphView, *, anchors: int, box_head: str | None = None) -> Heads:
    """The two heads.

    anchors: usual number of anchors of a cell, for heads whose channels allow several. box_head: a tensor of the box
    head, by its name, where shape and use do not tell.

    Raises `ModelError` for everything that is no RetinaNet, with what it looks like.
    """
    _refuse_other_kinds(view)
    last = _last_convolutions(view)
    first, second = _two_sets(view, last)
    return _roles(view, _head(view, first), _head(view, second), anchors, box_head)


def _refuse_other_kinds(view: GraphView) -> None:
    kinds = {node.op_type for node in view.nodes}
    regions = sorted(kind for kind in kinds if any(word in kind.lower() for word in _REGIONS))
    if regions:
        raise ModelError(
            f"wanted a RetinaNet, got a two-stage detector such as Faster R-CNN (its operator {regions[0]} cuts out "
            "regions); retinasdk runs one-stage RetinaNets only"
        )
    integer = sorted(kinds & _INTEGER)
    if integer:
        raise ModelError(
            f"wanted a network in floating point, got convolutions on integers ({integer[0]}); import the network as "
            "it was before quantization, or with QuantizeLinear and DequantizeLinear around its convolutions"
        )


def _last_convolutions(view: GraphView) -> list[int]:
    """Convolutions that lead to an output of the graph and to no other convolution."""
    live = view.before(view.outputs)
    convolutions = [index for index in sorted(live) if view.nodes[index].op_type == "Conv"]
    inputs = [name for index in convolutions for name in view.nodes[index].input if name]
    leading = view.before(inputs)
    return [index for index in convolutions if index not in leading]


def _weights_key(view: GraphView, index: int) -> tuple[Any, ...]:
    """Equal for convolutions with equal weights: exporters write shared weights once, or once a level."""
    name = view.nodes[index].input[1]
    producer = view.producer.get(name)
    while producer is not None and view.nodes[producer].op_type in _SCALING:
        name = view.nodes[producer].input[0]
        producer = view.producer.get(name)
    values = view.constant(name)
    if values is None or values.dtype.kind == "O":  # strings
        return ("computed", name)
    return values.shape, hashlib.sha256(np.ascontiguousarray(values).tobytes()).digest()


def _channels(view: GraphView, index: int) -> int:
    shape = view.shape(view.nodes[index].output[0])
    if shape is not None and len(shape) == 4 and shape[1] is not None:
        return shape[1]
    weights = view.constant(view.nodes[index].input[1])
    if weights is None:
        raise ModelError(
            f"convolution {view.name_of(index)!r}: wanted weights that are constants, got computed ones; export the "
            "network in evaluation mode, with constant folding"
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
            key = (_channels(view, group[0]), int(_scored(view, view.nodes[group[0]].output[0])))
            single.setdefault(key, []).append(group[0])
    if len(single) == 2 and len({channels for channels, _ in single}) == 1 and not sets:
        sets += list(single.values())  # equal shapes, told apart by the sigmoid behind one of them
    else:
        by_channels: dict[int, list[int]] = {}
        for (channels, _), group in single.items():
            by_channels.setdefault(channels, []).extend(group)
        sets += [sorted(group) for group in by_channels.values()]
    sets = [group for group in sets if len(group) >= LEVELS[0]]
    if len(sets) == 2 and len(sets[0]) == len(sets[1]) and len(sets[0]) in LEVELS:
        return sets[0], sets[1]
    found = Counter(_channels(view, index) for index in last)
    listed = ", ".join(f"{count} with {channels} channels" for channels, count in sorted(found.items())[:8])
    wanted = (
        f"wanted a RetinaNet: two sets of {LEVELS[0]} to {LEVELS[-1]} matching last convolutions, one set with A * K "
        f"channels for the class logits and one with A * 4 for the boxes; got {listed or 'no convolutions at all'}"
    )
    is_shared = any(len(group) > 1 for group in by_weights.values())
    raise ModelError(f"{wanted}; {_looks_like([len(group) for group in sets], len(last), is_shared)}")


def _looks_like(sizes: list[int], count: int, is_shared: bool) -> str:
    if sizes and max(sizes) > LEVELS[-1]:
        return "one head is used more often than a pyramid has levels: export the network for one image input"
    if len(sizes) > 3 and is_shared:
        return f"{len(sizes)} such sets look like two networks in one file: export each alone"
    if len(sizes) == 3:
        return "a third head (centre-ness, objectness) is that of FCOS, ATSS or YOLOX, which are decoded in another way"
    if 0 < count <= LEVELS[-1]:
        return "that looks like YOLO or a classifier, which retinasdk does not run"
    return "that looks like SSD or another detector, which retinasdk does not run"


def _head(view: GraphView, convolutions: Sequence[int]) -> Head:
    keys = {_weights_key(view, index) for index in convolutions}
    taps = tuple(_tap(view, index) for index in convolutions)
    return Head(taps, _channels(view, convolutions[0]), len(keys) == 1)


def _tap(view: GraphView, index: int) -> Tap:
    """A convolution's output, with the bias that some exporters add as a node of its own, and with what scales it."""
    tensor, channels = view.nodes[index].output[0], _channels(view, index)
    while True:
        users = view.users(tensor)
        if len(users) != 1 or tensor in view.outputs:
            return Tap(tensor)
        node = view.nodes[users[0]]
        if node.op_type == "Transpose" and view.attribute(users[0], "perm") == _TO_NHWC:
            return Tap(tensor, _bias_behind(view, node.output[0], channels))
        if node.op_type == "BatchNormalization" or node.op_type in _SCALING or _is_affine(view, node, tensor, channels):
            tensor = node.output[0]
        else:
            return Tap(tensor)


def _other_operand(view: GraphView, node: Any, tensor: str) -> npt.NDArray[Any] | None:
    others = [name for name in node.input if name != tensor]
    return view.constant(others[0]) if len(others) == 1 else None


def _is_affine(view: GraphView, node: Any, tensor: str, channels: int) -> bool:
    if node.op_type not in ("Add", "Mul"):
        return False
    values = _other_operand(view, node, tensor)
    return values is not None and (values.size == 1 or values.shape[-3:] == (channels, 1, 1))


def _bias_behind(view: GraphView, transposed: str, channels: int) -> npt.NDArray[Any] | None:
    users = view.users(transposed)
    if len(users) != 1 or view.nodes[users[0]].op_type != "Add":
        return None
    values = _other_operand(view, view.nodes[users[0]], transposed)
    return values.reshape(-1) if values is not None and values.size == values.shape[-1] == channels else None


def _scored(view: GraphView, tensor: str) -> bool:
    """Whether the first thing that computes with the tensor makes scores of it."""

    def goes_on(index: int) -> bool:
        node = view.nodes[index]
        if node.op_type == "Add":  # a bias
            return any(view.constant(name) is not None for name in node.input)
        return node.op_type in _MOVES

    return any(view.nodes[index].op_type in _SCORES for index in view.after([tensor], through=goes_on))


def _roles(view: GraphView, first: Head, second: Head, anchors: int, box_head: str | None) -> Heads:
    choices = [
        Heads(logits, deltas)
        for logits, deltas in ((first, second), (second, first))
        if deltas.channels % 4 == 0 and logits.channels % (deltas.channels // 4) == 0
    ]
    if box_head is not None:
        choices = [heads for heads in choices if box_head in _names_around(view, heads.deltas)]
        if not choices:
            names = " or ".join(repr(head.tensors[0]) for head in (first, second))
            raise ModelError(f"wanted box_head to be a tensor of the box head, such as {names}, got {box_head!r}")
    elif len(choices) > 1:
        scored = [heads for heads in choices if _scored(view, heads.logits.tensors[0])]
        scored = [heads for heads in scored if not _scored(view, heads.deltas.tensors[0])]
        choices = scored or choices
        choices = [heads for heads in choices if heads.anchors == anchors] or choices
    if not choices:
        raise ModelError(
            "wanted a RetinaNet, whose heads have A * K and A * 4 channels for a common number of anchors A; got last "
            f"convolutions with {first.channels} and {second.channels} channels, which have no such A"
        )
    if len(choices) > 1:
        ways = " or ".join(
            f"box_head={heads.deltas.tensors[0]!r} ({heads.anchors} anchors, {heads.classes} classes)"
            for heads in choices
        )
        raise ModelError(
            f"heads with {first.channels} and {second.channels} channels: each may be the class head or the box head, "
            f"and nothing behind them tells; say which, with {ways}"
        )
    return choices[0]


def _names_around(view: GraphView, head: Head) -> set[str]:
    """Names by which a person may call a head: its tensors, its nodes, its weights."""
    names = set(head.tensors)
    for tensor in head.tensors:
        index = view.producer[tensor]
        names.update((view.nodes[index].name, *view.nodes[index].input, *view.nodes[index].output))
    return names - {""}
