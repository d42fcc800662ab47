"""INT8 with the scales in the graph: Q/DQ nodes around convolutions, from the ranges that real images produce.

The form is TensorRT's: symmetric, int8 for weights (a scale for each output channel) and activations, biases left in
float. Left in float are the last convolution of each head, as what it writes decides the detections, and depthwise
convolutions: they are a small part of the work, and channels whose ranges differ by much lose most in them.
"""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk._util.lazy import require
from retinasdk.errors import ModelError
from retinasdk.images import ImageInput
from retinasdk.onnx_graph.calibration import check_finite, network_inputs
from retinasdk.onnx_graph.layers import layers_before
from retinasdk.spec import ModelSpec
from retinasdk.tensorrt.float16 import OPSET_OF_HALF_SCALES

if TYPE_CHECKING:
    import numpy.typing as npt

_MAX_CODE = 127


def quantize(
    model: Any, spec: ModelSpec, images: Sequence[ImageInput], *, batch: int = 1, half_scales: bool = True
) -> Any:
    """A copy of an ONNX model whose convolutions are quantized, with the ranges that they have on `images`.

    model: onnx.ModelProto in float32, heads only. images: as a `Detector` takes them, one at a time; a few hundred
        like those to come are enough. batch: of a network that takes no other.
    half_scales: raise the opset to where `to_float16` can make scales float16, if it is below.
    Raises `ModelError` where a range is not finite, `ImageError` for what is no image, `ValueError` for no images.
    """
    if len(images) == 0:
        raise ValueError("calibration wants at least one image, got none; give images like those to come")
    onnx = require("onnx", "quantizing a model")
    check_finite(model)
    model = _prepared(onnx, model, half_scales)
    heads = [name for level in spec.levels for name in (level.logits, level.deltas)]
    left_out = [*layers_before(model.graph, heads), *filter(_is_depthwise, model.graph.node)]
    quantized = _with_scales(onnx, model, _Reader(spec, images, batch), left_out)
    _round_scales(onnx, quantized, {tensor.name: tensor for tensor in model.graph.initializer})
    return quantized


def _is_depthwise(node: Any) -> bool:
    return node.op_type == "Conv" and any(item.name == "group" and item.i > 1 for item in node.attribute)


def _with_scales(onnx: Any, model: Any, reader: _Reader, excluded: Sequence[Any]) -> Any:
    """What ONNX Runtime makes of the model: Q/DQ nodes around its convolutions, but the excluded nodes."""
    quantization = require("onnxruntime.quantization", "quantizing a model")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # ranges that are not finite come as an exception
        given, path = Path(folder) / "given.onnx", Path(folder) / "quantized.onnx"
        # As a file: a model in memory would be changed. The mark is of ONNX Runtime's own optimiser, whose absence it
        # warns of; fusing belongs to who runs the graph.
        marked = onnx.ModelProto()
        marked.CopyFrom(model)
        onnx.helper.set_model_props(marked, {"onnx.quant.pre_process": "onnxruntime.quant"})
        onnx.save(marked, given)
        try:
            quantization.quantize_static(
                given,
                path,
                reader,
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                per_channel=True,
                activation_type=quantization.QuantType.QInt8,
                weight_type=quantization.QuantType.QInt8,
                nodes_to_exclude=[node.name for node in excluded],
                calibrate_method=quantization.CalibrationMethod.MinMax,
                extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
            )
        except AssertionError as error:  # its check of each range
            raise ModelError(
                f"wanted finite activations on the images, got a range that is not ({error}); is the normalisation in "
                "the spec the network's?"
            ) from error
        quantized = onnx.load(path)
    del quantized.metadata_props[:]
    quantized.metadata_props.extend(model.metadata_props)
    return quantized


def _prepared(onnx: Any, model: Any, half_scales: bool) -> Any:
    """A copy with a name for every node, of an opset in which scales may be float16 where that can be had."""
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    if half_scales and opset < OPSET_OF_HALF_SCALES:
        try:
            prepared = onnx.version_converter.convert_version(prepared, OPSET_OF_HALF_SCALES)
        except Exception:  # an operator without a converter; scales stay float32 then, between casts
            prepared.CopyFrom(model)
    for index, node in enumerate(prepared.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    return prepared


class _Reader:
    """What ONNX Runtime asks for the next input; it wants None at the end."""

    def __init__(self, spec: ModelSpec, images: Sequence[ImageInput], batch: int) -> None:
        self._input = spec.input
        bar = require("tqdm", "the progress bar").tqdm(images, desc="calibrate", unit="image", disable=None)
        self._tensors = network_inputs(bar, spec, batch=batch)

    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
        tensor = next(self._tensors, None)
        return None if tensor is None else {self._input: tensor}

    def __iter__(self) -> _Reader:
        return self

    def __next__(self) -> dict[str, npt.NDArray[np.float32]]:
        found = self.get_next()
        if found is None:
            raise StopIteration
        return found


def _round_scales(onnx: Any, model: Any, weights: dict[str, Any]) -> None:
    """Rounds scales up to float16 numbers, so that it makes no difference which of both types the graph has them in.

    Weights are quantized anew, each channel by its own largest: ONNX Runtime widens their scales for the sake of
    biases, which are not quantized here.
    """
    to_array, from_array = onnx.numpy_helper.to_array, onnx.numpy_helper.from_array
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        scales, codes = constants[node.input[1]], constants.get(node.input[0])
        values = to_array(scales)
        if codes is not None:
            weight = to_array(weights[node.input[0].removesuffix("_quantized")])
            largest = np.abs(weight.reshape(len(weight), -1)).max(axis=1)
            values = np.where(largest == 0, np.float32(1), largest / np.float32(_MAX_CODE))
        values = _half_above(values)
        scales.CopyFrom(from_array(values, scales.name))
        if codes is not None:
            by_channel = values.reshape(-1, *[1] * (weight.ndim - 1))
            codes.CopyFrom(from_array(np.rint(weight / by_channel).astype(np.int8), codes.name))


def _half_above(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The smallest float16 numbers that are at least `values`, as float32."""
    half = values.astype(np.float16)
    up = np.nextafter(half, np.float16(math.inf), dtype=np.float16)
    return np.where(half.astype(np.float32) < values, up, half).astype(np.float32)
