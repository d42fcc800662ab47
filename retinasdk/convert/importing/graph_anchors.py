"""Reads anchors and strides in the graph: runs the part that computes them, and looks at the numbers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk._util.lazy import require
from retinasdk.convert.flavours.preset import BaseAnchors
from retinasdk.convert.importing.graph import GraphView
from retinasdk.convert.importing.heads import HeadPair
from retinasdk.convert.importing.inputs import NetworkInput
from retinasdk.convert.importing.onnx_runner import OnnxRunner
from retinasdk.convert.importing.original_run import image_and_feeds, with_dynamic_names
from retinasdk.convert.importing.subgraph import extract_subgraph

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

# A size where the two usual rules of strides differ: P6 and P7 have 4 x 3 and 2 x 2 cells, so that the input side
# divided by the cells is 56 x 53 and 112 x 80, and not 64 and 128.
UNEVEN_SIZE = (224, 160)
_TOLERANCE = 0.02  # Pixels. float32 at 1344 pixels has steps of 0.0001.


@dataclass(frozen=True)
class AnchorGrid:
    """The anchors of one level, as the graph computes them.

    Attributes:
        base_anchors: Boxes xyxy around cell (0, 0), in pixels of the network input.
        stride: (y, x) pixels from one cell to the next; None on an axis with a single cell.
        cells: (rows, columns) of the level.
    """

    base_anchors: BaseAnchors
    stride: tuple[float | None, float | None]
    cells: tuple[int, int]


@dataclass(frozen=True)
class GraphAnchors:
    """The anchors of all levels, for one size of the network input.

    Attributes:
        input_size: (height, width) in pixels of the network input.
        levels: One grid for each level, finest first.
    """

    input_size: tuple[int, int]
    levels: tuple[AnchorGrid, ...]

    def are_strides_divided(self) -> bool:
        """Whether each stride is the input side divided by the number of cells, rounded down."""
        return all(
            stride is None or stride == side // cells
            for level in self.levels
            for stride, side, cells in zip(level.stride, self.input_size, level.cells, strict=True)
        )

    def are_strides(self, nominal: Sequence[int]) -> bool:
        """Whether the strides are these, one for each level and the same on both axes."""
        return all(
            stride is None or stride == usual
            for level, usual in zip(self.levels, nominal, strict=True)
            for stride in level.stride
        )


def read_anchors(view: GraphView, network: NetworkInput, heads: HeadPair) -> GraphAnchors | None:
    """Reads the anchors that the graph adds to the deltas.

    Anchors depend on the size of the image and not on its pixels. So every tensor of boxes that meets the heads and
    does not depend on pixels is computed for one image, and taken if it is a regular grid of A boxes per cell.

    Returns:
        The anchors. None if the graph contains none, computes them in an unknown way or cannot run.
    """
    used, others = _candidates(view, heads)
    parts = _centers_and_sizes(view, heads)
    if not used and not others and not parts:
        return None
    values = _run(view, network, heads, [*used, *others])
    if values is None:
        return None
    shapes = [values[name].shape for name in heads.logits.tensor_names]
    cells = sorted(((int(shape[2]), int(shape[3])) for shape in shapes), reverse=True)
    height, width = values[network.tensor].shape[2:]
    # What meets the heads itself, before what that is computed from.
    for arrays in ([values[name] for name in used if name in values] + parts, [values[name] for name in others]):
        found = _grids(arrays, cells, heads.anchors)
        if found is not None:
            return GraphAnchors((int(height), int(width)), found)
    return None


def _candidates(view: GraphView, heads: HeadPair) -> tuple[list[str], list[str]]:
    """Returns the tensors that may hold anchors: those that meet the heads, and those that these depend on."""
    after = view.descendants(heads.tensor_names)
    pixels = view.pixel_tensors
    border = {name for index in after for name in view.inputs_of(index)} - pixels
    behind = {name for index in view.ancestors(border) for name in view.nodes[index].output} - pixels - border
    network = {name for index in view.ancestors(heads.tensor_names) for name in view.inputs_of(index)}
    return _boxes_among(view, border - network), _boxes_among(view, behind - network)


def _centers_and_sizes(view: GraphView, heads: HeadPair) -> list[npt.NDArray[Any]]:
    """Returns the boxes of a graph that contains the centers and the sizes of all anchors as separate constants.

    PyTorch writes them so where a model slices its anchors: `dx * width + center`, for each axis (pytorch-retinanet).
    Anchors are listed row by row, so x is the axis whose centers change first.
    """
    axes: dict[bytes, tuple[npt.NDArray[Any], npt.NDArray[Any]]] = {}
    for index in sorted(view.descendants(heads.deltas.tensor_names)):
        if view.nodes[index].op_type != "Add":
            continue
        for center_name, moved_name in itertools.permutations(view.nodes[index].input):
            center, moved = view.constant(center_name), view.producing_node(moved_name)
            if center is None or moved is None or moved.op_type != "Mul":
                continue
            sizes = [value for name in moved.input if (value := view.constant(name)) is not None]
            if center.size > 1 and len(sizes) == 1 and sizes[0].size == center.size:
                axes[center.tobytes()] = (center.reshape(-1), sizes[0].reshape(-1))
    if len(axes) != 2:
        return []
    (x, width), (y, height) = sorted(axes.values(), key=lambda axis: int(np.argmax(np.abs(axis[0] - axis[0][0]) > 0.5)))
    return [np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)]


def _boxes_among(view: GraphView, names: set[str]) -> list[str]:
    """Returns the names of tensors of floats that may have four columns, in a fixed order."""
    onnx = require("onnx", "importing ONNX models")
    floats = (0, onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    found = []
    for name in sorted(names - {""}):
        shape = view.shape(name)
        if shape is None and (values := view.constant(name)) is not None:
            shape = list(values.shape)
        may_be_boxes = shape is None or (len(shape) >= 2 and shape[-1] in (4, None))
        if may_be_boxes and view.element_type(name) in floats:
            found.append(name)
    return found


def _run(
    view: GraphView, network: NetworkInput, heads: HeadPair, names: Sequence[str]
) -> dict[str, npt.NDArray[Any]] | None:
    """Computes the tensors, the heads and the network's input for one image; None if that is not possible."""
    onnx = require("onnx", "importing ONNX models")
    wanted = list(dict.fromkeys([network.tensor, *heads.logits.tensor_names, *names]))
    constants = {name: value for name in names if (value := view.constant(name)) is not None}
    computed = [name for name in wanted if name in view.producer and name not in constants]
    needed = {name for index in view.ancestors(computed) for name in view.inputs_of(index)}
    try:
        size = None if "Resize" in network.steps else UNEVEN_SIZE
        _, feeds = image_and_feeds(onnx, view, network, size)
        inputs = {item.name: with_dynamic_names(view.shape(item.name)) for item in view.inputs if item.name in needed}
        given = {name: feeds[name] for name in inputs}
        values = dict(
            zip(computed, OnnxRunner(extract_subgraph(view, inputs, computed)).run(given, computed), strict=True)
        )
    except Exception:  # The graph uses operators of a plugin, or does not accept this size.
        return None
    return {**feeds, **constants, **values}


