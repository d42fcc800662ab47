"""Looks at this machine, each question in a Python process of its own, so that a crash or a hang stays there.

`ask` runs in this process and imports only the standard library, so that it works where nothing else does. The
functions below the title "in the other process" run in the other one.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

_TIMEOUT_S = 60.0  # loading TensorRT from a cold SD card takes half a minute
_MODEL_TIMEOUT_S = 600.0  # loading and measuring a large model on a slow board
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from retinasdk.doctor.probe import answer; answer(*sys.argv[2:])"
)


@dataclass(frozen=True)
class Answer:
    """Holds what was found.

    Attributes:
        facts: What was found; None if nothing was, and `problem` says why.
        is_missing: Without facts: whether it is not installed, instead of installed and failing.
        problem: Without facts: the reason in one line.
    """

    facts: dict[str, Any] | None = None
    is_missing: bool = False
    problem: str = ""


def ask_about_model(model: str) -> Answer:
    """Asks which convolutions a model uses on the CPU, and measures it if that is not known, in a new process.

    Args:
        model: Path of an ONNX file.
    """
    return ask("model", model, timeout_s=_MODEL_TIMEOUT_S)


def ask(question: str, *subject: str, timeout_s: float = _TIMEOUT_S) -> Answer:
    """Asks one of `QUESTIONS` in a new process.

    Args:
        question: Its name.
        *subject: What it is about: the path of a model for the question "model", which is none of `QUESTIONS`.
        timeout_s: Seconds until the process is stopped.

    Returns:
        The answer. A failure is an answer too, never an exception.
    """
    if not sys.executable:
        return Answer(problem="cannot be checked, as Python does not know its own program (sys.executable is empty)")
    command = [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), question, *subject]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Answer(problem=f"does not answer within {timeout_s:g} s")
    except OSError as error:
        return Answer(problem=f"cannot be checked, as no process can be started: {error}")
    lines = done.stdout.splitlines()  # starting Python may print lines too
    if done.returncode == 0 and lines:
        return Answer(**json.loads(lines[-1]))
    return Answer(problem=f"ends the process: {_ending(done)}")


def _ending(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return signal.strsignal(-done.returncode) or f"signal {-done.returncode}"
    said = done.stderr.strip().splitlines()
    return said[-1].strip() if said else f"exit status {done.returncode}"


# -- in the other process ----------------------------------------------------------------------------------------------


def answer(question: str, *subject: str) -> None:
    """Writes the `Answer` to a question as one line of JSON, and ends the process."""
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what modules print while they are imported is not the answer
    result: dict[str, Any]
    try:
        _import("retinasdk._util.lazy").disable_telemetry()
        result = {"facts": _model(*subject) if subject else QUESTIONS[question]()}
    except BaseException as error:  # modules may raise anything, SystemExit included
        result = {"is_missing": isinstance(error, _MissingError), "problem": _in_one_line(error)}
    output.write(f"\n{json.dumps(result)}\n")
    output.flush()
    os._exit(0)  # skips clean-up: a crash of a library there does not matter


class _MissingError(Exception):
    pass


def _in_one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return (
        text
        if text and isinstance(error, (ImportError, OSError, _MissingError))
        else f"{type(error).__name__}: {text}".rstrip(": ")
    )


def _import(module: str) -> Any:
    """Imports a module. Raises `_MissingError` only if the module itself is missing, not one that it needs."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        itself = module if module.startswith("retinasdk.") else module.partition(".")[0]
        if error.name == itself:
            raise _MissingError("not installed") from error
        raise


def _package(module: str, distribution: str) -> dict[str, Any]:
    imported = _import(module)
    top = sys.modules[module.partition(".")[0]]
    version = getattr(top, "__version__", None)
    if not isinstance(version, str):
        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            version = None
    return {"version": version, "file": getattr(imported, "__file__", None)}


def _native() -> dict[str, Any]:
    native = _import("retinasdk._native")
    return {"file": native.__file__, "simd": native.simd_name()}


def _convolutions() -> dict[str, Any]:
    native = _import("retinasdk._native")
    from retinasdk._util.processor import processor_name, usable_cores
    from retinasdk.backends import tuning
    from retinasdk.backends.blocked_graph import library

    return {
        "isa": native.convolution_isa(),
        "is_built": library() is not None,
        "processor": processor_name(),
        "threads": usable_cores(),
        "is_measured": tuning.is_enabled(),
    }


def _model(path: str) -> dict[str, Any]:
    from retinasdk.detector import Detector

    with Detector(path, device="cpu") as detector:
        choice = detector.convolution
        return {"text": str(choice), **(asdict(choice) if choice else {})}


