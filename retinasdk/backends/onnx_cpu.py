"""ONNX Runtime on the CPU."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk._call_options import Thresholds
from retinasdk._lazy import require
from retinasdk._stages import stage
from retinasdk.backends import DEFAULT_CONVOLUTION, HeadOutputs, _winograd
from retinasdk.errors import DeviceError, ModelError
from retinasdk.images import ImageInput, as_rgb
from retinasdk.postprocess import Kept, decode, suppress
from retinasdk.preprocess import Transform, preprocess
from retinasdk.spec import METADATA_KEY, ModelSpec
from retinasdk.suppression import AS_FRAMEWORK, Suppression

if TYPE_CHECKING:
    import numpy.typing as npt

_log = logging.getLogger("retinasdk")

_PROVIDERS = ["CPUExecutionProvider"]
_CLOSED = "the model is closed; make a new Detector"
_HOW_TO_SPEC = "write a spec beside it (retinasdk.ModelSpec(...).save(path)), or pass Detector(..., spec=...)"


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
        self.spec = spec or _find_spec(path, self._session.get_modelmeta().custom_metadata_map)
        self.fixed_batch = _check_fits(self._session, self.spec, path)
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
        try:
            outputs = session.run(self._outputs, {self.spec.input: tensor})
        except Exception as error:
            raise ModelError(
                f"ONNX Runtime failed on an input of shape {tensor.shape}: {_first_line(error)}"
            ) from error
        levels = len(self.spec.levels)
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
    library = _winograd.library()
    if library is None:
        _log.info("%s: direct convolutions, as retinasdk was built without its operators for ONNX Runtime", path.name)
        return None
    try:
        edited = _winograd.rewritten(path)
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


def _find_spec(path: Path, metadata: dict[str, str]) -> ModelSpec:
    beside = path.with_suffix(".json")
    if beside.is_file():
        return ModelSpec.load(beside)
    if METADATA_KEY in metadata:
        return ModelSpec.from_json(metadata[METADATA_KEY], origin=f"{path}, metadata {METADATA_KEY}")
    raise ModelError(
        f"{path}: wanted a model spec in {beside.name} or in the file's metadata {METADATA_KEY!r}, found neither; "
        + _HOW_TO_SPEC
    )


def _check_fits(session: Any, spec: ModelSpec, path: Path) -> int | None:
    """Raises `ModelError` unless inputs, outputs and channels are the spec's. Returns the fixed batch, if any."""
    inputs = {item.name: item for item in session.get_inputs()}
    if list(inputs) != [spec.input]:
        raise ModelError(
            f"{path}: wanted one input named {spec.input!r}, got {', '.join(inputs) or 'none'}; "
            "is it a RetinaNet with raw heads, and does the spec belong to it?"
        )
    tensor = inputs[spec.input]
    channels_first = len(tensor.shape) == 4 and (tensor.shape[1] == 3 or not isinstance(tensor.shape[1], int))
    if tensor.type != "tensor(float)" or not channels_first:
        raise ModelError(
            f"{path}: input {spec.input!r} must be (N, 3, H, W) float32, got {tensor.shape} {tensor.type}; "
            "export the network without its preprocessing, channels first"
        )
    for axis, name in ((2, "height"), (3, "width")):
        side = tensor.shape[axis]
        if isinstance(side, int) and (spec.resize.rule != "squash" or spec.padded(*spec.resize.size)[axis - 2] != side):
            raise ModelError(
                f"{path}: input {name} is fixed to {side}, but the spec's resize rule {spec.resize.rule!r} "
                "gives other sizes; export with dynamic height and width, or use the rule 'squash' with that size"
            )
    outputs = {item.name: item for item in session.get_outputs()}
    anchors, classes = spec.anchors_per_cell, len(spec.labels)
    for level in spec.levels:
        for name, channels in ((level.logits, anchors * classes), (level.deltas, anchors * 4)):
            if name not in outputs:
                raise ModelError(
                    f"{path}: wanted an output named {name!r}, got {', '.join(outputs)}; does the spec belong to it?"
                )
            shape = outputs[name].shape
            wrong_channels = isinstance(shape[1], int) and shape[1] != channels if len(shape) == 4 else True
            if outputs[name].type != "tensor(float)" or wrong_channels:
                raise ModelError(
                    f"{path}: output {name!r} must be (N, {channels}, h, w) float32 for {anchors} anchors and "
                    f"{classes} classes, got {shape} {outputs[name].type}; does the spec belong to it?"
                )
    batch = tensor.shape[0]
    return batch if isinstance(batch, int) else None
