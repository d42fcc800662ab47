"""Runs an ONNX model, or a part of one, in ONNX Runtime without graph optimizations."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from retinasdk._util.lazy import require

if TYPE_CHECKING:
    import numpy.typing as npt

_LIMIT_S = 300  # A loop in the graph may have any number of steps.
# What ONNX Runtime writes before the sentence that says what is wrong: its codes, and the place in its source.
_CODES = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |/onnxruntime_src/\S+:\d+ .*\) (?=[A-Z])")


class OnnxRunner:
    """A model loaded into ONNX Runtime on the CPU.

    Graph optimizations are off, unless `optimize` is set: no operator is fused or reordered, so equal operators on
    equal inputs give equal bits.
    The constructor and `run` raise whatever ONNX Runtime raises; its exceptions have no common base class.
    """

    def __init__(self, model: Any, *, optimize: bool = False) -> None:
        runtime = self._runtime = require("onnxruntime", "checking an imported model")
        options = runtime.SessionOptions()
        options.log_severity_level = 4  # Errors arrive as exceptions; the log would only repeat them.
        if not optimize:
            options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(self, feeds: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str]) -> list[npt.NDArray[Any]]:
        """Runs the model once.

        Args:
            feeds: Value of each model input, by name.
            outputs: Names of the outputs to return.

        Returns:
            The values of `outputs`, in that order.

        Raises:
            Exception: ONNX Runtime cannot run the model, or not within five minutes.
        """
        options = self._runtime.RunOptions()
        options.log_severity_level = 4
        timer = threading.Timer(_LIMIT_S, setattr, (options, "terminate", True))
        timer.daemon = True
        timer.start()
        try:
            results: list[npt.NDArray[Any]] = self._session.run(list(outputs), dict(feeds), options)
        finally:
            timer.cancel()
        return results


def first_line(error: Exception) -> str:
    """Returns the first line of an error message, or the name of the exception class if the message is empty."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return _CODES.sub("", line).rstrip(".")
