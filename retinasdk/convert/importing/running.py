"""Running graphs and pieces of them in ONNX Runtime, node by node as they are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from retinasdk._util.lazy import require

if TYPE_CHECKING:
    import numpy.typing as npt


class Runner:
    """A model in ONNX Runtime. Nothing is fused or reordered: equal operators on equal inputs give equal bits.

    Raises whatever ONNX Runtime raises, here and in `run`; its exceptions have no common base.
    """

    def __init__(self, model: Any) -> None:
        runtime = require("onnxruntime", "checking an imported model")
        options = runtime.SessionOptions()
        options.log_severity_level = 4  # errors come as exceptions
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(self, feeds: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str]) -> list[npt.NDArray[Any]]:
        results: list[npt.NDArray[Any]] = self._session.run(list(outputs), dict(feeds))
        return results


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
