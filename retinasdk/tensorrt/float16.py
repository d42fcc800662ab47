"""Converts an ONNX graph to float16. From TensorRT 10 on, the types in the graph decide the precision of an engine.

The head outputs are float16 too, and so is the input, unless a node reads it in float32. There is no cast at either
end, and the kernels before and after the network move half the bytes. This module does not need TensorRT.

Note [Float16 heads]. Rounding to float16 changes a value by at most 2^-11 of its size. For a logit z, that moves the
score by at most score (1 - score) |z| 2^-11, which is never more than 1.1e-4. For a delta that shifts a box by d
pixels, it is d / 2048 pixels. The last convolution rounds its weights, inputs and outputs as all layers before it do,
so its error is one of many. Post-processing computes in float32 from the exact values of the float16 numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk._util.lazy import require
from retinasdk.errors import ModelError
from retinasdk.onnx_graph.layers import WEIGHTED

if TYPE_CHECKING:
    import numpy.typing as npt

# From this opset on, QuantizeLinear and DequantizeLinear may have float16 scales.
OPSET_OF_HALF_SCALES = 19

# Operators whose float inputs and outputs may all become float16. All others stay float32 between casts: sums over many
# values (reductions, normalizations, softmax) lose too much precision, and unknown operators may not allow float16.
_HALF_OPERATORS = WEIGHTED | {
    *("Add", "Sub", "Mul", "Div", "Max", "Min", "Clip", "Relu", "LeakyRelu", "PRelu", "Elu", "Selu"),
    *("Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "BatchNormalization", "MaxPool", "AveragePool"),
    *("GlobalAveragePool", "GlobalMaxPool", "Resize", "Concat", "Split", "Slice", "Gather", "Reshape", "Flatten"),
    *("Transpose", "Squeeze", "Unsqueeze", "Expand", "Tile", "Pad", "DepthToSpace", "SpaceToDepth", "Identity"),
}
_ANY_TYPE = frozenset({"Shape", "Size"})  # They read no values.
_SCALED = frozenset({"QuantizeLinear", "DequantizeLinear"})
_FLOAT_INPUTS = {"Resize": (1, 2)}  # Its regions and scales are float32 by definition.
_BOUNDS = frozenset({"Clip", "Pad", "Max", "Min"})  # Their constants may be clipped: large ones only mean "no bound".
_HALF_MAX = 65504.0


def to_float16(model: Any) -> Any:
    """Returns a copy of an ONNX model that computes in float16 and gives float16 outputs.

    The input is float16 as well, if all nodes that read its values compute in float16. See Note [Float16 heads].

    Args:
        model: The network, an `onnx.ModelProto` with all floats in float32.

    Returns:
        The converted `onnx.ModelProto`.

    Raises:
        ModelError: If a weight is too large for float16, or if the graph has branches or loops.
    """
    return _HalfWriter(model).convert()


def half_tensors(model: Any) -> set[str]:
    """Returns the names of the inputs and outputs of an ONNX model that are float16."""
    half = require("onnx", "reading the types of a model").TensorProto.FLOAT16
    tensors = (*model.graph.input, *model.graph.output)
    return {item.name for item in tensors if item.type.tensor_type.elem_type == half}


class _HalfWriter:
    """Writes the nodes of the graph again, in order, with a cast wherever float32 and float16 meet."""

    def __init__(self, model: Any) -> None:
        self._onnx = require("onnx", "converting a model to float16")
        # A copy with the type of every tensor. Tensors whose type cannot be inferred are left as they are.
        self._model = self._onnx.shape_inference.infer_shapes(model)
        graph = self._model.graph
        self._types = {tensor.name: tensor.data_type for tensor in graph.initializer}
        for value in (*graph.input, *graph.output, *graph.value_info):
            self._types[value.name] = value.type.tensor_type.elem_type
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        opset = next(item.version for item in self._model.opset_import if item.domain in ("", "ai.onnx"))
        self._half_operators = _HALF_OPERATORS | (_SCALED if opset >= OPSET_OF_HALF_SCALES else set())
        self._nodes: list[Any] = []
        self._is_half: set[str] = set()  # Tensors that are float16 now, under their own name.
        self._twins: dict[tuple[str, int], str] = {}  # By (tensor, type): the name of the tensor in that type.

    def convert(self) -> Any:
        graph = self._model.graph
        for node in graph.node:
            self._check_plain(node)
            if node.op_type == "Constant":
                self._keep_constant(node)
            else:
                self._write(node)
        for value in graph.input:
            self._make_input_half(value)
        for value in graph.output:
            self._make_output_half(value)
        used = {name for node in self._nodes for name in node.input}
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self._nodes)
        graph.initializer.extend(tensor for name, tensor in self._constants.items() if name in used)
        return self._model

    def _make_input_half(self, value: Any) -> None:
        """Makes an input float16, unless a node reads its float32 values. The rounding moves to who fills the input."""
        twin = self._twins.get((value.name, self._onnx.TensorProto.FLOAT16))
        if twin is None or value.name in self._constants:
            return
        readers = [node for node in self._nodes if value.name in node.input and node.op_type not in _ANY_TYPE]
        if [node.output[0] for node in readers] != [twin]:
            return
        self._nodes.remove(readers[0])  # the cast
        for node in self._nodes:
            node.input[:] = [value.name if name == twin else name for name in node.input]
        value.type.tensor_type.elem_type = self._onnx.TensorProto.FLOAT16

    def _make_output_half(self, value: Any) -> None:
        """Makes an output float16. A cast stands at the end only if an operator that stays in float32 writes it."""
        if value.type.tensor_type.elem_type != self._onnx.TensorProto.FLOAT:
            return
        value.type.tensor_type.elem_type = self._onnx.TensorProto.FLOAT16
        if value.name in self._is_half:
            return
        exact = f"{value.name}_float32"
        for node in self._nodes:
            for names in (node.input, node.output):
                names[:] = [exact if name == value.name else name for name in names]
        self._nodes.append(self._cast(exact, value.name, self._onnx.TensorProto.FLOAT16))

    def _check_plain(self, node: Any) -> None:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise ModelError(
                f"Node {node.name or node.output[0]!r} is a branch or loop ({node.op_type}), which cannot be converted "
                "to float16. Export the network without branches and loops, or use the precision 'fp32'."
            )

    def _keep_constant(self, node: Any) -> None:
        """Turns a Constant node into an initializer, which can be converted without a cast."""
        attribute = node.attribute[0]
        if attribute.name != "value":
            self._nodes.append(node)
            return
        tensor = self._onnx.TensorProto()
        tensor.CopyFrom(attribute.t)
        tensor.name = node.output[0]
        self._constants[tensor.name] = tensor

    def _write(self, node: Any) -> None:
        as_half = node.op_type in self._half_operators
        dtype = self._onnx.TensorProto.FLOAT16 if as_half else self._onnx.TensorProto.FLOAT
        float_inputs = _FLOAT_INPUTS.get(node.op_type, ())
        for index, name in enumerate(node.input):
            if self._types.get(name) == self._onnx.TensorProto.FLOAT and node.op_type not in _ANY_TYPE:
                of = self._onnx.TensorProto.FLOAT if index in float_inputs else dtype
                node.input[index] = self._in_type(name, of, node)
        if as_half:
            floats = (name for name in node.output if self._types.get(name) == self._onnx.TensorProto.FLOAT)
            self._is_half.update(floats)
        self._nodes.append(node)

    def _in_type(self, name: str, dtype: int, node: Any) -> str:
        """The name under which a tensor exists in a type. Writes the cast or the constant when it is first needed."""
        is_half = dtype == self._onnx.TensorProto.FLOAT16
        if (name in self._is_half) == is_half:
            return name
        if (name, dtype) not in self._twins:
            twin = f"{name}_float{16 if is_half else 32}"
            if name in self._constants:
                values = _to_half(self._onnx.numpy_helper.to_array(self._constants[name]), name, node)
                self._constants[twin] = self._onnx.numpy_helper.from_array(values, twin)
            else:
                self._nodes.append(self._cast(name, twin, dtype))
            self._twins[name, dtype] = twin
        return self._twins[name, dtype]

    def _cast(self, name: str, target: str, dtype: int) -> Any:
        return self._onnx.helper.make_node("Cast", [name], [target], name=f"cast_{target}", to=dtype)


def _to_half(values: npt.NDArray[np.float32], name: str, node: Any) -> npt.NDArray[np.float16]:
    if node.op_type in _BOUNDS:
        values = np.clip(values, -_HALF_MAX, _HALF_MAX)
    elif values.size and np.abs(values).max() > _HALF_MAX:
        raise ModelError(
            f"Node {node.name or node.output[0]!r} ({node.op_type}) has the weight {np.abs(values).max():.4g} in "
            f"{name!r}, but float16 cannot hold more than {_HALF_MAX:.0f}. Use the precision 'fp32'."
        )
    return values.astype(np.float16)
