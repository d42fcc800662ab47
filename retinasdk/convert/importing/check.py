"""Compares the imported model with the original graph: the same head values, the same preprocessed pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk._util.lazy import require
from retinasdk.convert.importing.inputs import NetworkInput
from retinasdk.convert.importing.onnx_runner import OnnxRunner, first_line
from retinasdk.convert.importing.original_run import OriginalRun
from retinasdk.convert.importing.subgraph import INPUT, ModelOutput
from retinasdk.errors import ModelError
from retinasdk.pipeline.preprocess import Transform, preprocess
from retinasdk.spec import ModelSpec, Resize

if TYPE_CHECKING:
    import numpy.typing as npt

_FLOAT16_TOLERANCE = 1 / 128  # As a fraction of the largest absolute value.
_GRAY_LEVELS = 2.0  # Two implementations of the same resize differ by about one gray level of 255.


def check_model(model: Any) -> str:
    """Runs onnx.checker on the imported model.

    Returns:
        A sentence for the report.

    Raises:
        ModelError: The model is not valid ONNX.
    """
    onnx = require("onnx", "importing ONNX models")
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # The errors of the checker and of shape inference have no common base class.
        raise ModelError(
            f"the network without its post-processing is not valid ONNX: {first_line(error)}. Export it again"
        ) from error
    return "onnx.checker accepts the imported model"


def check_heads(
    model: Any, original: OriginalRun | str, outputs: Sequence[ModelOutput], sources: Sequence[int]
) -> tuple[bool, str]:
    """Compares the heads of the imported model with those of the original graph on the same preprocessed image.

    Args:
        model: The imported model, an onnx.ModelProto.
        original: The run of the original graph, or why it cannot run.
        outputs: Outputs of the imported model.
        sources: Index in `original.heads` of each output.

    Returns:
        Whether the heads are compared, and a sentence for the report.

    Raises:
        ModelError: The values differ: by a single bit in float32; by more than 1/128 of the largest value in float16,
            which ONNX Runtime computes in float32 on the CPU.
    """
    if isinstance(original, str):
        return False, f"the heads, because ONNX Runtime cannot run the original graph: {original}"
    values = OnnxRunner(model).run({INPUT: original.tensor.astype(np.float32)}, [output.name for output in outputs])
    is_exact = all(item.dtype == np.float32 for item in original.heads)
    for output, source, ours in zip(outputs, sources, values, strict=True):
        expected = expected_output(original.heads[source], output)
        difference = float(np.abs(ours - expected).max()) if ours.shape == expected.shape else np.inf
        tolerance = 0.0 if is_exact else _FLOAT16_TOLERANCE * float(np.abs(expected).max())
        if not difference <= tolerance:
            raise ModelError(
                f"the output {output.name} differs from the original graph by up to {difference:.3g}. Either the "
                "network computes NaN or infinity on the test image (export an earlier checkpoint), or the import has "
                "a bug: please report it"
            )
    extent = "the whole original graph" if original.is_whole else "the original graph up to its heads"
    how = "bit by bit" if is_exact else f"within {_FLOAT16_TOLERANCE:.2g} of their range (float16 rounding)"
    return True, f"all {len(outputs)} outputs equal the heads of {extent}, {how}, on a picture of random blocks"


def expected_output(values: npt.NDArray[Any], output: ModelOutput) -> npt.NDArray[np.float32]:
    """Returns an output of the imported model, computed from the head tensor of the original graph."""
    if output.head.bias is not None:
        values = values + output.head.bias.reshape(-1, 1, 1)
    if output.channel_order is not None:
        values = values[:, list(output.channel_order)]
    return values.astype(np.float32)


def check_preprocessing(
    original: OriginalRun | str, network: NetworkInput, spec: ModelSpec, *, force: bool
) -> list[tuple[bool, str]]:
    """Compares the spec's preprocessing with the preprocessing in the original graph, on the same image.

    Args:
        original: The run of the original graph, or why it cannot run.
        network: The input of the network, and the preprocessing in the graph.
        spec: The spec of the imported model.
        force: Whether a difference is reported instead of raised.

    Returns:
        Whether it is equal, and a sentence for the report; nothing if the graph does not normalize or cannot run.

    Raises:
        ModelError: They differ, and `force` is False.
    """
    if isinstance(original, str) or network.normalise is None:
        return []
    is_equal, text = _compare_preprocessing(original, network, spec)
    if not is_equal and not force:
        raise ModelError(
            f"the preprocessing in the graph contradicts the rules of {spec.flavour}: {text}. Name the framework that "
            "exported the graph, or give the values (--resize, --mean, --std, --channel-order). Insist with --force "
            "(in Python: force=True)"
        )
    return [(is_equal, text)]


def _compare_preprocessing(original: OriginalRun, network: NetworkInput, spec: ModelSpec) -> tuple[bool, str]:
    image = original.image
    if "Resize" not in network.steps:  # The graph leaves the resize to its user.
        spec = spec.replace(resize=Resize("native", (max(image.shape),)), pad_multiple=1, pad_at_least=0)
    if spec.normalise.channels == "BGR" and not network.swaps_channels:
        image = image[:, :, ::-1].copy()  # The graph takes the channels in the order of the network.
    transform = Transform.plan((image.shape[0], image.shape[1]), spec)
    if transform.padded != original.tensor.shape[2:]:
        return False, (
            f"an image of {image.shape[0]} x {image.shape[1]} becomes a network input of {original.tensor.shape[2]} x "
            f"{original.tensor.shape[3]} in the graph, but {transform.padded[0]} x {transform.padded[1]} by the spec"
        )
    ours = preprocess([image], [transform], spec).tensor
    difference = float((np.abs(ours - original.tensor[:1]) * np.reshape(spec.normalise.std, (3, 1, 1))).max())
    text = f"the preprocessing of the spec and of the graph differ by up to {difference:.2g} of 255 gray levels"
    return difference <= _GRAY_LEVELS, text
