"""Finds the convolutions of a head that one operator can do for all levels of the feature pyramid.

Note: Why all levels at once

    A head uses the same weights at each level, and the small levels have few pixels. One operator for each level would
    read all weights again for them, and its threads would wait for each other as often as there are levels.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from graphlib import CycleError, TopologicalSorter

from retinasdk.backends.blocked_steps import Step, address
from retinasdk.backends.graph_facts import GraphFacts

_MOST = 8  # Of the operator WinogradLevels.
_MOST_GROUPS = 64  # Of any RetinaNet. The order of the graph is checked for each.


def find_levels(facts: GraphFacts, steps: Iterable[Step], wanted: Collection[str]) -> list[tuple[Step, ...]]:
    """Returns groups of convolutions that can run at the same time, since none reads what another one makes.

    Args:
        facts: What is known of the graph.
        steps: All operators of the graph, in its order.
        wanted: Names of the tensors that are made as blocked images. All outputs of a group have the same layout.

    Returns:
        Groups of at least two 3x3 convolutions with the same weights, bias and limits, in the order of the graph.
    """
    steps = list(steps)
    needed = _needed(facts)
    alike: dict[tuple[object, ...], list[Step]] = {}
    for step in steps:
        if step.is_plain_3x3 and not step.added and step.output in needed:
            lent = [(name, address(values)) for name, values in sorted(step.weights.items())]
            key = (*lent, *sorted(step.attributes.items()), step.output in wanted)
            alike.setdefault(key, []).append(step)
    order = _Order(facts, steps)
    groups = [part for group in alike.values() for part in _parts(group)][:_MOST_GROUPS]
    return [group for group in groups if order.join(group)]


def _needed(facts: GraphFacts) -> set[str]:
    """Returns the tensors from which the outputs are made. An operator would make the others as well."""
    needed = set(facts.outputs)
    for node in reversed(facts.nodes.values()):
        if not needed.isdisjoint(node.outputs):
            needed.update(node.inputs)
    return needed


def _parts(group: list[Step]) -> Iterator[tuple[Step, ...]]:
    for first in range(0, len(group), _MOST):
        part = tuple(group[first : first + _MOST])
        if len(part) > 1:
            yield part


class _Order:
    """What must run before what, if groups of convolutions become one operator each."""

    def __init__(self, facts: GraphFacts, steps: Iterable[Step]) -> None:
        # An operator reads less than the nodes in whose place it stands, whose own order does not matter.
        reads = {index: list(node.inputs) for index, node in facts.nodes.items()}
        owners = {index: index for index in reads}
        for step in steps:
            owners |= dict.fromkeys(step.nodes, step.place)
            reads |= {index: [] for index in step.nodes}
            reads[step.place] = [step.input, step.added]
        makers = {name: owners[index] for name, index in facts.makers.items()}
        self._sources = {index: {makers[name] for name in names if name in makers} for index, names in reads.items()}

    def join(self, group: tuple[Step, ...]) -> bool:
        """Makes a group one operator, and returns True. Returns False if it would have to run before itself."""
        joined = dict.fromkeys((step.place for step in group), group[-1].place)
        sources: dict[int, set[int]] = {}
        for index, found in self._sources.items():
            sources.setdefault(joined.get(index, index), set()).update(joined.get(source, source) for source in found)
        try:
            TopologicalSorter(sources).prepare()
        except CycleError:
            return False
        self._sources = sources
        return True
