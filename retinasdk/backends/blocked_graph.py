"""Replaces convolutions, and what lies between them, by the operators of retinasdk while a model is loaded.

The operators work on blocked images: see `csrc/convolution/blocked.h`. Images are rearranged where an operator of ONNX
needs them planar, and at the outputs of the network.

Note: What is not rewritten

    A rewritten model is given to ONNX Runtime as bytes, and ONNX Runtime then looks for external data in the current
    folder: a file of the same name there would be used in place of the model's own. So a model with external data,
    wherever in it, is not rewritten. It is opened by its path, and ONNX Runtime finds the data in the model's folder.

    Neither are models with more fields than any RetinaNet has: everything here is linear in the number of fields.
    Models with subgraphs are left alone, because a subgraph may read any tensor; and models in 8 bits, which
    `quantized_graph` rewrites.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path

from retinasdk.backends.blocked_steps import DEPTHWISE, WINOGRAD, Step, find_steps, window_attributes
from retinasdk.backends.depthwise_blocks import with_depthwise_blocks
from retinasdk.backends.graph_edit import GraphEdit, Rewritten, read
from retinasdk.backends.graph_facts import GraphFacts, known_size
from retinasdk.backends.pyramid_levels import find_levels
from retinasdk.backends.winograd_choice import with_winograd

TO_BLOCKED, FROM_BLOCKED, LEVELS = "ToBlocked", "FromBlocked", "WinogradLevels"

_EIGHT_BITS = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "DynamicQuantizeLinear")
# Rearranging a value takes as long as this many multiplications, about. Regions that do fewer are left alone.
_MIN_MULTIPLICATIONS = 64
_USUAL_SIZE = 640  # Of an image, to compare the work of convolutions if the size is not known.


def library() -> Path | None:
    """Returns the path of the shared library with the operators, or None if it was not built."""
    folder = Path(__file__).parent.parent
    return next((path for name in ("_ort_ops.so", "_ort_ops.dll") if (path := folder / name).is_file()), None)


def rewritten(path: Path, *, input_size: tuple[int, int] | None = None, threads: int = 0) -> Rewritten | None:
    """Replaces the convolutions of a model file.

    Args:
        path: An ONNX file. It is not changed.
        input_size: Height and width to plan for. The model works at any size, but is fastest at about this one.
        threads: Of the session, among which work is divided. 0: unknown. They do not change the results.

    Returns:
        The new model, or None if nothing is gained, or the model has external data, subgraphs or 8-bit operators.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not an ONNX file, or has more fields than any RetinaNet.
    """
    model = read(path)
    if model is None or any(node.type in _EIGHT_BITS for node in model.facts.nodes.values()):
        return None
    plan = Plan(model.facts, input_size)
    if not plan.steps:
        return None
    edit = BlockedEdit(GraphEdit(model), plan, threads)
    absorbed = {index for step in plan.steps.values() for index in step.nodes}
    for index in model.facts.nodes:
        if index in plan.steps:
            edit.write(plan.steps[index])
        elif index not in absorbed:
            edit.keep(index)
    return edit.graph.result()


class Plan:
    """Decides which nodes are replaced, and which tensors are blocked.

    Attributes:
        facts: What is known of the graph.
        steps: The operators by their place in the graph.
        wanted: Names of the tensors that are read as blocked images.
        blocked: Names of the tensors that are made as blocked images.
        levels: By the place of each step of a group, the group: convolutions that one operator does.
    """

    def __init__(
        self,
        facts: GraphFacts,
        input_size: tuple[int, int] | None,
        *,
        taken: Collection[int] = (),
        readable: Collection[str] = (),
    ) -> None:
        """Plans the operators of a graph.

        Args:
            facts: What is known of the graph.
            input_size: Height and width of the usual network input, if known.
            taken: Places of nodes that other operators of retinasdk do.
            readable: Tensors that those read, as blocked images if they are.
        """
        self.facts = facts
        self._taken, self._readable = frozenset(taken), frozenset(readable)
        steps = with_depthwise_blocks(facts, find_steps(facts))
        self.steps = {step.place: step for step in steps if self._taken.isdisjoint(step.nodes)}
        self._roots = self._known_roots(input_size)
        self._lay_out()
        self._leave_what_gains_nothing()
        self._lay_out()
        groups = find_levels(facts, self.steps.values(), self.wanted)
        self.steps = {step.place: step for step in with_winograd(list(self.steps.values()), self._size, groups)}
        # Those that gain nothing by Winograd's algorithm stay by themselves.
        kept = [tuple(self.steps[step.place] for step in group) for group in groups]
        self.levels = {step.place: group for group in kept if group[0].kind == WINOGRAD for step in group}

    def reads_planar(self, step: Step) -> bool:
        """Returns whether a step reads its input as a planar image."""
        return step.reads_planar and step.input not in self.blocked

    def blocked_inputs(self, step: Step) -> list[str]:
        """Returns the tensors that a step reads as blocked images."""
        return [name for name in ("" if self.reads_planar(step) else step.input, step.added) if name]

    def needs_planar(self, name: str) -> bool:
        """Returns whether an output of the graph or a node of ONNX needs a planar image."""
        if name in self.facts.outputs:
            return True
        readers = self.facts.readers.get(name, [])
        return any(reader not in self._owners and reader not in self._taken for reader in readers)

    def _known_roots(self, input_size: tuple[int, int] | None) -> dict[tuple[str, int], int]:
        names = {name for name in self.facts.readers if name not in self.facts.makers} if input_size else ()
        return {(name, axis + 2): side for name in names for axis, side in enumerate(input_size or ())}

    def _size(self, step: Step) -> tuple[int, int] | None:
        """Returns height and width of the output of a step, if they are known."""
        shape = self.facts.shape(step.output)
        if shape is None:
            return None
        height, width = (known_size(side, self._roots) for side in (shape.height, shape.width))
        return None if height is None or width is None else (height, width)

    def _lay_out(self) -> None:
        """Decides which tensors are blocked. An elementwise node is kept where its neighbors are."""
        steps = self.steps.values()
        self.blocked: set[str] = set()
        for step in steps:
            if step.kind or step.input in self.blocked:
                self.blocked.add(step.output)
        self.wanted: set[str] = set(self._readable & self.blocked)
        for step in reversed(steps):
            if step.kind or step.output in self.wanted:
                self.wanted.update(self.blocked_inputs(step))
        self.steps = {
            place: step
            for place, step in self.steps.items()
            if step.kind or (step.input in self.blocked and step.output in self.wanted)
        }
        self._owners = {index: step for step in self.steps.values() for index in step.nodes}
        made = {step.output for step in self.steps.values()}
        self.blocked = {name for name in self.blocked if name in made}
        read = {name for step in self.steps.values() for name in self.blocked_inputs(step)} | self._readable
        self.wanted = {name for name in self.wanted if name in read}

    def _leave_what_gains_nothing(self) -> None:
        """Leaves regions alone in which rearranging images takes longer than what is saved."""
        regions = _Regions()
        for step in self.steps.values():
            for name in self.blocked_inputs(step):
                regions.join(step.output, name)
        work: Counter[str] = Counter()
        for step in self.steps.values():
            work[regions.of(step.output)] += step.multiplications * self._pixels(step.output)
        for name in self.wanted - self.blocked:
            work[regions.of(name)] -= _MIN_MULTIPLICATIONS * self._values(name)
        for step in self.steps.values():
            name = step.output
            if self.needs_planar(name) and (name in self.wanted or not step.is_convolution):
                work[regions.of(name)] -= _MIN_MULTIPLICATIONS * self._values(name)
        self.steps = {place: step for place, step in self.steps.items() if work[regions.of(step.output)] > 0}

    def _pixels(self, name: str) -> int:
        shape = self.facts.shape(name)
        if shape is None:
            return 1
        sides = (known_size(side, self._roots) for side in (shape.height, shape.width))
        steps = (side if isinstance(side, int) else side.step for side in (shape.height, shape.width))
        pixels = 1
        for side, step in zip(sides, steps, strict=True):
            pixels *= max(1, _USUAL_SIZE // step) if side is None else side
        return pixels

    def _values(self, name: str) -> int:
        shape = self.facts.shape(name)
        channels = shape.channels if shape is not None and isinstance(shape.channels, int) else 1
        return channels * self._pixels(name)


class _Regions:
    """Groups of tensors that are connected by operators (a union-find structure)."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}

    def of(self, name: str) -> str:
        """Returns the tensor that stands for the group of a tensor."""
        while (parent := self._parents.get(name, name)) != name:
            self._parents[name] = self._parents.get(parent, parent)
            name = parent
        return name

    def join(self, one: str, other: str) -> None:
        self._parents[self.of(one)] = self.of(other)


