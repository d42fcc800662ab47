"""One run of the old graph on a seeded image, to hold the new model against; and which sides of it are free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk._util.lazy import require
from retinasdk.convert.importing.cut import Dimension, piece
from retinasdk.convert.importing.graph import GraphView
from retinasdk.convert.importing.heads import Heads
from retinasdk.convert.importing.inputs import NetworkInput
from retinasdk.convert.importing.running import Runner, first_line
from retinasdk.errors import ModelError

if TYPE_CHECKING:
    import numpy.typing as npt

_SEED = 20
_FREE_SIDES = (256, 384)  # for a network that takes any size: at both, every level of a pyramid has its own size
_OTHER_SIDES = (224, 160)
_FREE_IMAGE = (60, 600)  # long and narrow: a resize to 800 x 1333 makes little work of it


@dataclass(frozen=True)
class OldRun:
    """What the old graph made of an image: its network's ready input, and its heads' raw values.

    image: (H, W, 3) uint8, as it was given to the graph. feeds: all that was given to it. tensor: (N, 3, h, w).
    heads: logits of all levels, deltas of all levels, in the graph's order; shapes: theirs, by name. whole: the whole
    graph was run, with what lies behind the heads.
    """

    image: npt.NDArray[np.uint8]
    feeds: dict[str, npt.NDArray[Any]]
    tensor: npt.NDArray[Any]
    heads: list[npt.NDArray[Any]]
    shapes: dict[str, tuple[int, ...]]
    whole: bool


def run_old(view: GraphView, network: NetworkInput, heads: Heads) -> OldRun | str:
    """One run of the old graph, whole if it lets itself be run, else up to its heads; or why neither can be done."""
    onnx = require("onnx", "importing ONNX models")
    image, feeds = _feeds(onnx, view, network)
    inner = [name for name in dict.fromkeys([network.tensor, *heads.tensors]) if name not in feeds]

    def run(model: Any) -> dict[str, npt.NDArray[Any]]:
        given = {item.name: feeds[item.name] for item in model.graph.input if item.name in feeds}
        return {**given, **dict(zip(inner, Runner(model).run(given, inner), strict=True))}

    try:
        values, whole = run(_with_outputs(onnx, view, inner)), True
    except Exception:  # operators that are not here, or no detections in noise
        try:
            shapes = {item.name: view.shape(item.name) for item in view.inputs}
            needed = {name for index in view.before(inner) for name in view.needs(index)}
            values = run(piece(view, {name: _free(shapes[name]) for name in shapes if name in needed}, inner))
            whole = False
        except Exception as error:
            return first_line(error)
    found = [values[name] for name in heads.tensors]
    sizes = {name: value.shape for name, value in zip(heads.tensors, found, strict=True)}
    return OldRun(image, feeds, values[network.tensor], found, sizes, whole)


def _free(shape: Sequence[int | None] | None) -> list[Dimension] | None:
    return None if shape is None else [side or f"free_{axis}" for axis, side in enumerate(shape)]


def _with_outputs(onnx: Any, view: GraphView, names: Sequence[str]) -> Any:
    model = onnx.ModelProto()
    model.CopyFrom(view.model)
    known = {item.name for item in model.graph.output}
    for name in names:
        if name not in known:
            kind = view.element_type(name) or onnx.TensorProto.FLOAT
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    return model


def _feeds(
    onnx: Any, view: GraphView, network: NetworkInput
) -> tuple[npt.NDArray[np.uint8], dict[str, npt.NDArray[Any]]]:
    """A seeded picture of blocks, and what to feed to every input of the graph."""
    shape = view.shape(network.image) or [None, 3, None, None]
    channels_last = shape[-1] == 3 if shape[-3] != 3 else False
    rows, columns = (-3, -2) if channels_last else (-2, -1)
    height, width = _FREE_IMAGE if "Resize" in network.steps else _FREE_SIDES
    height, width = shape[rows] or height, shape[columns] or width
    small = np.random.default_rng(_SEED).integers(0, 256, (height // 12 + 1, width // 12 + 1, 3), dtype=np.uint8)
    image = np.kron(small, np.ones((12, 12, 1), np.uint8))[:height, :width].copy()

    values = image if channels_last else image.transpose(2, 0, 1)
    values = np.broadcast_to(values, [*[side or 1 for side in shape[:-3]], *values.shape])
    kind = onnx.helper.tensor_dtype_to_np_dtype(view.element_type(network.image) or onnx.TensorProto.FLOAT)
    if kind.kind == "f" and network.normalise is None:
        values = values / 64.0 - 2.0  # as normalised pixels are
    elif kind.kind == "f" and network.normalise is not None and network.normalise.unit:
        values = values / np.float32(255)
    feeds = {network.image: values.astype(kind)}
    for item in view.inputs:
        if item.name not in feeds:
            kind = onnx.helper.tensor_dtype_to_np_dtype(view.element_type(item.name) or onnx.TensorProto.FLOAT)
            feeds[item.name] = np.ones([side or 1 for side in view.shape(item.name) or []], kind)
    return image, feeds


@dataclass(frozen=True)
class Freedom:
    """Which sides of the ready input may change, and how large each level is.

    sides: batch, height, width; a name if it may change. ran_at: the height and width at which the heads, logits
    first, have these sizes (rows, columns).
    """

    sides: tuple[Dimension, Dimension, Dimension]
    ran_at: tuple[int, int]
    sizes: list[tuple[int, int]]


def find_freedom(view: GraphView, network: NetworkInput, heads: Heads, old: OldRun | str) -> Freedom:
    """Tries the network at other sizes and with two images at once. Raises `ModelError` if it runs at none."""
    known = view.shape(network.tensor) or [None] * 4
    if isinstance(old, OldRun):
        known = list(old.tensor.shape)
    model = piece(view, {network.tensor: ["N", 3, "H", "W"]}, heads.tensors)
    try:
        runner = Runner(model)
    except Exception as error:
        raise ModelError(
            f"wanted a network that ONNX Runtime can load, but cut to its heads it says: {first_line(error)}"
        ) from error
    onnx = require("onnx", "importing ONNX models")
    kind = onnx.helper.tensor_dtype_to_np_dtype(view.element_type(network.tensor) or onnx.TensorProto.FLOAT)
    fixed_batch, fixed = known[0] or 1, (known[2] or _FREE_SIDES[0], known[3] or _FREE_SIDES[1])

    def run(images: npt.NDArray[Any]) -> list[npt.NDArray[Any]] | str:
        try:
            return runner.run({network.tensor: images}, heads.tensors)
        except Exception as error:
            return first_line(error)

    def noise(batch: int, sides: tuple[int, int]) -> npt.NDArray[Any]:
        return np.random.default_rng(_SEED).standard_normal((batch, 3, *sides)).astype(kind)

    single, other = (run(noise(fixed_batch, sides)) for sides in (_FREE_SIDES, _OTHER_SIDES))
    any_size = not isinstance(single, str) and not isinstance(other, str)
    sides = _FREE_SIDES if any_size else fixed
    if not any_size:
        single = run(noise(fixed_batch, sides))
    if isinstance(single, str):
        raise ModelError(f"wanted a network that runs at {sides[0]} x {sides[1]}, but ONNX Runtime says: {single}")
    any_batch = _is_free_batch(run, noise(fixed_batch + 1, _OTHER_SIDES if any_size else fixed))
    return Freedom(
        sides=("N" if any_batch else fixed_batch, *(("H", "W") if any_size else fixed)),
        ran_at=sides,
        sizes=[(int(values.shape[2]), int(values.shape[3])) for values in single],
    )


def _is_free_batch(run: Callable[[npt.NDArray[Any]], list[npt.NDArray[Any]] | str], images: npt.NDArray[Any]) -> bool:
    """Whether one image more than usual goes through, and each alone gives the same: a size may hold the batch."""
    together, first, last = run(images), run(images[:-1]), run(images[1:])
    if isinstance(together, str) or isinstance(first, str) or isinstance(last, str):
        return False
    return all(
        len(values) == len(images)
        and np.allclose(values[:-1], of_first, rtol=1e-3, atol=1e-3)
        and np.allclose(values[1:], of_last, rtol=1e-3, atol=1e-3)
        for values, of_first, of_last in zip(together, first, last, strict=True)
    )
