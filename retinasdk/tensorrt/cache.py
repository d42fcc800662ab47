"""Engines that were built on first use, kept from one run to the next."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from retinasdk._util.cache_dir import cache_dir
from retinasdk.cuda.device import GpuIdentity
from retinasdk.errors import ModelError
from retinasdk.spec import ModelSpec
from retinasdk.tensorrt.build import build_engine, wanted_fingerprint
from retinasdk.tensorrt.engine_info import EngineInfo
from retinasdk.tensorrt.versions import import_tensorrt, needs_gpu_to_build

_log = logging.getLogger("retinasdk")


def cached_engine(path: Path, *, spec: ModelSpec | None, precision: str, gpu: GpuIdentity) -> Path:
    """The engine of an ONNX file for this GPU, TensorRT and precision: from the cache, or built now, for any size.

    One engine is kept for each model's path and precision; if it does not fit any more it is built again, with one line
    in the log that says why. Of several processes one builds, the others wait for it.
    Raises as `build_engine`.
    """
    trt = import_tensorrt("running on the GPU")
    place = hashlib.sha256(f"{path.resolve()}\n{precision}".encode()).hexdigest()[:16]
    engine = cache_dir() / f"{path.stem}-{precision}-{place}.engine"
    with _locked(engine.with_suffix(".lock")):
        of_this_gpu = gpu if needs_gpu_to_build(trt) else None
        fingerprint = wanted_fingerprint(trt, path, precision=precision, spec=spec, gpu=of_this_gpu)
        why = _why_not(engine, lambda info: info.mismatch(fingerprint))
        if why is not None:
            _log.warning("%s: building its engine, which can take minutes: %s", path.name, why)
            build_engine(path, engine, precision=precision, spec=spec)
    return engine


def _why_not(engine: Path, mismatch: Callable[[EngineInfo], str | None]) -> str | None:
    """Why the engine in the cache is of no use; None: it is."""
    if not engine.is_file():
        return "there is none in the cache yet"
    try:
        info = EngineInfo.load(engine)
        info.check_belongs(engine.read_bytes(), engine)
    except (ModelError, OSError) as error:
        return f"the one in the cache is damaged ({error})"
    return mismatch(info)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Within it, no other process that asks for the same is; where files cannot be locked, one may be."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # let go with the file
        yield
