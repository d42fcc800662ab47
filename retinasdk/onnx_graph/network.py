"""A float32 network, made ready to be quantized: its layers, and which tensors have codes when some of them are."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retinasdk._util.lazy import require
from retinasdk.errors import ModelError
from retinasdk.onnx_graph.calibration import check_finite
from retinasdk.onnx_graph.layers import layers_before

if TYPE_CHECKING:
    import numpy.typing as npt

_PURPOSE = "quantizing a model"
_LEAST_OPSET = 13  # from here on DequantizeLinear has scales by channel
_ACTIVATIONS = ("Relu", "Clip")
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "ConvInteger")


@dataclass(frozen=True)
class Range:
    """The smallest and the largest number of a tensor, on the images of the calibration."""

    low: float
    high: float


def prepared(model: Any) -> Any:
    """A copy with batch norms folded and constants in their places, as ONNX Runtime's basic optimisations leave it.

    Raises `ModelError` for what is quantized already, for weights that are not finite and for opsets that are too old.
    """
    onnx, runtime = require("onnx", _PURPOSE), require("onnxruntime", _PURPOSE)
    _check_float(onnx, model)
    check_finite(model)
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if opset < _LEAST_OPSET:
        try:
            model = onnx.version_converter.convert_version(model, _LEAST_OPSET)
        except Exception as error:  # an operator without a converter, of many types
            raise ModelError(
                f"wanted opset {_LEAST_OPSET} or newer to quantize, got {opset}, which cannot be converted "
                f"({' '.join(str(error).split())[:200]}); export the network with a newer opset"
            ) from error
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prepared.onnx"
        options.optimized_model_filepath = str(path)
        runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        simple = onnx.load(path)
    used = {node.domain for node in simple.graph.node}
    opsets = [item for item in simple.opset_import if item.domain in used]
    del simple.opset_import[:]
    simple.opset_import.extend(opsets)
    return simple


def _check_float(onnx: Any, model: Any) -> None:
    found = [node for node in model.graph.node if node.op_type in _QUANTIZED]
    if found:
        raise ModelError(
            f"wanted a network in float32, got one that is quantized already ({found[0].op_type} "
            f"{found[0].name or found[0].output[0]!r}); give the file that it was made of"
        )
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT16:
            raise ModelError(
                f"wanted a network in float32, got float16 weights ({tensor.name!r}); export it in float32"
            )


class Network:
    """A prepared float32 network, seen as layers: each a set of weights with all convolutions that share it.

    layers: by the name of the weights, in the order of the graph. last: those of them that write the outputs.
    """

    def __init__(self, model: Any) -> None:
        self._onnx = require("onnx", _PURPOSE)
        self.model = model
        graph = model.graph
        self.constants = {item.name: item for item in graph.initializer}
        self.input = next(value.name for value in graph.input if value.name not in self.constants)
        self.outputs = {value.name for value in graph.output}
        self.layers: dict[str, list[Any]] = {}
        for node in graph.node:
            if node.op_type == "Conv" and all(name in self.constants for name in node.input[1:]):
                self.layers.setdefault(node.input[1], []).append(node)
        before = layers_before(graph, self.outputs)
        self.last = self.layers.keys() & {node.input[1] for node in before if len(node.input) > 1}
        consumers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                consumers.setdefault(name, []).append(node)
        # Of each tensor that nothing but an activation function reads: what that makes of it.
        self._activated = {
            name: users[0].output[0]
            for name, users in consumers.items()
            if len(users) == 1 and users[0].op_type in _ACTIVATIONS and users[0].input[0] == name
            if name not in self.outputs
        }

    def values(self, name: str) -> npt.NDArray[Any]:
        """The numbers of a constant."""
        array: npt.NDArray[Any] = self._onnx.numpy_helper.to_array(self.constants[name])
        return array

    def tensors(self, layers: Collection[str]) -> list[str]:
        """Tensors that have codes when these layers are quantized, in the order of the graph."""
        written = self.written_in_codes(layers)
        read = {node.input[0] for name in layers for node in self.layers[name]}
        order = [self.input, *(name for node in self.model.graph.node for name in node.output)]
        return [name for name in order if name in written or name in read]

    def written_in_codes(self, layers: Collection[str]) -> dict[str, str]:
        """What 8-bit operators write when these layers are quantized: {tensor: the tensor whose codes it has}."""
        quantized = {id(node) for name in layers for node in self.layers[name]}
        written: dict[str, str] = {}
        for node in self.model.graph.node:
            output = self._activated.get(node.output[0], node.output[0])
            if id(node) in quantized or (node.op_type == "Add" and all(name in written for name in node.input)):
                written[output] = output
            elif self._moves(node) and node.input[0] in written:
                written[node.output[0]] = written[node.input[0]]
        return written

    def crossings(self, layers: Collection[str]) -> set[str]:
        """Tensors that have to be brought into codes, or back, when these layers are quantized."""
        written = self.written_in_codes(layers)
        quantized = {id(node) for name in layers for node in self.layers[name]}
        absorbed = set(self._activated.values()) & written.keys()  # activation functions that are no step of their own
        crossed = self.outputs & written.keys()
        for node in self.model.graph.node:
            if node.output[0] in absorbed or node.op_type == "Shape":
                continue
            output = self._activated.get(node.output[0], node.output[0])
            in_codes = id(node) in quantized or (node.op_type != "Conv" and output in written)
            numbers = node.input[:1] if self._moves(node) else node.input
            crossed |= {name for name in numbers if (name in written) != in_codes}
        return crossed - self.constants.keys() - {""}

    def _moves(self, node: Any) -> bool:
        """Whether what it writes are numbers that it reads: then their codes serve."""
        if node.op_type == "Resize":
            modes = [item.s for item in node.attribute if item.name == "mode"]
            return modes in ([], [b"nearest"])
        return node.op_type == "MaxPool" and len(node.output) == 1
