"""ONNX Runtime on the CPU."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk._util.lazy import require
from retinasdk.backends import winograd_graph
from retinasdk.backends.base import DEFAULT_CONVOLUTION
from retinasdk.errors import DeviceError, ModelError
from retinasdk.images import ImageInput, as_rgb
from retinasdk.onnx_graph.model_file import TensorInfo, check_fits, find_spec
from retinasdk.pipeline.call_options import Thresholds
from retinasdk.pipeline.postprocess import decode, suppress
from retinasdk.pipeline.preprocess import Transform, preprocess
from retinasdk.pipeline.stage_timing import stage
from retinasdk.pipeline.suppression import AS_FRAMEWORK, Suppression
from retinasdk.pipeline.types import HeadOutputs, Kept
from retinasdk.spec import ModelSpec

if TYPE_CHECKING:
    import numpy.typing as npt

_log = logging.getLogger("retinasdk")

_PROVIDERS = ["CPUExecutionProvider"]
_CLOSED = "the model is closed; make a new Detector"


class OnnxCpuBackend:
    """A heads-only RetinaNet in ONNX, with its spec: the one given, else `<model>.json`, else the file's metadata.

    threads: of ONNX Runtime inside one call; None: its own choice, which is one a core.
    convolution: "auto": 3x3 ones by Winograd's algorithm where that is faster; "direct": as ONNX Runtime has them.
    """

    device = "cpu"
    max_batch = None

    def __init__(
        self,
        path: Path,
        *,
        spec: ModelSpec | None,
        threads: int | None,
        suppression: Suppression = AS_FRAMEWORK,
        convolution: str = DEFAULT_CONVOLUTION,
    ) -> None:
        self._session: Any = _open_session(path, threads, convolution)
        self._convolution = convolution
        self._process = os.getpid()
        self._path = path
        self._suppression = suppression
        self._cores = threads or _usable_cores()
        self._worker: OnnxCpuBackend | None = None
        self._making_worker = threading.Lock()
        self.spec = spec or find_spec(path, self._session.get_modelmeta().custom_metadata_map)
        self.fixed_batch = check_fits(*_inputs_and_outputs(self._session), self.spec, path)
        self._outputs = [level.logits for level in self.spec.levels] + [level.deltas for level in self.spec.levels]

    def read(self, image: ImageInput) -> npt.NDArray[np.uint8]:
        return as_rgb(image)

    def detect(
        self,
        images: Sequence[npt.NDArray[np.uint8]],
        transforms: Sequence[Transform],
        *,
        score_threshold: Thresholds,
        class_ids: Sequence[int],
        ignore: npt.NDArray[np.float32] | None = None,
    ) -> list[Kept]:
        with stage("preprocess"):
            batch = preprocess(images, transforms, self.spec)
        with stage("inference"):
            heads = self.infer(batch.tensor)
        with stage("postprocess"):
            candidates = decode(
                heads, self.spec, transforms, score_threshold=score_threshold, class_ids=class_ids, ignore=ignore
            )
            return suppress(candidates, self.spec, self._suppression, score_threshold=score_threshold)

    def infer(self, tensor: npt.NDArray[np.float32]) -> HeadOutputs:
        session = self._session  # another thread may close
        if session is None:
            raise DeviceError(_CLOSED)
        if os.getpid() != self._process:  # its threads are not in this process: it would wait for them for ever
            raise DeviceError(
                "the Detector was made before this process was forked; make it after the fork, or start processes by "
                'multiprocessing.get_context("spawn")'
            )
        count = len(tensor)
        if self.fixed_batch is not None and count < self.fixed_batch:  # filled up with copies of the last
            tensor = np.concatenate([tensor, np.repeat(tensor[-1:], self.fixed_batch - count, axis=0)])
        try:
            outputs = session.run(self._outputs, {self.spec.input: tensor})
        except Exception as error:
            raise ModelError(
                f"ONNX Runtime failed on an input of shape {tensor.shape}: {_first_line(error)}"
            ) from error
        levels, outputs = len(self.spec.levels), [output[:count] for output in outputs]
        return HeadOutputs(tuple(outputs[:levels]), tuple(outputs[levels:]))

    def for_workers(self) -> tuple[OnnxCpuBackend, int]:
        with self._making_worker:
            if self._session is None:
                raise DeviceError(_CLOSED)
            if self._cores == 1:
                return self, 1
            if self._worker is None:
                self._worker = OnnxCpuBackend(
                    self._path,
                    spec=self.spec,
                    threads=1,
                    suppression=self._suppression,
                    convolution=self._convolution,
                )
        return self._worker, self._cores

    def close(self) -> None:
        with self._making_worker:
            self._session = None
            if self._worker is not None:
                self._worker.close()


def _open_session(path: Path, threads: int | None, convolution: str) -> Any:
    runtime = require("onnxruntime", "running ONNX models on the CPU")
    if convolution != "direct":
        session = _open_winograd_session(runtime, path, threads)
        if session is not None:
            return session
    try:
        return runtime.InferenceSession(str(path), _options(runtime, threads), providers=_PROVIDERS)
    except Exception as error:  # its exceptions have no common base
        raise ModelError(
            f"{path}: ONNX Runtime cannot load it: {_first_line(error)}; "
            "is it a complete ONNX file of an opset that this ONNX Runtime knows?"
        ) from error


def _open_winograd_session(runtime: Any, path: Path, threads: int | None) -> Any:
    """None where it cannot be, or would not help; the log says why."""
    library = winograd_graph.library()
    if library is None:
        _log.info("%s: direct convolutions, as retinasdk was built without its operators for ONNX Runtime", path.name)
        return None
    try:
        edited = winograd_graph.rewritten(path)
        if edited is None:
            return None
        content, replaced = edited
        options = _options(runtime, threads)
        options.register_custom_ops_library(str(library))
        session = runtime.InferenceSession(content, options, providers=_PROVIDERS)
    except Exception as error:  # the file may be no ONNX: the plain way tells that better
        _log.info("%s: direct convolutions, as Winograd's are not to be had: %s", path.name, _first_line(error))
        return None
    _log.debug("%s: %d convolutions by retinasdk's operators", path.name, replaced)
    return session


def _options(runtime: Any, threads: int | None) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors come as exceptions
    # Else its threads keep cores busy after a call, waiting for the next one: on two cores another detector's call
    # right behind it took 1.7 times as long.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _inputs_and_outputs(session: Any) -> tuple[list[TensorInfo], list[TensorInfo]]:
    inputs, outputs = (
        [TensorInfo(item.name, item.shape, item.type) for item in items]
        for items in (session.get_inputs(), session.get_outputs())
    )
    return inputs, outputs
