"""Prepares a float32 network for quantization and describes it as layers.

A tensor "has codes" if it is stored as 8-bit integers, which a scale (and zero point) turns into numbers.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retinasdk._util.lazy import require
from retinasdk._util.temporary import temporary_folder
from retinasdk.errors import ModelError
from retinasdk.onnx_graph.calibration import check_finite
from retinasdk.onnx_graph.layers import layers_before

if TYPE_CHECKING:
    import numpy.typing as npt

_PURPOSE = "quantizing a model"
_MIN_OPSET = 13  # From here on, DequantizeLinear may have one scale for each channel.
_ACTIVATIONS = ("Relu", "Clip")
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "ConvInteger")


@dataclass(frozen=True)
class Range:
    """The range of the values of a tensor on the calibration images.

    Attributes:
        low: Smallest value.
        high: Largest value.
    """

    low: float
    high: float


def prepared(model: Any) -> Any:
    """Returns a copy of a model after ONNX Runtime's basic optimizations, which fold batch norms and constants.

    Args:
        model: The `onnx.ModelProto` in float32.

    Returns:
        The optimized `onnx.ModelProto`, with opset 13 or newer.

    Raises:
        ModelError: If the model is quantized already, has float16 weights or weights that are not finite, or cannot be
            converted to opset 13.
    """
    onnx, runtime = require("onnx", _PURPOSE), require("onnxruntime", _PURPOSE)
    _check_float(onnx, model)
    check_finite(model)
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if opset < _MIN_OPSET:
        try:
            model = onnx.version_converter.convert_version(model, _MIN_OPSET)
        except Exception as error:  # The converter raises many types, for example if an operator has no conversion.
            raise ModelError(
                f"The model has opset {opset}, but quantization needs {_MIN_OPSET} or newer. It cannot be converted "
                f"({' '.join(str(error).split())[:200]}). Export the network with a newer opset."
            ) from error
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # Nothing is logged; errors are raised as exceptions.
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with temporary_folder() as folder:
        path = Path(folder) / "prepared.onnx"
        options.optimized_model_filepath = str(path)
        try:
            runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            simple = onnx.load(path)
        except Exception as error:  # ONNX Runtime has no type of its own for a file that it cannot write.
            raise ModelError(
                f"ONNX Runtime could not simplify the network ({' '.join(str(error).split())[:200]}). It writes the "
                f"result to the folder of temporary files, {Path(folder).parent}: make room there, or set TMPDIR to "
                "another folder"
            ) from error
    used = {node.domain for node in simple.graph.node}
    opsets = [item for item in simple.opset_import if item.domain in used]
    del simple.opset_import[:]
    simple.opset_import.extend(opsets)
    return simple


def _check_float(onnx: Any, model: Any) -> None:
    found = [node for node in model.graph.node if node.op_type in _QUANTIZED]
    if found:
        raise ModelError(
            f"The network is quantized already (it has the node {found[0].op_type} "
            f"{found[0].name or found[0].output[0]!r}). Use the float32 model that it was made from."
        )
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT16:
            raise ModelError(
                f"The network has float16 weights ({tensor.name!r}), but quantization needs float32. "
                "Export it in float32."
            )


class Network:
    """Describes a prepared float32 network as layers. A layer is one weight and all convolutions that share it.

    Attributes:
        model: The `onnx.ModelProto`.
        constants: Constants of the graph, by name.
        input: Name of the network's input.
        outputs: Names of the network's outputs.
        layers: Convolution nodes of each layer, by the name of the weight, in the order of the graph.
        last: Names of the layers that write the outputs.
    """

    def __init__(self, model: Any) -> None:
        """Analyzes a model.

        Args:
            model: An `onnx.ModelProto` that `prepared` returned.
        """
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
        # By the name of a tensor that only an activation function reads: the output of that function.
        self._activated = {
            name: users[0].output[0]
            for name, users in consumers.items()
            if len(users) == 1 and users[0].op_type in _ACTIVATIONS and users[0].input[0] == name
            if name not in self.outputs
        }

    def values(self, name: str) -> npt.NDArray[Any]:
        """Returns the values of a constant."""
        array: npt.NDArray[Any] = self._onnx.numpy_helper.to_array(self.constants[name])
        return array

    def tensors(self, layers: Collection[str]) -> list[str]:
        """Returns the tensors that have codes if these layers are quantized, in the order of the graph."""
        written = self.written_in_codes(layers)
        read = {node.input[0] for name in layers for node in self.layers[name]}
        order = [self.input, *(name for node in self.model.graph.node for name in node.output)]
        return [name for name in order if name in written or name in read]

    def written_in_codes(self, layers: Collection[str]) -> dict[str, str]:
        """Returns the tensors that 8-bit operators write if these layers are quantized.

        Returns:
            By the name of each such tensor: the name of the tensor whose scale it shares, which can be itself.
        """
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
        """Returns the tensors that must be converted to codes or back if these layers are quantized."""
        written = self.written_in_codes(layers)
        quantized = {id(node) for name in layers for node in self.layers[name]}
        absorbed = set(self._activated.values()) & written.keys()  # outputs of activation functions that are fused
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
        """Whether the node only moves values, so that its output can keep the codes of its input."""
        if node.op_type == "Resize":
            modes = [item.s for item in node.attribute if item.name == "mode"]
            return modes in ([], [b"nearest"])
        return node.op_type == "MaxPool" and len(node.output) == 1
