"""Finds the last layers of an ONNX graph: the nodes that write its outputs."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def layers_before(graph: Any, outputs: Collection[str]) -> list[Any]:
    """Returns the nodes between each output and the weighted layers nearest to it, those layers included.

    Args:
        graph: The `onnx.GraphProto`.
        outputs: Names of the outputs to start from.

    Returns:
        The nodes. On every path back from an output, the last one is the first that is in `WEIGHTED`.
    """
    producer = {name: node for node in graph.node for name in node.output}
    found: dict[str, Any] = {}
    pending = list(outputs)
    while pending:
        node = producer.get(pending.pop())
        if node is None or node.output[0] in found:
            continue
        found[node.output[0]] = node
        if node.op_type not in WEIGHTED:
            pending += node.input
    return list(found.values())