def _grids(
    arrays: Sequence[npt.NDArray[Any]], cells: Sequence[tuple[int, int]], anchors: int
) -> tuple[AnchorGrid, ...] | None:
    """Returns the grid of each level, or None if a level has none, or several different ones."""
    counts = [rows * columns * anchors for rows, columns in cells]
    found: list[list[AnchorGrid]] = [[] for _ in cells]
    for values in arrays:
        if values.ndim < 2 or values.shape[-1] != 4:
            continue
        boxes = values.reshape(-1, 4).astype(np.float64)
        if len(boxes) == sum(counts):
            parts = list(enumerate(np.split(boxes, np.cumsum(counts)[:-1])))
        else:
            parts = [(level, boxes) for level, count in enumerate(counts) if count == len(boxes)]
        for level, part in parts:
            grid = _grid(part, cells[level], anchors)
            if grid is not None and not any(_are_equal(grid, other) for other in found[level]):
                found[level].append(grid)
    if any(len(grids) != 1 for grids in found):
        return None
    return tuple(grids[0] for grids in found)


def _grid(boxes: Array, cells: tuple[int, int], anchors: int) -> AnchorGrid | None:
    """Reads boxes, ordered by row, column and anchor, as a grid; None if they are not one."""
    rows, columns = cells
    shaped = boxes.reshape(rows, columns, anchors, 4)
    base = shaped[0, 0]
    if not np.isfinite(boxes).all() or not (base[:, 2:] > base[:, :2]).all():
        return None
    x = float(shaped[0, -1, 0, 0] - base[0, 0]) / (columns - 1) if columns > 1 else 0.0
    y = float(shaped[-1, 0, 0, 1] - base[0, 1]) / (rows - 1) if rows > 1 else 0.0
    if (columns > 1 and x <= 0) or (rows > 1 and y <= 0):
        return None
    at = np.stack(np.meshgrid(np.arange(columns) * x, np.arange(rows) * y), axis=-1)
    expected = base + np.concatenate([at, at], axis=-1)[:, :, None]
    if np.abs(shaped - expected).max() > _TOLERANCE:
        return None
    stride = (_whole(y) if rows > 1 else None, _whole(x) if columns > 1 else None)
    exact = np.array([[float(f"{value:.7g}") for value in box] for box in base])
    return AnchorGrid(tuple((box[0], box[1], box[2], box[3]) for box in exact.tolist()), stride, cells)


def _whole(value: float) -> float:
    """Rounds to a whole number of pixels where float32 left a small difference."""
    return float(round(value)) if abs(value - round(value)) < 1e-3 else value


def _are_equal(first: AnchorGrid, second: AnchorGrid) -> bool:
    return first.stride == second.stride and np.allclose(first.base_anchors, second.base_anchors, atol=_TOLERANCE)
