"""The time of each operator of retinasdk in a network, by the profiler of ONNX Runtime."""

from __future__ import annotations

import json
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from cpu_turns import REST_S

from retinasdk import Detector
from retinasdk.pipeline.stage_timing import collect

_CONVOLUTION = "blocked"
_SUFFIX = "_kernel_time"
_NCHWC = "_nchwc"
_JOINED = ("Relu", "Clip", "Add")  # To the convolution before.


@dataclass(frozen=True)
class NodeTimes:
    """Medians of several calls, each after a rest and a call to warm up.

    Attributes:
        graph: The graph that ran, with a name for each node.
        nodes: Milliseconds by the node's name.
        network: Milliseconds of the call of the network.
    """

    graph: onnx.GraphProto
    nodes: dict[str, float]
    network: float

    def of_operators(self) -> Iterator[tuple[onnx.NodeProto, float]]:
        """The nodes of the graph that ran, with their times. One that ONNX Runtime joined to another has no time."""
        times = self._by_node()
        for node in self.graph.node:
            if node.name in times:
                yield node, times[node.name]

    def of_others(self) -> float:
        """The sum of the times of nodes that ONNX Runtime added to the graph, such as conversions of layout."""
        return sum(self.nodes.values()) - sum(self._by_node().values())

    def _by_node(self) -> dict[str, float]:
        """ONNX Runtime names a convolution in its own layout after the last tensor that it makes."""
        makers = {name: node for node in self.graph.node for name in node.output}
        found: dict[str, float] = defaultdict(float)
        for name, milliseconds in self.nodes.items():
            node = makers.get(name.removesuffix(_NCHWC))
            while node is not None and node.op_type in _JOINED:
                node = next((makers[one] for one in node.input if one in makers), None)
            if node is not None:
                found[node.name] += milliseconds
        known = {node.name for node in self.graph.node}
        return found | {name: value for name, value in self.nodes.items() if name in known}


@dataclass
class _Session:
    content: bytes | str
    session: Any


def profile(path: Path, threads: int, rounds: int) -> NodeTimes:
    """Measures the nodes of the rewritten network.

    Args:
        path: Of the model. photo.npy and input.npy are beside it.
        threads: Of each call.
        rounds: Number of measured calls.

    Raises:
        ValueError: If retinasdk has no convolutions for this model or processor.
    """
    tensor = np.load(path.parent / "input.npy")
    with _profiled(path.parent) as sessions:
        detector = Detector(path, device="cpu", threads=threads, convolution=_CONVOLUTION)
    used = sessions[-1]
    if isinstance(used.content, str):
        raise ValueError(f"{path}: retinasdk has no convolutions for it here: {detector.convolution}")
    for _ in range(rounds):
        time.sleep(REST_S)
        detector._backend.infer(tensor)
        detector._backend.infer(tensor)
    events = json.loads(Path(used.session.end_profiling()).read_text(encoding="utf-8"))
    runs = _runs(events)[1::2]
    nodes = {name: statistics.median(run.get(name, 0.0) for _, run in runs) for name in runs[0][1]}
    graph = onnx.load_from_string(used.content).graph
    return NodeTimes(graph, nodes, statistics.median(duration for duration, _ in runs))


def stages(path: Path, threads: int, rounds: int) -> dict[str, float]:
    """Milliseconds of the stages of a whole call, and of the "call", without a profiler."""
    photo = np.load(path.parent / "photo.npy")
    detector = Detector(path, device="cpu", threads=threads, convolution=_CONVOLUTION)
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        time.sleep(REST_S)
        detector(photo)
        with collect() as seconds:
            start = time.perf_counter()
            detector(photo)
            found["call"].append(time.perf_counter() - start)
        for name, value in seconds.items():
            found[name].append(value)
    return {name: 1000 * statistics.median(values) for name, values in found.items()}


@contextmanager
def _profiled(folder: Path) -> Iterator[list[_Session]]:
    """Sessions that are opened inside the block are profiled, and all their nodes have names."""
    opened: list[_Session] = []
    real = onnxruntime.InferenceSession

    def open_session(content: bytes | str, options: Any = None, **others: Any) -> Any:
        options = options or onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / f"profile{len(opened)}")
        if not isinstance(content, str):
            model = onnx.load_from_string(bytes(content))
            for index, node in enumerate(model.graph.node):
                node.name = f"n{index}"
            content = model.SerializeToString()
        session = real(content, options, **others)
        opened.append(_Session(content, session))
        return session

    onnxruntime.InferenceSession = open_session
    try:
        yield opened
    finally:
        onnxruntime.InferenceSession = real


def _runs(events: list[dict[str, Any]]) -> list[tuple[float, dict[str, float]]]:
    """(milliseconds, milliseconds by the node's name) of each call."""
    calls = [event for event in events if event["name"] == "model_run"]
    runs: list[tuple[float, dict[str, float]]] = []
    nodes = [event for event in events if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX)]
    for call in calls:
        inside = [event for event in nodes if call["ts"] <= event["ts"] < call["ts"] + call["dur"]]
        runs.append((call["dur"] / 1e3, {event["name"][: -len(_SUFFIX)]: event["dur"] / 1e3 for event in inside}))
    return runs
