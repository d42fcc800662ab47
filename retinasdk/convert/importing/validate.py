"""Checks that the network between its input and its heads can run: standard operators and finite weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from retinasdk._util.lazy import require
from retinasdk.convert.importing.graph import GraphView
from retinasdk.convert.importing.heads import HeadPair
from retinasdk.convert.importing.inputs import NetworkInput
from retinasdk.errors import ModelError


def validate_network(view: GraphView, network: NetworkInput, heads: HeadPair) -> None:
    """Checks the operators and the weights of the part of the graph that the import keeps.

    Args:
        view: The graph of the other framework.
        network: Where the network begins.
        heads: Where the network ends.

    Raises:
        ModelError: An operator is not part of the ONNX standard, is control flow, or a weight is empty, NaN or
            infinite.
    """
    kept = sorted(view.ancestors(heads.tensor_names, stop={network.tensor}))
    for index in kept:
        _check_operator(view, index)
    for index in kept:
        is_convolution = view.nodes[index].op_type in ("Conv", "ConvTranspose")
        for position, name in enumerate(view.inputs_of(index)):
            _check_values(view, name, is_weight=is_convolution and position > 0)


def _check_operator(view: GraphView, index: int) -> None:
    onnx = require("onnx", "importing ONNX models")
    node = view.nodes[index]
    where = f"node {view.node_label(index)!r}"
    if node.domain not in ("", "ai.onnx"):
        raise ModelError(
            f"{where} uses the custom operator {node.domain}.{node.op_type}; only standard ONNX operators are "
            "supported between the image and the heads. Export the network again without custom operators, and do not "
            "import a file that a runtime has optimized"
        )
    if not onnx.defs.has(node.op_type, view.opset):
        raise ModelError(
            f"{where} uses the operator {node.op_type}, which does not exist in ONNX opset {view.opset}; only standard "
            "ONNX operators are supported between the image and the heads. Export the network again"
        )
    if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
        raise ModelError(
            f"{where} is control flow ({node.op_type}), which is not supported between the image and the heads. Export "
            "the network again without branches and loops, for example by tracing instead of scripting"
        )


def _check_values(view: GraphView, name: str, *, is_weight: bool) -> None:
    values: Any = view.constant(name)
    if values is None or values.dtype.kind != "f":
        return
    if values.size == 0 and is_weight:
        raise ModelError(f"the weights {name!r} are empty (shape {values.shape}). Export the network again")
    # A constant that is no weight may be infinite: it can be the bound of a Clip.
    broken = ~np.isfinite(values) if is_weight else np.isnan(values)
    if broken.any():
        raise ModelError(
            f"the weights {name!r} are not all finite: {int(broken.sum())} of {values.size} values are NaN or "
            "infinite. The training has probably diverged; export an earlier checkpoint"
        )