class BlockedEdit:
    """Writes the operators of a plan.

    Attributes:
        graph: The new graph.
    """

    def __init__(self, graph: GraphEdit, plan: Plan, threads: int = 0) -> None:
        """Takes the graph to write to, and how many threads will run it (0: unknown)."""
        self.graph = graph
        self._threads = threads
        self._plan = plan
        self._blocked_names: dict[str, str] = {}

    def keep(self, index: int) -> None:
        """Writes a node of ONNX without changes."""
        node = self._plan.facts.nodes[index]
        self.graph.keep(node.inputs, node.outputs, node.raw, node.type)

    def write(self, step: Step) -> None:
        """Writes the operator of a step. That of a group of steps is written in the place of its last one."""
        group = self._plan.levels.get(step.place)
        if group is None:
            self._write(step)
        elif step is group[-1]:
            self._write_levels(group)

    def _write(self, step: Step) -> None:
        plan = self._plan
        planar = [step.input] if plan.reads_planar(step) else []
        inputs = planar + [self.as_blocked(name) for name in plan.blocked_inputs(step)]
        output = self._output(step)
        if not step.kind:
            node = plan.facts.nodes[step.place]
            inputs += node.inputs[1:]
            self.graph.keep(inputs, [output], node.with_tensors(inputs, [output]), node.type)
        else:
            self._add(step.kind, inputs, [output], step, self._attributes(step))
        self._write_planar(step)

    def _write_levels(self, steps: tuple[Step, ...]) -> None:
        inputs, outputs = [self.as_blocked(step.input) for step in steps], [self._output(step) for step in steps]
        attributes = self._attributes(steps[0])
        del attributes["addition"]
        self._add(LEVELS, inputs, outputs, steps[0], {**attributes, "levels": len(steps)})
        for step in steps:
            self._write_planar(step)

    def _add(
        self, kind: str, inputs: list[str], outputs: list[str], step: Step, attributes: dict[str, int | float]
    ) -> None:
        lent = self.graph.lend(step.weights, step.output)
        self.graph.add(kind, inputs, outputs, attributes, lent, name=self._plan.facts.nodes[step.nodes[0]].name)

    def _is_planar(self, step: Step) -> bool:
        return step.is_convolution and step.output not in self._plan.wanted

    def _output(self, step: Step) -> str:
        return step.output if self._is_planar(step) else self._blocked_name(step.output)

    def _write_planar(self, step: Step) -> None:
        """Rearranges the output of a step if it is needed as a planar image, too."""
        plan, name = self._plan, step.output
        if not self._is_planar(step) and plan.needs_planar(name):
            shape = plan.facts.shape(name)
            channels = shape.channels if shape is not None and isinstance(shape.channels, int) else 0
            self.graph.add(FROM_BLOCKED, [self._blocked_name(name)], [name], {"channels": channels})

    def _attributes(self, step: Step) -> dict[str, int | float]:
        attributes = dict(step.attributes)
        if step.weights:  # The operators have no default values.
            attributes = {"addition": 0, **attributes}
            if step.kind == DEPTHWISE:
                attributes = {"planar_input": 0, "threads": self._threads, **attributes}
            attributes |= {f"{name[:-7]}bias": 0 for name in step.weights if name.endswith("weights")}
        if step.window is not None and "patch" not in attributes:
            attributes |= window_attributes(step.window)
            if not step.weights:
                attributes |= {"kernel_y": step.window.kernel[0], "kernel_x": step.window.kernel[1]}
        if step.is_convolution:
            attributes["planar_output"] = int(self._is_planar(step))
            if "patch" not in attributes:
                attributes["planar_input"] = int(self._plan.reads_planar(step))
        return attributes

    def as_blocked(self, name: str) -> str:
        """Returns the name of a blocked image, which is made from the planar one if it does not exist."""
        known = name in self._blocked_names or name in self._plan.blocked  # The operator may be written later.
        blocked = self._blocked_name(name)
        if known:
            return blocked
        self.graph.add(TO_BLOCKED, [name], [blocked], {})
        return blocked

    def _blocked_name(self, name: str) -> str:
        if name not in self._blocked_names:
            self._blocked_names[name] = self.graph.new_name(name)
        return self._blocked_names[name]
