"""Which nodes of an ONNX graph write its outputs."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def layers_before(graph: Any, outputs: Collection[str]) -> list[Any]:
    """Nodes from each of the outputs back to the first weighted one on every way, that included."""
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
