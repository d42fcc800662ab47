"""Random uses of the operators of retinasdk, each with the same graph of ONNX's operators.

`python operator_cases.py results.npz` writes the results of this process, in which the environment chooses the kernels.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from retinasdk.backends import blocked_graph
from retinasdk.backends.lent_weights import lent

Array = npt.NDArray[np.float32]

INFINITY = float("inf")
POINT = {"stride_y": 1, "stride_x": 1, "top": 0, "left": 0, "bottom": 0, "right": 0}
AROUND = {**POINT, "top": 1, "left": 1, "bottom": 1, "right": 1}
# The channels that fill a blocked image up must stay 0.
_LIMITS = [(-INFINITY, INFINITY), (0.0, INFINITY), (0.0, 6.0), (-1.5, 2.0)]


def operators() -> Path:
    found = blocked_graph.library()
    assert found is not None, "retinasdk was built without its operators"
    return found


class Graph:
    """A graph that is built node by node. The last tensor is its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}

    def constant(self, values: npt.ArrayLike) -> str:
        name = f"constant{len(self.constants)}"
        self.constants[name] = np.asarray(values)
        return name

    def add(self, kind: str, inputs: list[str], **attributes: object) -> str:
        """Adds a node, and returns the name of its output."""
        output = f"tensor{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def session(self, inputs: list[str], *, threads: int = 2) -> onnxruntime.InferenceSession:
        graph = helper.make_graph(
            self.nodes,
            "test",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inputs],
            [helper.make_tensor_value_info(self.nodes[-1].output[0], TensorProto.FLOAT, None)],
            [numpy_helper.from_array(values, name) for name, values in self.constants.items()],
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("retinasdk", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        options.register_custom_ops_library(str(operators()))
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(self, feeds: dict[str, Array]) -> Array:
        found: Array = self.session(list(feeds)).run(None, feeds)[0]
        return found


def blocked(planar: Array) -> Array:
    """Rearranges (N, C, H, W) to (N, ceil(C / 16), H, W, 16)."""
    batch, channels, height, width = planar.shape
    padded = np.pad(planar, ((0, 0), (0, -channels % 16), (0, 0), (0, 0)))
    blocks = padded.reshape(batch, (channels + 15) // 16, 16, height, width)
    return np.ascontiguousarray(blocks.transpose(0, 1, 3, 4, 2))


def planar(image: Array, channels: int) -> Array:
    """Rearranges (N, blocks, H, W, 16) to (N, channels, H, W). The other channels must be 0."""
    batch, blocks, height, width, _ = image.shape
    whole = image.transpose(0, 1, 4, 2, 3).reshape(batch, blocks * 16, height, width)
    assert not whole[:, channels:].any()
    return whole[:, :channels]


def enlarged(image: Array, height: int, width: int) -> Array:
    """Enlarges (N, C, H, W) by the nearest neighbor, rounded down."""
    rows = np.arange(height) * image.shape[2] // height
    return image[:, :, rows][:, :, :, np.arange(width) * image.shape[3] // width]


@dataclass
class Problem:
    """One operator with its input, and the graph of ONNX's operators that does the same.

    Attributes:
        kind: Name of the operator.
        feeds: Its inputs: "x", and "z" if something is added.
        tensors: The lent tensors, by attribute.
        attributes: Its other attributes.
        reference: The same, for planar images.
        reference_feeds: The inputs of the reference.
        planar_output: Whether the output is planar.
    """

    kind: str
    feeds: dict[str, Array] = field(default_factory=dict)
    tensors: dict[str, Array] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    reference: Graph = field(default_factory=Graph)
    reference_feeds: dict[str, Array] = field(default_factory=dict)
    planar_output: bool = False

    def session(self, *, threads: int = 2) -> onnxruntime.InferenceSession:
        """Opens a session for the operator. Attributes of lent tensors that are missing are 0."""
        graph = Graph()
        biases = {name[:-7] + "bias": 0 for name in self.tensors if name.endswith("weights")}
        with lent(operators(), self.tensors) as keys:
            attributes = {**biases, **keys, **self.attributes}
            graph.add(self.kind, list(self.feeds), domain="retinasdk", **attributes)
            return graph.session(list(self.feeds), threads=threads)

    def run(self, *, threads: int = 2) -> Array:
        """Runs the operator."""
        found: Array = self.session(threads=threads).run(None, self.feeds)[0]
        return found

    def expected(self) -> Array:
        """Runs the reference."""
        return self.reference.run(self.reference_feeds)


class Case:
    """Makes random problems."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def integer(self, low: int, high: int) -> int:
        return int(self._random.integers(low, high + 1))

    def flag(self) -> bool:
        return self.integer(0, 1) == 1

    def channels(self) -> int:
        return self.integer(1, 70) if self.flag() else 16 * self.integer(1, 5)

    def image(self, channels: int, least: int = 1) -> Array:
        return self.array(self.integer(1, 2), channels, self.integer(least, 24), self.integer(least, 24))

    def array(self, *shape: int) -> Array:
        return self._random.standard_normal(shape, np.float32)

    def window(self, kernel: tuple[int, int], size: tuple[int, ...]) -> dict[str, int]:
        """Returns strides, and padding that makes room for the kernel."""
        top, left = (self.integer(max(0, kernel[i] - size[i]), kernel[i] - 1) for i in (0, 1))
        bottom, right = (self.integer(0, kernel[i] - 1) for i in (0, 1))
        strides = {"stride_y": self.integer(1, 3), "stride_x": self.integer(1, 3)}
        return {**strides, "top": top, "left": left, "bottom": bottom, "right": right}

    def limit(self, problem: Problem, prefix: str = "") -> None:
        """Limits the result of the last node."""
        low, high = _LIMITS[self.integer(0, len(_LIMITS) - 1)]
        problem.attributes |= {f"{prefix}low": low, f"{prefix}high": high}
        graph = problem.reference
        graph.add(
            "Clip", [graph.nodes[-1].output[0], graph.constant(np.float32(low)), graph.constant(np.float32(high))]
        )

    def convolve(self, problem: Problem, weights: Array, window: dict[str, int], prefix: str = "") -> None:
        """Adds a convolution with weights as large as keep the spread of the image."""
        graph, group = problem.reference, weights.shape[0] if problem.kind == "DepthwiseBlock" and not prefix else 1
        weights /= np.float32(np.sqrt(weights[0].size))
        problem.tensors[f"{prefix}weights"] = weights
        inputs = [graph.nodes[-1].output[0] if graph.nodes else "x", graph.constant(weights)]
        if self.flag():
            problem.tensors[f"{prefix}bias"] = self.array(weights.shape[0])
            inputs.append(graph.constant(problem.tensors[f"{prefix}bias"]))
        sides = [window[side] for side in ("top", "left", "bottom", "right")]
        graph.add("Conv", inputs, group=group, pads=sides, strides=[window["stride_y"], window["stride_x"]])

    def add(self, problem: Problem, least: int = 0) -> None:
        """Adds an image, perhaps of another size."""
        addition = problem.attributes["addition"] = self.integer(least, 2)
        if addition == 0:
            return
        graph = problem.reference
        last = graph.nodes[-1].output[0] if graph.nodes else "x"
        size = graph.run(problem.reference_feeds).shape if graph.nodes else problem.reference_feeds["x"].shape
        sides = [self.integer(1, side) for side in size[2:]] if addition == 2 else size[2:]
        z = self.array(*size[:2], *sides)
        problem.feeds["z"] = blocked(z)
        problem.reference_feeds["z"] = enlarged(z, size[2], size[3])
        graph.add("Add", [last, "z"])


def _of(kind: str, x: Array, *, planar_input: bool = False) -> Problem:
    return Problem(kind, {"x": x if planar_input else blocked(x)}, reference_feeds={"x": x})


def _to_blocked(case: Case) -> Problem:
    problem = _of("ToBlocked", case.image(case.channels()), planar_input=True)
    problem.reference.add("Identity", ["x"])
    return problem


def _from_blocked(case: Case) -> Problem:
    channels = case.channels()
    problem = _of("FromBlocked", case.image(channels))
    problem.attributes["channels"] = channels
    problem.reference.add("Identity", ["x"])
    problem.planar_output = True
    return problem


def _blocked_conv(case: Case) -> Problem:
    inputs, outputs, is_planar = case.channels(), case.channels(), case.flag()
    kernel = (case.integer(1, 7), case.integer(1, 7)) if case.flag() else (1, 1)
    x = case.image(inputs)
    problem = _of("BlockedConv", x, planar_input=is_planar)
    window = case.window(kernel, x.shape[2:])
    case.convolve(problem, case.array(outputs, inputs, *kernel), window)
    case.add(problem)
    case.limit(problem)
    problem.planar_output = case.flag()
    layouts = {"planar_input": int(is_planar), "planar_output": int(problem.planar_output)}
    problem.attributes |= {**window, **layouts}
    return problem


def _winograd_conv(case: Case) -> Problem:
    inputs, outputs = case.channels(), case.channels()
    problem = _of("WinogradConv", case.image(inputs))
    case.convolve(problem, case.array(outputs, inputs, 3, 3), AROUND)
    case.add(problem)
    case.limit(problem)
    problem.planar_output = case.flag()
    problem.attributes |= {"patch": 6 if case.flag() else 4, "planar_output": int(problem.planar_output)}
    return problem


def _depthwise_block(case: Case) -> Problem:
    channels, kernel = case.channels(), (case.integer(1, 5), case.integer(1, 5))
    inputs, is_first = case.channels() if case.flag() else 0, case.flag()
    if is_first:  # Of a network: it reads a planar photo.
        inputs = case.integer(1, 4)
    x = case.image(inputs or channels)
    problem = _of("DepthwiseBlock", x, planar_input=is_first)
    if inputs:
        sides = (case.integer(1, 4), case.integer(1, 4)) if is_first else (1, 1)
        before = case.window(sides, x.shape[2:]) if is_first else POINT
        case.convolve(problem, case.array(channels, inputs, *sides), before, "expand_")
        case.limit(problem, "expand_")
        if is_first:
            problem.attributes |= {f"expand_{name}": value for name, value in before.items()}
    size = problem.reference.run(problem.reference_feeds).shape if inputs else x.shape
    window = case.window(kernel, size[2:])
    case.convolve(problem, case.array(channels, 1, *kernel), window)
    case.limit(problem)
    problem.attributes |= {"addition": 0, "planar_input": int(is_first), "threads": case.integer(0, 3), **window}
    if case.flag():
        case.convolve(problem, case.array(case.channels(), channels, 1, 1), POINT, "project_")
        case.add(problem)
        case.limit(problem, "project_")
    return problem


def _blocked_max_pool(case: Case) -> Problem:
    kernel = (case.integer(1, 5), case.integer(1, 5))
    x = case.image(case.channels(), least=5)
    problem = _of("BlockedMaxPool", x)
    window = case.window(kernel, x.shape[2:])
    problem.attributes = {"kernel_y": kernel[0], "kernel_x": kernel[1], **window}
    sides = [window[side] for side in ("top", "left", "bottom", "right")]
    strides = [window["stride_y"], window["stride_x"]]
    problem.reference.add("MaxPool", ["x"], kernel_shape=list(kernel), pads=sides, strides=strides)
    return problem


def _blocked_add(case: Case) -> Problem:
    x = case.image(case.channels())
    problem = _of("BlockedAdd", x)
    problem.attributes["channels"] = x.shape[1]
    case.add(problem, least=1)
    case.limit(problem)
    return problem


PROBLEMS: dict[str, Callable[[Case], Problem]] = {
    "ToBlocked": _to_blocked,
    "FromBlocked": _from_blocked,
    "BlockedConv": _blocked_conv,
    "WinogradConv": _winograd_conv,
    "DepthwiseBlock": _depthwise_block,
    "BlockedMaxPool": _blocked_max_pool,
    "BlockedAdd": _blocked_add,
}


def some_problems() -> dict[str, Problem]:
    """Returns a few problems of each operator."""
    return {f"{kind} {seed}": make(Case(seed)) for kind, make in PROBLEMS.items() for seed in range(8)}


if __name__ == "__main__":
    np.savez(sys.argv[1], **{name: problem.run() for name, problem in some_problems().items()})
