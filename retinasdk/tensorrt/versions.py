"""The one place that knows how TensorRT's versions differ: 8.5 to 11, and TensorRT for RTX.

What a version can do is found by asking for the name, never by comparing version numbers: flags have other values, or
are gone, from one release to the next. Building is in _tensorrt_builder.py; running in backends/tensorrt_gpu.py.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from retinasdk.errors import MissingDependencyError, ModelError

_log = logging.getLogger("retinasdk.tensorrt")

# NumPy's dtype by the name of TensorRT's: its own trt.nptype() fails in 8.5 with every NumPy since 1.24.
NUMPY_DTYPES = {"FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8, "INT32": np.int32, "BOOL": np.bool_}

# The names that TensorRT's packages are imported by. The third is what TensorRT for RTX is made of on PyPI.
_MODULES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")
_LIBRARIES = {"tensorrt_rtx_bindings": "tensorrt_rtx_libs"}  # must be imported before

_MAGIC = {b"ftrt": "tensorrt", b"vtrt": "tensorrt_rtx"}
_HEADER_BYTES = 28


# -- which TensorRT is here --------------------------------------------------------------------------------------------


def import_tensorrt(purpose: str) -> Any:
    """The module of TensorRT, or of TensorRT for RTX. Raises `MissingDependencyError` that says how to install it."""
    failures = []
    for name in _MODULES:
        try:
            if name in _LIBRARIES:
                importlib.import_module(_LIBRARIES[name])
            return importlib.import_module(name)
        except ImportError as error:
            failures.append(error)
    # A package that is there but broken tells more than one that is not there.
    cause = next((error for error in failures if not isinstance(error, ModuleNotFoundError)), failures[0])
    raise MissingDependencyError(
        f"{purpose} needs TensorRT, which cannot be imported ({cause}). On a Jetson it comes with JetPack: install it "
        "with: sudo apt install python3-libnvinfer, and make the virtual environment with --system-site-packages; on a "
        "desktop install it with: pip install 'retinasdk[gpu]'. Without it use device='cpu'"
    ) from cause


def product(trt: Any) -> str:
    """ "tensorrt" or "tensorrt_rtx": an engine of one is of no use to the other."""
    return "tensorrt_rtx" if hasattr(trt, "ComputeCapability") else "tensorrt"


def needs_gpu_to_build(trt: Any) -> bool:
    """Whether a Builder may only be made where a usable GPU is. TensorRT for RTX compiles later, where it runs."""
    return product(trt) == "tensorrt"


def is_strongly_typed(trt: Any) -> bool:
    """Whether the tensors' types in the ONNX file decide the precision; before 10 it was the builder's choice."""
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def dtype_of(trt_dtype: Any) -> type[np.generic]:
    """NumPy's dtype for one of TensorRT's. Raises `ModelError` for those that no RetinaNet here has."""
    name = trt_dtype.name
    if name not in NUMPY_DTYPES:
        raise ModelError(f"wanted a tensor of {', '.join(NUMPY_DTYPES)}, got TensorRT's {name}; export it as float32")
    return NUMPY_DTYPES[name]


def plan_version(plan: bytes, origin: str) -> tuple[str, str]:
    """(product, "major.minor.patch.build") of the TensorRT that wrote a plan, from its first bytes alone.

    Needs neither TensorRT nor a GPU. Raises `ModelError` for what is no plan.
    """
    if len(plan) < _HEADER_BYTES or plan[:4] not in _MAGIC:
        raise ModelError(
            f"{origin}: wanted a TensorRT engine, got {len(plan)} bytes that begin with {plan[:4]!r}; "
            "build one with retinasdk.build_engine, or give the ONNX file"
        )
    return _MAGIC[plan[:4]], ".".join(str(number) for number in plan[24:28])


def check_plan_version(plan: bytes, trt: Any, origin: str) -> None:
    """Raises `ModelError` where another TensorRT than `trt` wrote the plan."""
    written_by, version = plan_version(plan, origin)
    # The package may count a fifth number, and leaves out none of the first three.
    here = trt.__version__.split(".")[:3]
    if written_by != product(trt) or version.split(".")[:3] != here:
        raise ModelError(
            f"{origin}: wanted an engine of {product(trt)} {trt.__version__}, which is here, got one of {written_by} "
            f"{version}; build it again on this machine"
        )


# -- one logger for the process ----------------------------------------------------------------------------------------

_loggers: dict[str, Any] = {}  # by module name; TensorRT keeps a pointer, so it lives as long as the process
_loggers_lock = threading.Lock()
_collectors: dict[int, list[str]] = {}  # errors of the calls under way, by the thread that makes the call


def shared_logger(trt: Any) -> Any:
    """The process's one trt.ILogger: TensorRT ignores a second. Forwards to logging.getLogger("retinasdk.tensorrt")."""
    with _loggers_lock:
        if trt.__name__ not in _loggers:
            _loggers[trt.__name__] = _make_logger(trt)
        return _loggers[trt.__name__]


def _make_logger(trt: Any) -> Any:
    severity = trt.ILogger.Severity
    # TensorRT warns of what is as it should be, a line for each layer; its INFO tells of every fusion, its VERBOSE of
    # every kernel tried.
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
            # Collected errors come as an exception; said twice they would look like two.
            _log.log(logging.DEBUG if collected else levels[level], "%s", message)

    return Logger()


def _collect(message: str) -> bool:
    collectors = _collectors.copy()
    own = collectors.get(threading.get_ident())
    # TensorRT's own threads may speak for any of the calls.
    for collector in [own] if own is not None else collectors.values():
        collector.append(message)
    return bool(collectors)


@contextmanager
def collected_errors() -> Iterator[list[str]]:
    """Within it, errors that this thread's calls cause go to the list, as TensorRT returns None and no reason."""
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
    """What TensorRT said, for an error message: the first error, in one line, without what a missing GPU causes."""
    lines = [line.strip() for message in errors for line in message.splitlines()]
    useful = [line for line in lines if line and "cudaError" not in line and "CUDA initialization" not in line]
    return useful[0].rstrip(".;") if useful else otherwise
