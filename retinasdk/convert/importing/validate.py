"""Whether what lies between the ready image and the heads can be run at all: its operators and its weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from retinasdk._util.lazy import require
from retinasdk.convert.importing.graph import GraphView
from retinasdk.convert.importing.heads import Heads
from retinasdk.convert.importing.inputs import NetworkInput
from retinasdk.errors import ModelError


def check_sound(view: GraphView, network: NetworkInput, heads: Heads) -> None:
    """Raises `ModelError` for operators that are not ONNX's own, for control flow, and for broken weights."""
    kept = sorted(view.before(heads.tensors, stop={network.tensor}))
    for index in kept:
        _check_operator(view, index)
    for index in kept:
        is_convolution = view.nodes[index].op_type in ("Conv", "ConvTranspose")
        for position, name in enumerate(view.needs(index)):
            _check_values(view, name, is_weight=is_convolution and position > 0)


def _check_operator(view: GraphView, index: int) -> None:
    onnx = require("onnx", "importing ONNX models")
    node = view.nodes[index]
    where = f"node {view.name_of(index)!r}"
    if node.domain not in ("", "ai.onnx"):
        raise ModelError(
            f"{where}: wanted ONNX's own operators between image and heads, got {node.domain}.{node.op_type}; "
            "export the network without custom operators, and not as a runtime has optimised it"
        )
    if not onnx.defs.has(node.op_type, view.opset):
        raise ModelError(
            f"{where}: wanted ONNX's own operators between image and heads, got {node.op_type}, which is none of "
            f"opset {view.opset}; export the network again"
        )
    if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
        raise ModelError(
            f"{where}: wanted a plain network between image and heads, got the control flow of {node.op_type}; "
            "export it without branches and loops"
        )


def _check_values(view: GraphView, name: str, *, is_weight: bool) -> None:
    values: Any = view.constant(name)
    if values is None or values.dtype.kind != "f":
        return
    if values.size == 0 and is_weight:
        raise ModelError(f"weights {name!r}: wanted numbers, got none (shape {values.shape}); export it again")
    broken = ~np.isfinite(values) if is_weight else np.isnan(values)  # infinity may be a bound
    if broken.any():
        raise ModelError(
            f"weights {name!r}: wanted finite numbers, but {int(broken.sum())} of {values.size} are not; "
            "training has probably diverged: take an earlier checkpoint"
        )
