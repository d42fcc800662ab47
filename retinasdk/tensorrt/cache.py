"""The engine cache: engines that are built when they are first needed and reused by later runs."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

from retinasdk._util.cache_dir import cache_dir
from retinasdk._util.files import finish_killed_write
from retinasdk.cuda.device import GpuIdentity
from retinasdk.errors import ModelError
from retinasdk.spec import ModelSpec
from retinasdk.tensorrt.build import build_engine, expected_fingerprint
from retinasdk.tensorrt.engine_info import EngineInfo
from retinasdk.tensorrt.installed import import_tensorrt
from retinasdk.tensorrt.versions import needs_gpu_to_build

_log = logging.getLogger("retinasdk")


def cached_engine(path: Path, *, spec: ModelSpec | None, precision: str, gpu: GpuIdentity) -> Path:
    """Returns the engine of an ONNX file for this GPU, TensorRT version and precision, and builds it if necessary.

    The cache holds one engine for each model path and precision, which accepts images of any size. If it does not fit
    any more, it is built again, and one line in the log says why. If several processes ask for the same engine, one
    builds it and the others wait.

    Args:
        path: The ONNX file.
        spec: The spec given by the caller. None: the one beside the file or in it.
        precision: Precision of the engine, one of `PRECISIONS`.
        gpu: The GPU on which the engine will run.

    Returns:
        The path of the engine file. Its `EngineInfo` lies beside it.

    Raises:
        MissingDependencyError: If TensorRT or the package onnx cannot be imported.
        ModelError: If the model cannot be read or built.
        DeviceError: If there is no usable GPU, or no TensorRT that is installed runs on it.
        OSError: If a file cannot be read or written.
    """
    import filelock

    trt = import_tensorrt("running on the GPU", gpu=gpu)
    key = hashlib.sha256(f"{path.resolve()}\n{precision}".encode()).hexdigest()[:16]
    engine = cache_dir() / f"{path.stem}-{precision}-{key}.engine"
    with filelock.FileLock(engine.with_suffix(".lock")):
        finish_killed_write(engine, EngineInfo.path_for(engine))
        of_this_gpu = gpu if needs_gpu_to_build(trt) else None
        fingerprint = expected_fingerprint(trt, path, precision=precision, spec=spec, gpu=of_this_gpu)
        why = _why_not_usable(engine, lambda info: info.mismatch(fingerprint))
        if why is not None:
            _log.warning("%s: building its TensorRT engine, which can take minutes. Reason: %s.", path.name, why)
            build_engine(path, engine, precision=precision, spec=spec)
    return engine


def _why_not_usable(engine: Path, mismatch: Callable[[EngineInfo], str | None]) -> str | None:
    """Why the cached engine cannot be used, or None if it can."""
    if not engine.is_file():
        return "the cache has no engine of this model yet"
    try:
        info = EngineInfo.load(engine)
        info.check_belongs(engine.read_bytes(), engine)
    except (ModelError, OSError) as error:
        return f"the engine in the cache is damaged ({error})"
    return mismatch(info)
