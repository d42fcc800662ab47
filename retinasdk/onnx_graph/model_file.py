"""Reads a model file without opening a session: its graph, and the spec that belongs to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retinasdk._util.lazy import require
from retinasdk._util.onnx_functions import check_functions
from retinasdk.errors import ModelError
from retinasdk.onnx_graph.model_pair import read_unchanged, spec_beside
from retinasdk.spec import METADATA_KEY, ModelSpec

_FLOAT = "tensor(float)"


@dataclass(frozen=True)
class TensorInfo:
    """An input or an output of a network.

    Attributes:
        name: Name in the graph.
        shape: Size of each axis. A name or None if the axis is dynamic.
        type: Type as ONNX Runtime writes it, for example `tensor(float)`.
    """

    name: str
    shape: Sequence[int | str | None]
    type: str


@dataclass(frozen=True)
class ModelFile:
    """A heads-only network with the spec that belongs to it.

    Attributes:
        graph: The network, an `onnx.ModelProto` with its weights loaded.
        spec: The spec that was given, else the one beside the file, else the one in it.
        fixed_batch: The only batch size that the network accepts. None if it accepts any.
    """

    graph: Any
    spec: ModelSpec
    fixed_batch: int | None


def read_model(path: Path, *, spec: ModelSpec | None = None, purpose: str) -> ModelFile:
    """Reads an ONNX file and its spec, and checks that they fit each other.

    Args:
        path: A heads-only ONNX file. Its external data, if any, is read too.
        spec: Used in place of the file's own spec.
        purpose: What the model is read for. The error uses it if the onnx package is missing.

    Returns:
        The network with its spec.

    Raises:
        ModelError: If the file is no complete ONNX file, has no spec, or does not fit it.
        MissingDependencyError: If the onnx package is not installed.
    """
    onnx = require("onnx", purpose)

    def read() -> tuple[Any, ModelSpec]:
        try:
            check_functions(memoryview(path.read_bytes()))  # Builders and checkers replace all calls of functions.
            graph = onnx.load(path)
        except Exception as error:  # From protobuf, or from files with external data.
            raise ModelError(f"{path} is not an ONNX file, or it is incomplete: {error}") from error
        names = [value.name for value in (*graph.graph.input, *graph.graph.output)]
        if any(isinstance(name, bytes) for name in names):  # As protobuf returns what it cannot decode.
            raise ModelError(f"{path} is damaged: names of its inputs or outputs are not UTF-8. Export it again")
        return graph, spec or find_spec(path, {item.key: item.value for item in graph.metadata_props})

    graph, found = read_unchanged(path, read)
    return ModelFile(graph, found, check_fits(*_inputs_and_outputs(onnx, graph), found, path))


def find_spec(path: Path, metadata: Mapping[str, str]) -> ModelSpec:
    """Reads the spec beside an ONNX file, else the one in its metadata.

    Raises:
        ModelError: If there is neither, or the one found is not valid or belongs to another ONNX file.
    """
    beside = spec_beside(path, metadata)
    if beside is not None:
        return beside
    if METADATA_KEY in metadata:
        return ModelSpec.from_json(metadata[METADATA_KEY], origin=f"{path}, metadata {METADATA_KEY}")
    raise ModelError(
        f"{path} has no model spec: there is no {path.with_suffix('.json').name} beside it, and none in the file's "
        f"metadata {METADATA_KEY!r}. If it comes straight from a training framework, convert it first: "
        f"{_convert(path)}. If it already ends at its raw heads, pass a spec: "
        "Detector(..., spec=retinasdk.ModelSpec(...))"
    )


def check_fits(inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo], spec: ModelSpec, path: Path) -> int | None:
    """Checks that the inputs, outputs and channels of a network fit the spec.

    Returns:
        The only batch size that the network accepts, or None if it accepts any.

    Raises:
        ModelError: If they do not fit.
    """
    names = [item.name for item in inputs]
    if names != [spec.input]:
        raise ModelError(
            f"{path} must have one input named {spec.input!r}, got {', '.join(names) or 'none'}; check that it is a "
            "RetinaNet with raw head outputs and that the spec belongs to it, or convert it again: " + _convert(path)
        )
    tensor = inputs[0]
    channels_first = len(tensor.shape) == 4 and (tensor.shape[1] == 3 or not isinstance(tensor.shape[1], int))
    if tensor.type != _FLOAT or not channels_first:
        raise ModelError(
            f"{path}: input {spec.input!r} must be (N, 3, H, W) float32, got {list(tensor.shape)} {tensor.type}; "
            "export the network without its preprocessing, channels first"
        )
    for axis, name in ((2, "height"), (3, "width")):
        side = tensor.shape[axis]
        fixed = spec.resize.fixed_size
        if isinstance(side, int) and (fixed is None or spec.padded(*fixed)[axis - 2] != side):
            raise ModelError(
                f"{path}: input {name} is fixed to {side}, but the spec's resize rule {spec.resize.rule!r} "
                "gives other sizes; export with dynamic height and width, or use the rule 'squash' or 'fit' with that "
                "size"
            )
    by_name = {item.name: item for item in outputs}
    anchors, classes = spec.anchors_per_cell, len(spec.labels)
    for level in spec.levels:
        for name, channels in ((level.logits, anchors * classes), (level.deltas, anchors * spec.box_coder.deltas)):
            if name not in by_name:
                raise ModelError(
                    f"{path} must have an output named {name!r}, got {', '.join(by_name)}; check that the spec belongs "
                    f"to it, or convert it again: {_convert(path)}"
                )
            shape = by_name[name].shape
            wrong_channels = isinstance(shape[1], int) and shape[1] != channels if len(shape) == 4 else True
            if by_name[name].type != _FLOAT or wrong_channels:
                raise ModelError(
                    f"{path}: output {name!r} must be (N, {channels}, h, w) float32 for {anchors} anchors and "
                    f"{classes} classes, got {list(shape)} {by_name[name].type}; check that the spec belongs to it, or "
                    f"convert it again: {_convert(path)}"
                )
    batch = tensor.shape[0]
    return batch if isinstance(batch, int) else None


def _convert(path: Path) -> str:
    return f"retinasdk import {path.name} -o model.onnx"


def _inputs_and_outputs(onnx: Any, model: Any) -> tuple[list[TensorInfo], list[TensorInfo]]:
    """Returns the inputs and outputs as a session of ONNX Runtime reports them."""
    graph = model.graph
    if not all(value.type.tensor_type.HasField("shape") for value in graph.output):
        graph = onnx.shape_inference.infer_shapes(model).graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [_info(onnx, value) for value in graph.input if value.name not in weights]
    return inputs, [_info(onnx, value) for value in graph.output]


def _info(onnx: Any, value: Any) -> TensorInfo:
    tensor = value.type.tensor_type
    shape = [axis.dim_value if axis.HasField("dim_value") else axis.dim_param or None for axis in tensor.shape.dim]
    known = {number: name.lower() for name, number in onnx.TensorProto.DataType.items()}
    kind = known.get(tensor.elem_type, f"unknown type {tensor.elem_type}")
    return TensorInfo(value.name, shape, f"tensor({kind})")
