"""Holding the new model against the old graph: the same numbers at the heads, the same pixels before the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk._util.lazy import require
from retinasdk.convert.importing.cut import INPUT, Output
from retinasdk.convert.importing.inputs import NetworkInput
from retinasdk.convert.importing.running import Runner, first_line
from retinasdk.convert.importing.trial import OldRun
from retinasdk.errors import ModelError
from retinasdk.pipeline.preprocess import Transform, preprocess
from retinasdk.spec import ModelSpec, Resize

if TYPE_CHECKING:
    import numpy.typing as npt

_HALF_ROUNDING = 1 / 128


def check_model(model: Any) -> str:
    """onnx.checker on the new model. Raises `ModelError`."""
    onnx = require("onnx", "importing ONNX models")
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # its own errors, and those of shape inference, have no common base
        raise ModelError(f"cut to its heads the network is no valid ONNX: {first_line(error)}") from error
    return "onnx.checker accepts the new model"


def check_heads(model: Any, old: OldRun | str, outputs: Sequence[Output], sources: Sequence[int]) -> str:
    """The new model on the ready input that the old graph made of an image, against the old graph's own heads.

    sources: which of the old heads each output is. Raises `ModelError` for any difference; in networks of float16,
    which ONNX Runtime's CPU computes in float32 between roundings, for one above `_HALF_ROUNDING`.
    """
    if isinstance(old, str):
        return f"not compared with the old graph, which ONNX Runtime cannot run: {old}"
    values = Runner(model).run({INPUT: old.tensor.astype(np.float32)}, [output.name for output in outputs])
    is_exact = all(item.dtype == np.float32 for item in old.heads)
    for output, source, new in zip(outputs, sources, values, strict=True):
        wanted = _as_output(old.heads[source], output)
        gap = float(np.abs(new - wanted).max()) if new.shape == wanted.shape else np.inf
        allowed = 0.0 if is_exact else _HALF_ROUNDING * float(np.abs(wanted).max())
        if not gap <= allowed:
            raise ModelError(
                f"output {output.name}: wanted the old graph's own values, got some that differ by up to {gap:.3g}; "
                "either the network computes no finite numbers, or the import is at fault: please report it"
            )
    extent = "the whole old graph" if old.whole else "the old graph up to its heads"
    how = "bit by bit" if is_exact else f"within {_HALF_ROUNDING:.2g} of their range, as float16 rounds"
    return f"all {len(outputs)} heads equal those of {extent}, {how}, on a picture of random blocks"


def _as_output(values: npt.NDArray[Any], output: Output) -> npt.NDArray[np.float32]:
    if output.tap.bias is not None:
        values = values + output.tap.bias.reshape(-1, 1, 1)
    if output.order is not None:
        values = values[:, list(output.order)]
    return values.astype(np.float32)


def check_preprocessing(old: OldRun | str, network: NetworkInput, spec: ModelSpec) -> list[str]:
    """The spec's preprocessing against what the old graph made of the same image, where it does any itself."""
    if isinstance(old, str) or network.normalise is None:
        return []
    image = old.image
    if "Resize" not in network.steps:  # its user's part
        spec = spec.replace(resize=Resize("native", (max(image.shape),)), pad_multiple=1)
    if spec.normalise.channels == "BGR" and not network.swaps_channels:
        image = image[:, :, ::-1].copy()  # the graph took its channels as they came
    transform = Transform.plan((image.shape[0], image.shape[1]), spec)
    if transform.padded != old.tensor.shape[2:]:
        return [
            f"the graph makes {old.tensor.shape[2]} x {old.tensor.shape[3]} of an image of {image.shape[0]} x "
            f"{image.shape[1]}, the spec {transform.padded[0]} x {transform.padded[1]}"
        ]
    ours = preprocess([image], [transform], spec).tensor
    grey = np.abs(ours - old.tensor[:1]) * np.reshape(spec.normalise.std, (3, 1, 1))
    return [f"the spec's preprocessing and the graph's differ by up to {grey.max():.2g} of 255 grey levels"]
