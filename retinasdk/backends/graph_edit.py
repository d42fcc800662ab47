"""Writes a model in which operators of retinasdk stand in the place of some nodes."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TypeAlias

from retinasdk._util.onnx_files import external_locations
from retinasdk._util.onnx_wire import Field, fields, length_prefix
from retinasdk.backends.graph_facts import GraphFacts
from retinasdk.backends.graph_nodes import (
    GRAPH_INITIALIZER,
    GRAPH_NODE,
    GRAPH_VALUE,
    MODEL_GRAPH,
    Floats,
    Tensor,
    node_field,
    opset_field,
    value_name,
)

DOMAIN = "retinasdk"

_MAX_BYTES = 1 << 31  # The limit of a protocol buffer.
_MAX_FIELDS = 1 << 16  # The largest RetinaNets have about 20,000.


@dataclass(frozen=True)
class Operator:
    """A node to be written. `lent` has the names of lent tensors by the attributes that get their keys."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    name: str
    attributes: dict[str, int | float] = field(default_factory=dict)
    lent: dict[str, str] = field(default_factory=dict)

    def encoded(self, keys: Mapping[str, int]) -> bytes:
        """Returns the node as a field of its graph, with the keys of the lent tensors by their names."""
        attributes = {**self.attributes, **{name: keys[tensor] for name, tensor in self.lent.items()}}
        return node_field(self.kind, self.inputs, self.outputs, attributes, name=self.name, domain=DOMAIN)


@dataclass(frozen=True)
class Rewritten:
    """A model with operators of retinasdk.

    Attributes:
        lent: The weights that the operators read, by the names that errors call them. They are not in the model.
        counts: How many operators of retinasdk it has, by kind.
        others: How many operators of ONNX are left, by kind.
    """

    lent: Mapping[str, Floats]
    counts: Counter[str]
    others: Counter[str]
    _model: tuple[bytes | memoryview, ...]
    _graph: tuple[bytes | memoryview | Operator, ...]

    def model(self, keys: Mapping[str, int]) -> bytes:
        """Returns the bytes of the model.

        Args:
            keys: The key of each lent tensor, by its name. See `lent_weights.lent`.
        """
        graph = [part.encoded(keys) if isinstance(part, Operator) else part for part in self._graph]
        size = sum(map(len, graph))
        return b"".join([*self._model, opset_field(DOMAIN, 1), length_prefix(MODEL_GRAPH, size), *graph])


@dataclass(frozen=True)
class ReadModel:
    """A model file.

    Attributes:
        others: The fields of the model beside the graph.
        parts: The fields of the graph.
        facts: What is known of the graph.
    """

    others: tuple[bytes | memoryview, ...]
    parts: list[Field]
    facts: GraphFacts


def read(path: Path) -> ReadModel | None:
    """Reads a model file that can be rewritten. None: it has external data or subgraphs, or is too large.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not an ONNX file, or has more fields than any RetinaNet.
    """
    if path.stat().st_size >= _MAX_BYTES:
        return None
    content = memoryview(path.read_bytes())
    if external_locations(content, max_fields=_MAX_FIELDS):
        return None
    model = list(fields(content))
    graphs = [part for part in model if part.number == MODEL_GRAPH]
    if len(graphs) != 1:
        raise ValueError(f"an ONNX file must have one graph, got {len(graphs)}")
    parts = list(fields(graphs[0].data))
    facts = GraphFacts(parts)
    if any(node.has_subgraph for node in facts.nodes.values()):
        return None
    return ReadModel(tuple(part.raw for part in model if part.number != MODEL_GRAPH), parts, facts)


# Inputs, outputs, what is written, and the kind of a node.
_Node: TypeAlias = tuple[Sequence[str], Sequence[str], bytes | memoryview | Operator, str]


class GraphEdit:
    """Collects the nodes of the new graph, in their order."""

    def __init__(self, model: ReadModel) -> None:
        """Takes the model to be changed."""
        self._model = model
        self._lent: dict[str, Floats] = {}
        self._lent_names: dict[tuple[int, tuple[int, ...]], str] = {}
        self._names = {*model.facts.makers, *model.facts.readers, *model.facts.outputs}
        self._nodes: list[_Node] = []

    def keep(self, inputs: Sequence[str], outputs: Sequence[str], content: bytes | memoryview, kind: str) -> None:
        """Adds a node of ONNX."""
        self._nodes.append((inputs, outputs, content, kind))

    def add(
        self,
        kind: str,
        inputs: Iterable[str],
        outputs: Iterable[str],
        attributes: Mapping[str, int | float],
        lent: dict[str, str] | None = None,
        *,
        name: str = "",
    ) -> None:
        """Adds an operator of retinasdk. If none of its outputs is needed, it is left out in the end."""
        operator = Operator(kind, tuple(inputs), tuple(outputs), name, dict(attributes), lent or {})
        self._nodes.append((operator.inputs, operator.outputs, operator, kind))

    def lend(self, weights: Mapping[str, Floats], output: str) -> dict[str, str]:
        """Returns the names of the lent tensors of an operator by their attributes. Equal tensors are lent once."""
        found = {}
        for name, values in weights.items():
            key = values.__array_interface__["data"][0], values.shape
            lent = self._lent_names.setdefault(key, f"{name} of {output}")
            self._lent.setdefault(lent, values)
            found[name] = lent
        return found

    def new_name(self, name: str) -> str:
        """Returns a name for the blocked form of a tensor that no other tensor has."""
        blocked = f"{name}/blocked"
        while blocked in self._names:
            blocked += "_"
        self._names.add(blocked)
        return blocked

    def result(self) -> Rewritten:
        """Returns the model with the nodes that are needed for its outputs."""
        facts = self._model.facts
        nodes, read = self._living()
        kept: list[bytes | memoryview | Operator] = []
        for part in self._model.parts:
            if part.number == GRAPH_INITIALIZER:
                name = Tensor.read(part.data).name
                unused = name in facts.readers and name not in read and facts.constant(name) is not None
                if unused and name not in facts.outputs:
                    continue
            elif part.number == GRAPH_NODE or (part.number == GRAPH_VALUE and value_name(part) not in read):
                continue
            kept.append(part.raw)
        ours = Counter(part.kind for *_, part, _ in nodes if isinstance(part, Operator))
        others = Counter(kind for *_, part, kind in nodes if not isinstance(part, Operator))
        written = (part for *_, part, _ in nodes)
        return Rewritten(self._lent, ours, others, self._model.others, (*written, *kept))

    def _living(self) -> tuple[list[_Node], set[str]]:
        """Returns the nodes whose outputs are read, in an order that they can run in, and the tensors read."""
        read = set(self._model.facts.outputs)
        living = []
        for node in reversed(self._in_order()):
            if not read.isdisjoint(node[1]):
                read.update(node[0])
                living.append(node)
        return living[::-1], read

    def _in_order(self) -> list[_Node]:
        """Returns the nodes so that each follows those whose outputs it reads, else in the order of their addition."""
        makers = {name: index for index, node in enumerate(self._nodes) for name in node[1]}
        sources = {
            index: {makers[name] for name in node[0] if name in makers} for index, node in enumerate(self._nodes)
        }
        sorter = TopologicalSorter(sources)
        sorter.prepare()
        ready: list[int] = []
        order = []
        while sorter.is_active():
            for index in sorter.get_ready():
                heapq.heappush(ready, index)
            order.append(heapq.heappop(ready))
            sorter.done(order[-1])
        return [self._nodes[index] for index in order]
