"""Runs the original graph once on a seeded image. The imported model is compared with this run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk._util.lazy import require
from retinasdk.convert.importing.graph import GraphView
from retinasdk.convert.importing.heads import HeadPair
from retinasdk.convert.importing.inputs import NetworkInput
from retinasdk.convert.importing.onnx_runner import OnnxRunner, first_line
from retinasdk.convert.importing.subgraph import Dimension, extract_subgraph

if TYPE_CHECKING:
    import numpy.typing as npt

SEED = 20
# (height, width) where a network takes any size: every level of a pyramid has another size than the others.
DYNAMIC_SIZE = (256, 384)
_RESIZED_IMAGE = (60, 600)  # Where the graph resizes: long and narrow, so that a resize to 800 x 1333 stays small.


@dataclass(frozen=True)
class OriginalRun:
    """The input and the intermediate values of one run of the original graph.

    Attributes:
        image: (H, W, 3) uint8, the image that the graph was given.
        feeds: Values of all graph inputs, by name.
        tensor: (N, 3, h, w), the preprocessed input of the network.
        heads: Raw head values: logits of all levels, then deltas of all levels, in the order of the graph.
        head_shapes: Shapes of `heads`, by tensor name.
        is_whole: True if the whole graph ran, False if only the part up to the heads did.
    """

    image: npt.NDArray[np.uint8]
    feeds: dict[str, npt.NDArray[Any]]
    tensor: npt.NDArray[Any]
    heads: list[npt.NDArray[Any]]
    head_shapes: dict[str, tuple[int, ...]]
    is_whole: bool


def run_original(
    view: GraphView, network: NetworkInput, heads: HeadPair, size: tuple[int, int] | None = None
) -> OriginalRun | str:
    """Runs the original graph: as a whole if ONNX Runtime can, otherwise up to its heads.

    Args:
        view: The graph.
        network: Where the network begins.
        heads: Where it ends.
        size: (height, width) in pixels of the picture, where the graph takes several.

    Returns:
        The run, or ONNX Runtime's reason why even the part up to the heads cannot run.
    """
    onnx = require("onnx", "importing ONNX models")
    image, feeds = image_and_feeds(onnx, view, network, size)
    inner = [name for name in dict.fromkeys([network.tensor, *heads.tensor_names]) if name not in feeds]

    def run(model: Any) -> dict[str, npt.NDArray[Any]]:
        given = {item.name: feeds[item.name] for item in model.graph.input if item.name in feeds}
        return {**given, **dict(zip(inner, OnnxRunner(model).run(given, inner), strict=True))}

    try:
        values, is_whole = run(_with_outputs(onnx, view, inner)), True
    except Exception:  # For example an operator that ONNX Runtime does not have, or no detection in the test image.
        try:
            shapes = {item.name: view.shape(item.name) for item in view.inputs}
            needed = {name for index in view.ancestors(inner) for name in view.inputs_of(index)}
            inputs = {name: with_dynamic_names(shapes[name]) for name in shapes if name in needed}
            values, is_whole = run(extract_subgraph(view, inputs, inner)), False
        except Exception as error:
            return first_line(error)
    found = [values[name] for name in heads.tensor_names]
    head_shapes = {name: value.shape for name, value in zip(heads.tensor_names, found, strict=True)}
    return OriginalRun(image, feeds, values[network.tensor], found, head_shapes, is_whole)


def with_dynamic_names(shape: Sequence[int | None] | None) -> list[Dimension] | None:
    """Returns the dimensions of an input with a name in place of each unknown one."""
    return None if shape is None else [side or f"dynamic_{axis}" for axis, side in enumerate(shape)]


def _with_outputs(onnx: Any, view: GraphView, names: Sequence[str]) -> Any:
    """Returns a copy of the whole model that has the tensors as additional outputs."""
    model = onnx.ModelProto()
    model.CopyFrom(view.model)
    known = {item.name for item in model.graph.output}
    for name in names:
        if name not in known:
            kind = view.element_type(name) or onnx.TensorProto.FLOAT
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    return model


def image_and_feeds(
    onnx: Any, view: GraphView, network: NetworkInput, size: tuple[int, int] | None = None, seed: int = SEED
) -> tuple[npt.NDArray[np.uint8], dict[str, npt.NDArray[Any]]]:
    """Returns a seeded picture of random blocks, and a value for every input of the graph.

    The picture has the given (height, width), unless the graph has a fixed size. Without one, it is small where the
    graph resizes, and of `DYNAMIC_SIZE` otherwise.
    """
    shape = view.shape(network.image) or [None, 3, None, None]
    channels_last = shape[-1] == 3 if shape[-3] != 3 else False
    rows, columns = (-3, -2) if channels_last else (-2, -1)
    height, width = size or (_RESIZED_IMAGE if "Resize" in network.steps else DYNAMIC_SIZE)
    height, width = shape[rows] or height, shape[columns] or width
    small = np.random.default_rng(seed).integers(0, 256, (height // 12 + 1, width // 12 + 1, 3), dtype=np.uint8)
    image = np.kron(small, np.ones((12, 12, 1), np.uint8))[:height, :width].copy()

    values = image if channels_last else image.transpose(2, 0, 1)
    values = np.broadcast_to(values, [*[side or 1 for side in shape[:-3]], *values.shape])
    kind = onnx.helper.tensor_dtype_to_np_dtype(view.element_type(network.image) or onnx.TensorProto.FLOAT)
    if kind.kind == "f" and network.normalise is None:
        values = values / 64.0 - 2.0  # In the range of normalized pixels.
    elif kind.kind == "f" and network.normalise is not None and network.normalise.unit:
        values = values / np.float32(255)
    feeds = {network.image: values.astype(kind)}
    for item in view.inputs:
        if item.name not in feeds:
            kind = onnx.helper.tensor_dtype_to_np_dtype(view.element_type(item.name) or onnx.TensorProto.FLOAT)
            feeds[item.name] = np.ones([side or 1 for side in view.shape(item.name) or []], kind)
    return image, feeds