def _native_cuda() -> dict[str, Any]:
    native = _import("retinasdk._native_cuda")
    count, reason = native.device_count()
    return {"file": native.__file__, "runtime": native.runtime_version(), "count": count, "reason": reason}


def _driver() -> dict[str, Any]:
    """Asks the CUDA driver directly, independent of how retinasdk was built."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        if "libcuda.so.1" in str(error) and "no such file" in str(error).lower():
            raise _MissingError("no NVIDIA driver (libcuda.so.1 not found)") from error
        raise
    number = ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(number))
    facts: dict[str, Any] = {"version": number.value, "gpus": [], "status": cuda.cuInit(0), "problem": ""}
    if facts["status"]:
        name = ctypes.c_char_p()
        cuda.cuGetErrorName(facts["status"], ctypes.byref(name))
        facts["problem"] = (name.value or b"unknown error").decode(errors="replace")
        return facts
    cuda.cuDeviceGetCount(ctypes.byref(number))
    facts["gpus"] = [_gpu(cuda, ordinal) for ordinal in range(number.value)]
    return facts


def _gpu(cuda: Any, ordinal: int) -> dict[str, Any]:
    device, number, size = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    cuda.cuDeviceGet(ctypes.byref(device), ordinal)
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(size), device)

    def attribute(which: int) -> int:
        cuda.cuDeviceGetAttribute(ctypes.byref(number), which, device)
        return number.value

    return {
        "name": name.value.decode(errors="replace"),
        # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR, CU_DEVICE_ATTRIBUTE_INTEGRATED
        "compute_capability": [attribute(75), attribute(76)],
        "integrated": bool(attribute(18)),
        "memory_bytes": size.value,
    }


def _tensorrt(product: str) -> dict[str, Any]:
    from retinasdk.tensorrt.installed import import_tensorrt

    try:
        trt = import_tensorrt("`retinasdk doctor`", only=product)
    except ImportError as error:
        cause = error.__cause__ or error
        if isinstance(cause, ModuleNotFoundError) and cause.name == product:
            raise _MissingError("not installed") from error
        raise cause from None
    installed = {}
    for item in importlib.metadata.distributions():
        name = (item.metadata["Name"] or "").lower().replace("-", "_")
        if name.startswith("tensorrt"):
            installed[name] = {"version": item.version, "installer": (item.read_text("INSTALLER") or "").strip()}
    return {
        "package": trt.__name__,
        "version": trt.__version__,
        "product": product,
        "file": getattr(trt, "__file__", None),
        "installed": installed,
    }


def _auto() -> dict[str, Any]:
    from retinasdk.tensorrt.installed import choose_for_gpu

    choice = choose_for_gpu()
    return {"product": choice.tensorrt.product if choice.tensorrt else None, "why": choice.why}


def _cache() -> dict[str, Any]:
    from retinasdk._util.cache_dir import cache_dir

    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("retinasdk").addHandler(handler)
    folder = cache_dir()
    return {"folder": str(folder), "note": " ".join(said)}


QUESTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "native": _native,
    "convolutions": _convolutions,
    "native_cuda": _native_cuda,
    "driver": _driver,
    "tensorrt": partial(_tensorrt, "tensorrt"),
    "tensorrt_rtx": partial(_tensorrt, "tensorrt_rtx"),
    "auto": _auto,
    "cache": _cache,
    "numpy": partial(_package, "numpy", "numpy"),
    "onnxruntime": partial(_package, "onnxruntime", "onnxruntime"),
    "pillow": partial(_package, "PIL.Image", "pillow"),
    "platformdirs": partial(_package, "platformdirs", "platformdirs"),
    "filelock": partial(_package, "filelock", "filelock"),
    "onnx": partial(_package, "onnx", "onnx"),
    "pycocotools": partial(_package, "pycocotools.mask", "pycocotools"),
    "pyyaml": partial(_package, "yaml", "pyyaml"),
    "torch": partial(_package, "torch", "torch"),
    "torchvision": partial(_package, "torchvision", "torchvision"),
    "av": partial(_package, "av", "av"),
    "ray": partial(_package, "ray", "ray"),
    "pyarrow": partial(_package, "pyarrow", "pyarrow"),
    "rosbags": partial(_package, "rosbags", "rosbags"),
    "supervision": partial(_package, "supervision", "supervision"),
    "trackers": partial(_package, "trackers", "trackers"),
    "prometheus-client": partial(_package, "prometheus_client", "prometheus-client"),
    "matplotlib": partial(_package, "matplotlib", "matplotlib"),
    "rasterio": partial(_package, "rasterio", "rasterio"),
    "pandas": partial(_package, "pandas", "pandas"),
    "OpenCV": partial(_package, "cv2", "opencv-python-headless"),
    "pycuda": partial(_package, "pycuda.driver", "pycuda"),
}
