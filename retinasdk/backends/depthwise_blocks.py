"""Joins the convolutions of a depthwise block, which one operator does: see `csrc/convolution/depthwise_block.h`."""

from __future__ import annotations

from collections.abc import Sequence

from retinasdk.backends.blocked_steps import CONV, DEPTHWISE, Step, window_attributes
from retinasdk.backends.graph_facts import GraphFacts


def with_depthwise_blocks(facts: GraphFacts, found: Sequence[Step]) -> list[Step]:
    """Joins depthwise convolutions with the 1x1 convolutions around them, or with the first layer before them.

    Args:
        facts: What is known of the graph.
        found: The operators of the graph, in its order.

    Returns:
        The operators, in the order of the graph.
    """
    steps = {step.place: step for step in found}
    owners = {index: step for step in found for index in step.nodes}
    for step in found:
        if step.kind != DEPTHWISE:
            continue
        joined = step
        expand = owners.get(facts.makers.get(step.input, -1))
        if expand is not None and expand.kind == CONV and not expand.added and _is_between(facts, step.input):
            is_first = expand.reads_planar and facts.makers.get(expand.input, -1) not in owners
            if expand.is_pointwise or is_first:
                joined = _joined(expand, joined, "expand", is_first=is_first)
        project = owners.get(facts.readers.get(step.output, [-1])[0])
        is_next = project is not None and project.is_pointwise and project.input == step.output
        if project is not None and is_next and _is_between(facts, step.output):
            joined = _joined(project, joined, "project")
        for index in joined.nodes:
            steps.pop(index, None)
            owners[index] = joined
        steps[joined.place] = joined
    return [steps[place] for place in sorted(steps)]


def _is_between(facts: GraphFacts, name: str) -> bool:
    """Returns whether a tensor only leads from one node to another."""
    return len(facts.readers.get(name, [])) == 1 and name not in facts.outputs


def _joined(neighbor: Step, depthwise: Step, prefix: str, *, is_first: bool = False) -> Step:
    """Returns a block with a neighbor of its depthwise convolution. is_first: the neighbor reads the photo."""
    limits = {f"{prefix}_{name}": neighbor.attributes[name] for name in ("low", "high")}
    attributes = {**depthwise.attributes, **limits}
    if is_first and neighbor.window is not None:
        attributes["planar_input"] = 1
        attributes |= {f"{prefix}_{name}": value for name, value in window_attributes(neighbor.window).items()}
    if neighbor.added:
        attributes["addition"] = neighbor.attributes["addition"]
    return Step(
        DEPTHWISE,
        tuple(sorted(neighbor.nodes + depthwise.nodes)),
        neighbor.input if prefix == "expand" else depthwise.input,
        neighbor.output if prefix == "project" else depthwise.output,
        added=neighbor.added,
        window=depthwise.window,
        attributes=attributes,
        weights={**depthwise.weights, **{f"{prefix}_{name}": values for name, values in neighbor.weights.items()}},
    )
