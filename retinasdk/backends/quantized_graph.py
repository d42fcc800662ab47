"""Replaces the convolutions of an 8-bit model by the operators of retinasdk while the model is loaded.

ONNX Runtime fuses a convolution with the DequantizeLinear and QuantizeLinear around it into one 8-bit operator. So do
the operators here, with the same codes, but they keep the codes in a layout of their own: see
`csrc/convolution/int8_kernels.h`. Codes are rearranged where another operator reads them.

Convolutions in float32 that read codes, such as the last of the heads, use the codes as well, and their weights are
rounded to 15 bits. What is in float32 otherwise, such as the first layers, is rewritten as in `blocked_graph`.
"""

from __future__ import annotations

from pathlib import Path

from retinasdk import _native
from retinasdk.backends.blocked_graph import BlockedEdit, Plan
from retinasdk.backends.graph_edit import GraphEdit, Rewritten, read
from retinasdk.backends.graph_facts import GraphFacts
from retinasdk.backends.quantized_steps import CONV, DEPTHWISE, FLOAT_CONV, Codes, QuantizedFinder, QuantizedStep

QUANTIZE, PLANAR_CODES = "QuantizeBlocked", "PlanarCodes"


def is_fast() -> bool:
    """Returns whether this processor has instructions for 8-bit products that the operators use."""
    return _native.int8_isa() != "plain"


def rewritten(path: Path, *, input_size: tuple[int, int] | None = None) -> Rewritten | None:
    """Replaces the convolutions of an 8-bit model file.

    Args:
        path: An ONNX file. It is not changed.
        input_size: Height and width to plan for. The model works at any size, but is fastest at about this one.

    Returns:
        The new model, or None if it has no 8-bit convolutions that can be replaced, external data, or subgraphs.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not an ONNX file, or has more fields than any RetinaNet.
    """
    model = read(path)
    if model is None:
        return None
    steps = _found(model.facts)
    if not any(step.kind in (CONV, DEPTHWISE) for step in steps.values()):
        return None
    return _Edit(GraphEdit(model), model.facts, steps, input_size).result()


def _found(facts: GraphFacts) -> dict[int, QuantizedStep]:
    """Returns the steps by their place whose inputs can be blocked codes."""
    finder = QuantizedFinder(facts)
    steps: dict[int, QuantizedStep] = {}
    made: set[str] = set()
    for index in facts.nodes:
        step = finder.step(index)
        if step is not None and all(item.name in made or finder.quantized(item.name) for item in step.inputs):
            steps[step.place] = step
            made.add(step.output)
    return steps


class _Edit:
    """Writes the nodes of the new graph."""

    def __init__(
        self,
        graph: GraphEdit,
        facts: GraphFacts,
        steps: dict[int, QuantizedStep],
        input_size: tuple[int, int] | None,
    ) -> None:
        self._graph, self._facts, self._steps = graph, facts, steps
        self._finder = QuantizedFinder(facts)
        made = {step.output for step in steps.values()}
        entering = {item.name for step in steps.values() for item in step.inputs if item.name not in made}
        sources = {name: found[0] for name in entering if (found := self._finder.quantized(name)) is not None}
        self._nodes = {index for step in steps.values() for index in step.nodes}
        self._plan = Plan(facts, input_size, taken=self._nodes, readable=sources.values())
        self._floats = BlockedEdit(graph, self._plan)
        self._sources = sources
        self._blocked_names: dict[str, str] = {}

    def result(self) -> Rewritten:
        absorbed = {index for step in self._plan.steps.values() for index in step.nodes}
        for index in self._facts.nodes:
            if index in self._steps:
                self._write(self._steps[index])
            elif index in self._plan.steps:
                self._floats.write(self._plan.steps[index])
            elif index not in absorbed and index not in self._nodes:
                self._floats.keep(index)
        return self._graph.result()

    def _write(self, step: QuantizedStep) -> None:
        inputs = [self._as_blocked(codes) for codes in step.inputs]
        lent = self._graph.lend(step.weights, step.output)
        name = self._facts.nodes[step.nodes[0]].name
        if step.kind == FLOAT_CONV:
            self._graph.add(step.kind, inputs, [step.output], step.attributes, lent, name=name)
            return
        output = self._blocked_name(step.output)
        self._graph.add(step.kind, inputs, [output], step.attributes, lent, name=name)
        shape = self._facts.shape(step.output)
        channels = shape.channels if shape is not None and isinstance(shape.channels, int) else 0
        self._graph.add(PLANAR_CODES, [output], [step.output], {"channels": channels})

    def _as_blocked(self, codes: Codes) -> str:
        """Returns the name of the blocked codes, which are made from a tensor in float32 if they do not exist."""
        if codes.name in self._blocked_names:
            return self._blocked_names[codes.name]
        source = self._sources[codes.name]
        is_blocked = source in self._plan.wanted
        read_from = self._floats.as_blocked(source) if is_blocked else source
        blocked = self._blocked_name(codes.name)
        attributes = {"scale": codes.scale, "zero": codes.zero, "planar_input": int(not is_blocked)}
        self._graph.add(QUANTIZE, [read_from], [blocked], attributes)
        return blocked

    def _blocked_name(self, name: str) -> str:
        if name not in self._blocked_names:
            self._blocked_names[name] = self._graph.new_name(name)
        return self._blocked_names[name]
