"""Opens sessions of ONNX Runtime, with its own convolutions or with those of retinasdk."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from retinasdk._util.lazy import require
from retinasdk._util.onnx_functions import FunctionsError, check_functions
from retinasdk._util.processor import usable_cores
from retinasdk.backends import blocked_graph, limited_sums, quantized_graph
from retinasdk.backends.graph_edit import Rewritten
from retinasdk.backends.lent_weights import lent
from retinasdk.errors import ModelError

_log = logging.getLogger("retinasdk")

_PROVIDERS = ["CPUExecutionProvider"]
_EXACT_SUMS = "session.x64quantprecision"  # ONNX Runtime then multiplies in 16 bits, which is slower.


class NotRewrittenError(Exception):
    """Says why a model cannot use the convolutions of retinasdk."""


def open_direct(path: Path, threads: int | None) -> Any:
    """Opens a session with the convolutions of ONNX Runtime.

    Args:
        path: An ONNX file.
        threads: Number of threads per call. None: one for each core.

    Raises:
        ModelError: If ONNX Runtime cannot load the file.
        MissingDependencyError: If ONNX Runtime is not installed.
    """
    runtime = onnxruntime()
    _check_functions(path)
    if limited_sums.are_limited(path):
        exact = _opened_exactly(path, threads)
        if exact is not None:
            return exact
        _log.warning(
            "%s: on this processor, which has no VNNI, ONNX Runtime limits sums of 8-bit products to 16 bits, and this "
            "model has weights whose sums exceed that: boxes may be wrong. Use convolution='auto', or make the file "
            "from the float32 model with `retinasdk quantize`.",
            path.name,
        )
    try:
        return runtime.InferenceSession(str(path), _options(runtime, threads), providers=_PROVIDERS)
    except Exception as error:  # The exceptions of ONNX Runtime have no common base class.
        raise ModelError(
            f"{path}: ONNX Runtime cannot load it: {first_line(error)}; check that it is a complete ONNX file, and "
            "that this version of ONNX Runtime supports its opset"
        ) from error


def open_blocked(path: Path, threads: int | None, size: tuple[int, int]) -> Any:
    """Opens a session with the convolutions of retinasdk.

    Args:
        path: An ONNX file. It is not changed.
        threads: Number of threads per call. None: one for each core.
        size: (height, width) in pixels of the usual network input, for which the operators are chosen.

    Raises:
        NotRewrittenError: If the model cannot use them, or they are not there.
        MissingDependencyError: If ONNX Runtime is not installed.
    """
    runtime = onnxruntime()
    library = blocked_graph.library()
    if library is None:
        raise NotRewrittenError("retinasdk was built without its operators for ONNX Runtime")
    try:
        edited = _rewritten(path, size, threads or usable_cores())
        with lent(library, edited.lent) as keys:
            options = _options(runtime, threads)
            # Patterns gain no time here, and would keep a second set of buffers: 180 MB for ResNet-50 at 800 x 1088.
            options.enable_mem_pattern = False
            options.register_custom_ops_library(str(library))
            if edited.others["Conv"] and limited_sums.are_limited(path):
                options.add_session_config_entry(_EXACT_SUMS, "1")
            session = runtime.InferenceSession(edited.model(keys), options, providers=_PROVIDERS)
    except NotRewrittenError:
        raise
    except Exception as error:  # Those of ONNX Runtime have no common base class. What is wrong with a file, it says.
        raise NotRewrittenError(f"they cannot be loaded: {first_line(error)}") from error
    _log.debug("%s: %d operators of retinasdk are used", path.name, sum(edited.counts.values()))
    return session


def is_rewritable(path: Path, size: tuple[int, int]) -> bool:
    """Returns whether a model has convolutions that those of retinasdk can replace."""
    try:
        _rewritten(path, size)
    except Exception:  # Whatever is wrong with the file, opening it without changes reports that better.
        return False
    return True


def onnxruntime() -> Any:
    """Imports ONNX Runtime.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    return require("onnxruntime", "running ONNX models on the CPU")


def first_line(error: Exception) -> str:
    """Returns the first line of the message of an exception, or its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _rewritten(path: Path, size: tuple[int, int], threads: int = 0) -> Rewritten:
    _check_functions(path)
    edited = blocked_graph.rewritten(path, input_size=size, threads=threads)
    if edited is None and quantized_graph.is_fast():
        edited = quantized_graph.rewritten(path, input_size=size)
    if edited is None:
        raise NotRewrittenError("the network has no convolutions that they replace")
    return edited


def _check_functions(path: Path) -> None:
    """Raises `ModelError` for functions that ONNX Runtime would spend hours on, because it replaces all calls."""
    try:
        check_functions(memoryview(path.read_bytes()))
    except FunctionsError as error:
        raise ModelError(f"{path} cannot be loaded: {error}. Export the network again") from error
    except (OSError, ValueError):
        pass  # Opening it reports that better.


def _opened_exactly(path: Path, threads: int | None) -> Any:
    """Opens a session whose 8-bit sums are not limited, or None if ONNX Runtime cannot: it fails for shared weights."""
    runtime = onnxruntime()
    options = _options(runtime, threads)
    options.add_session_config_entry(_EXACT_SUMS, "1")
    options.log_severity_level = 4
    try:
        return runtime.InferenceSession(str(path), options, providers=_PROVIDERS)
    except Exception as error:  # Those of ONNX Runtime have no common base class.
        _log.debug("%s: %s=1: %s", path.name, _EXACT_SUMS, first_line(error))
        return None


def _options(runtime: Any, threads: int | None) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # Errors are raised as exceptions.
    # Otherwise the threads spin after a call while they wait for the next one. On two cores, a call of another detector
    # immediately afterwards took 1.7 times as long.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    return options
