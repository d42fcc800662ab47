"""Runs the decoding and NMS that a graph contains after its heads, and reads the boxes among its outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk._util.box_matching import Boxes
from retinasdk._util.lazy import require
from retinasdk.convert.importing.graph import GraphView, inner_nodes
from retinasdk.convert.importing.heads import HeadPair
from retinasdk.convert.importing.onnx_runner import OnnxRunner
from retinasdk.convert.importing.subgraph import extract_subgraph

if TYPE_CHECKING:
    import numpy.typing as npt

    Arrays = Mapping[str, npt.NDArray[Any]]


class GraphTail:
    """The part of a graph from its head outputs to its boxes.

    Besides the heads it needs what does not depend on them, such as anchors and sizes: the tensors in `borders`.

    Attributes:
        borders: Names of the tensors that it takes from the other parts of the graph.
    """

    def __init__(self, view: GraphView, heads: HeadPair) -> None:
        self._view, self._heads = view, heads
        self._outputs = [name for name in view.outputs if name not in heads.tensor_names]
        own = view.descendants(heads.tensor_names)
        needed = view.ancestors(self._outputs, stop=heads.tensor_names)
        inputs = {name for index in own & needed for name in view.inputs_of(index)} | set(self._outputs)
        self.borders = sorted(
            name
            for name in inputs - {*heads.tensor_names}
            if view.producer.get(name, -1) not in own and name in view.producer and view.constant(name) is None
        )
        self._runner: OnnxRunner | None = None
        self._inputs: list[str] = []

    def run(self, values: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Runs it once.

        Args:
            values: Values of the graph's inputs, of the heads and of the borders, by name. Borders that are no arrays
                but sequences are computed again.

        Returns:
            The values of the graph's outputs, by name.

        Raises:
            Exception: ONNX Runtime cannot load or run it; its exceptions have no common base class.
        """
        if self._runner is None:
            names = [*self._heads.tensor_names, *self.borders, *(item.name for item in self._view.inputs)]
            given = [name for name in dict.fromkeys(names) if isinstance(values[name], np.ndarray)]
            kept = self._view.ancestors(self._outputs, stop=given)
            used = {name for index in kept for name in self._view.inputs_of(index)} | set(self._outputs)
            self._inputs = [name for name in given if name in used]
            model = extract_subgraph(self._view, dict.fromkeys(self._inputs), self._outputs)
            onnx = require("onnx", "importing ONNX models")
            for item in model.graph.input:
                item.type.tensor_type.elem_type = onnx.helper.np_dtype_to_tensor_dtype(values[item.name].dtype)
            self._runner = OnnxRunner(model)
        found = self._runner.run({name: values[name] for name in self._inputs}, self._outputs)
        return dict(zip(self._outputs, found, strict=True))


def custom_operators(view: GraphView, heads: HeadPair) -> list[str]:
    """Returns the operators after the heads that are not part of the ONNX standard, as domain.name."""
    onnx = require("onnx", "importing ONNX models")
    found = set()
    for index in view.descendants(heads.tensor_names):
        for node in (view.nodes[index], *inner_nodes(view.nodes[index])):
            if node.domain not in ("", "ai.onnx"):
                found.add(f"{node.domain}.{node.op_type}")
            elif not onnx.defs.has(node.op_type, view.opset):
                found.add(node.op_type)
    return sorted(found)


def read_boxes(outputs: Arrays) -> Boxes | None:
    """Finds boxes, scores and classes among the outputs of a graph, in any order.

    Known forms: boxes (n, 4), scores (n,) and labels (n,), or boxes with scores (n, 5) and labels (n,); each with or
    without a dimension for the batch, of which the first image is taken. Rows that only fill up a fixed number of
    detections have no score above 0 or no label from 0 on, and are left out.

    Returns:
        The boxes; None if the outputs have another form.
    """
    arrays = list(outputs.values())
    tables = [item for item in arrays if item.dtype.kind == "f" and item.ndim in (2, 3) and item.shape[-1] in (4, 5)]
    if len(tables) != 1:
        return None
    table = tables[0] if tables[0].ndim == 2 else tables[0][0]
    others = [item for item in arrays if item is not tables[0]]
    rows = [item.reshape(-1) if item.ndim < 2 else item[0] for item in others if item.ndim in (1, 2) and item.size]
    rows = [item for item in rows if item.shape == (len(table),)]
    is_joined = table.shape[1] == 5
    labels = _labels(rows, count=1 if is_joined else 2)
    if labels is None:
        return None
    scores = table[:, 4] if is_joined else next(item for item in rows if item is not labels)
    boxes = Boxes.of(table[:, :4], scores, labels)
    return boxes.take((boxes.scores > 0) & (boxes.class_ids >= 0))


def _labels(rows: Sequence[npt.NDArray[Any]], count: int) -> npt.NDArray[Any] | None:
    """Returns the one list of whole numbers, if there are `count` lists and the others are scores."""
    whole = [item for item in rows if item.dtype.kind in "iu"]
    if not whole:  # Some exporters write labels as floats.
        whole = [item for item in rows if (item == np.round(item)).all()]
    return whole[0] if len(rows) == count and len(whole) == 1 else None
