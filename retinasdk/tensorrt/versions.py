"""Hides how the versions of TensorRT differ: 8.5 to 11, and TensorRT for RTX.

What a version can do is found by looking for a name, never by comparing version numbers: from one release to the next,
flags change their values or disappear. `installed.py` chooses a version, `builder.py` builds engines, and `backend.py`
runs them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from retinasdk.errors import ModelError

_log = logging.getLogger("retinasdk.tensorrt")

# NumPy dtypes by the names of TensorRT's. TensorRT 8.5's own trt.nptype() fails with every NumPy from 1.24 on.
NUMPY_DTYPES = {"FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8, "INT32": np.int32, "BOOL": np.bool_}

# Which product wrote a plan, by its first bytes, and where they are followed by the version. See `plan_header`.
_WRITERS = {b"ptrt": "TensorRT 8.5", b"ftrt": "TensorRT", b"vtrt": "TensorRT for RTX"}
_VERSION_AT = {b"ftrt": 24, b"vtrt": 24}


# -- what a version can do ---------------------------------------------------------------------------------------------


def product(trt: Any) -> str:
    """Returns which product the module is: "tensorrt", or "tensorrt_rtx" for TensorRT for RTX.

    Neither can load the engines of the other. The name of the module tells them apart, because one product may get the
    functions of the other in a later version.
    """
    return "tensorrt_rtx" if trt.__name__.startswith("tensorrt_rtx") else "tensorrt"


def needs_gpu_to_build(trt: Any) -> bool:
    """Returns whether a builder can only be created on a machine with a usable GPU.

    TensorRT for RTX builds without one: it compiles for the GPU when the engine is loaded.
    """
    return product(trt) == "tensorrt"


def is_strongly_typed(trt: Any) -> bool:
    """Returns whether the types of the tensors in the ONNX file decide the precision.

    They do from TensorRT 10 on and in TensorRT for RTX. In earlier versions, the builder chooses the types.
    """
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def dtype_of(trt_dtype: Any) -> type[np.generic]:
    """Returns the NumPy dtype of a `trt.DataType`.

    Raises:
        ModelError: If retinasdk does not support tensors of that type.
    """
    name = trt_dtype.name
    if name not in NUMPY_DTYPES:
        raise ModelError(
            f"A tensor of the engine has the type {name}, but retinasdk supports {', '.join(NUMPY_DTYPES)}. Export the "
            "network with float32 inputs and outputs, and build the engine again."
        )
    return NUMPY_DTYPES[name]


def plan_header(plan: bytes) -> str:
    """Describes in words what the first bytes of a plan say, for error messages.

    It never decides whether a plan can be used. TensorRT documents no header, and other versions write other ones: only
    those of 8.5.3 and of TensorRT for RTX 1.7 have been seen.

    Args:
        plan: The content of an engine file.
    """
    writer = _WRITERS.get(plan[:4])
    if writer is None:
        return f"its {len(plan)} bytes begin with {plan[:4]!r}, which no known version of TensorRT writes"
    if plan[:4] in _VERSION_AT and len(plan) >= _VERSION_AT[plan[:4]] + 4:
        at = _VERSION_AT[plan[:4]]
        return f"it was written by {writer} {'.'.join(str(number) for number in plan[at : at + 4])}"
    return f"it was written by {writer}"


# -- one logger for the process ----------------------------------------------------------------------------------------

_loggers: dict[str, Any] = {}  # by module name; kept forever, because TensorRT keeps a pointer
_loggers_lock = threading.Lock()
_collectors: dict[int, list[str]] = {}  # errors of the calls in progress, by the id of the calling thread


def shared_logger(trt: Any) -> Any:
    """Returns the `trt.ILogger` of this process, which forwards to `logging.getLogger("retinasdk.tensorrt")`.

    There is one for the process, because TensorRT ignores every further one.
    """
    with _loggers_lock:
        if trt.__name__ not in _loggers:
            _loggers[trt.__name__] = _make_logger(trt)
        return _loggers[trt.__name__]


def _make_logger(trt: Any) -> Any:
    severity = trt.ILogger.Severity
    # One level lower than TensorRT's own: it warns about harmless things, one line for each layer. Its INFO reports
    # every fusion and its VERBOSE every kernel that it tries; the latter is dropped.
    levels = {
        severity.INTERNAL_ERROR: logging.ERROR,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.INFO,
        severity.INFO: logging.DEBUG,
    }

    class Logger(trt.ILogger):  # type: ignore[misc]  # the base is only known at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, level: Any, message: str) -> None:
            if level not in levels:
                return
            is_error = levels[level] == logging.ERROR
            collected = is_error and _collect(message)
            # Collected errors become the text of an exception. Logged as errors too, they would be reported twice.
            _log.log(logging.DEBUG if collected else levels[level], "%s", message)

    return Logger()


def _collect(message: str) -> bool:
    collectors = _collectors.copy()
    own = collectors.get(threading.get_ident())
    # A message from one of TensorRT's own threads may belong to any of the calls in progress.
    for collector in [own] if own is not None else collectors.values():
        collector.append(message)
    return bool(collectors)


@contextmanager
def collected_errors() -> Iterator[list[str]]:
    """Collects the errors that TensorRT logs while the block runs in this thread.

    TensorRT's functions return None on failure; the reason is only in the log.

    Yields:
        The list to which the messages are appended.
    """
    thread = threading.get_ident()
    before = _collectors.get(thread)
    errors: list[str] = []
    _collectors[thread] = errors
    try:
        yield errors
    finally:
        if before is None:
            del _collectors[thread]
        else:
            _collectors[thread] = before


def reason(errors: list[str], otherwise: str) -> str:
    """Returns the first useful error that TensorRT logged, as one line for an error message.

    Args:
        errors: Messages from `collected_errors`.
        otherwise: What to return if there is none. Errors that only say that there is no GPU do not count.

    Returns:
        The line, without punctuation at its end.
    """
    lines = [line.strip() for message in errors for line in message.splitlines()]
    useful = [line for line in lines if line and "cudaError" not in line and "CUDA initialization" not in line]
    return useful[0].rstrip(".;") if useful else otherwise
