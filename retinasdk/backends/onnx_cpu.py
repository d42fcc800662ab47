"""The CPU backend: runs a RetinaNet with ONNX Runtime."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk._util.lazy import require
from retinasdk._util.onnx_functions import FunctionsError, check_functions
from retinasdk.backends import winograd_graph
from retinasdk.backends.base import DEFAULT_CONVOLUTION
from retinasdk.cuda.decoded_frame import is_decoded_frame
from retinasdk.cuda.device_frame import DeviceFrame
from retinasdk.errors import ClosedError, ModelError
from retinasdk.images import ImageInput, as_rgb
from retinasdk.onnx_graph.model_file import TensorInfo, check_fits, find_spec
from retinasdk.onnx_graph.model_pair import read_unchanged
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
_CLOSED = "The Detector is closed. Create a new one."


class OnnxCpuBackend:
    """Runs a RetinaNet with raw head outputs on the CPU.

    Several threads may call it at once.

    Attributes:
        device: "cpu".
        spec: The spec of the model.
        max_batch: None: there is no limit.
        fixed_batch: The only batch size that the network accepts, or None. Smaller batches are padded to it here.
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
        """Loads the network.

        Args:
            path: An ONNX file.
            spec: The spec of the model. None: the one in `<model>.json` beside the file, else the one in its metadata.
            threads: Number of threads per call. None: one for each core.
            suppression: How overlapping boxes are resolved.
            convolution: "auto" uses Winograd's algorithm for 3x3 convolutions if it is faster; "direct" uses those of
                ONNX Runtime.

        Raises:
            ModelError: If the file cannot be loaded, has no spec, or does not fit its spec.
            MissingDependencyError: If ONNX Runtime is not installed.
        """

        def read() -> tuple[Any, ModelSpec]:
            session = _open_session(path, threads, convolution)
            return session, spec or find_spec(path, session.get_modelmeta().custom_metadata_map)

        self._session, self.spec = read_unchanged(path, read)
        self._convolution = convolution
        self._process = os.getpid()
        self._path = path
        self._suppression = suppression
        self._cores = threads or _usable_cores()
        self._worker: OnnxCpuBackend | None = None
        self._making_worker = threading.Lock()
        self.fixed_batch = check_fits(*_inputs_and_outputs(self._session), self.spec, path)
        self._outputs = [level.logits for level in self.spec.levels] + [level.deltas for level in self.spec.levels]

    def read(self, image: ImageInput) -> npt.NDArray[np.uint8]:
        """Returns the image as RGB uint8 (H, W, 3). See `images.as_rgb`.

        Raises:
            TypeError: If it is not an image, or a frame in GPU memory.
        """
        if isinstance(image, DeviceFrame) or is_decoded_frame(image):
            raise TypeError(
                "the frame is in GPU memory, but this detector runs on the CPU; use Detector(device='cuda'), or copy "
                "the frame to the CPU with DeviceFrame.to_rgb()"
            )
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
        """Detects objects in images that result in the same network input size. See `Backend.detect`.

        Raises:
            ModelError: If the network fails or its outputs do not fit the spec.
            DeviceError: If the backend is closed, or was created before a fork.
        """
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
        """Runs the network alone on a (N, 3, h, w) float32 input. See `Backend.infer`.

        Raises:
            ModelError: If the network fails.
            DeviceError: If the backend is closed, or was created before a fork.
        """
        session = self._session  # Another thread may close the backend meanwhile.
        if session is None:
            raise ClosedError(_CLOSED)
        if os.getpid() != self._process:  # The session's threads do not exist here, so it would wait for them forever.
            raise ClosedError(
                "The Detector was created before this process was forked, and its threads do not work across a fork. "
                'Create it after the fork, or start processes with multiprocessing.get_context("spawn").'
            )
        count = len(tensor)
        if self.fixed_batch is not None and count < self.fixed_batch:  # The batch is padded with copies.
            tensor = np.concatenate([tensor, np.repeat(tensor[-1:], self.fixed_batch - count, axis=0)])
        try:
            outputs = session.run(self._outputs, {self.spec.input: tensor})
        except Exception as error:
            raise ModelError(
                f"ONNX Runtime failed for an input of shape {tensor.shape}: {_first_line(error)}"
            ) from error
        levels, outputs = len(self.spec.levels), [output[:count] for output in outputs]
        return HeadOutputs(tuple(outputs[:levels]), tuple(outputs[levels:]))

    def for_workers(self) -> tuple[OnnxCpuBackend, int]:
        """Returns a backend with one thread per call, and the number of cores. See `Backend.for_workers`.

        Raises:
            DeviceError: If the backend is closed.
        """
        with self._making_worker:
            if self._session is None:
                raise ClosedError(_CLOSED)
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
        """Releases the network. Later calls raise `DeviceError`."""
        with self._making_worker:
            self._session = None
            if self._worker is not None:
                self._worker.close()


def _open_session(path: Path, threads: int | None, convolution: str) -> Any:
    runtime = require("onnxruntime", "running ONNX models on the CPU")
    _check_functions(path)
    if convolution != "direct":
        session = _open_winograd_session(runtime, path, threads)
        if session is not None:
            return session
    try:
        return runtime.InferenceSession(str(path), _options(runtime, threads), providers=_PROVIDERS)
    except Exception as error:  # The exceptions of ONNX Runtime have no common base class.
        raise ModelError(
            f"{path}: ONNX Runtime cannot load it: {_first_line(error)}; check that it is a complete ONNX file, and "
            "that this version of ONNX Runtime supports its opset"
        ) from error


def _check_functions(path: Path) -> None:
    """Raises `ModelError` for functions that ONNX Runtime would spend hours on, because it replaces all calls."""
    try:
        check_functions(memoryview(path.read_bytes()))
    except FunctionsError as error:
        raise ModelError(f"{path} cannot be loaded: {error}. Export the network again") from error
    except (OSError, ValueError):
        pass  # Opening it reports that better.


def _open_winograd_session(runtime: Any, path: Path, threads: int | None) -> Any:
    """Opens a session with Winograd convolutions. None: it is not possible or not useful, and the log says why."""
    library = winograd_graph.library()
    if library is None:
        _log.info("%s uses direct convolutions: retinasdk was built without its operators for ONNX Runtime", path.name)
        return None
    try:
        edited = winograd_graph.rewritten(path)
        if edited is None:
            return None
        content, replaced = edited
        options = _options(runtime, threads)
        options.register_custom_ops_library(str(library))
        session = runtime.InferenceSession(content, options, providers=_PROVIDERS)
    except Exception as error:  # If the file is not ONNX, opening it without changes reports that better.
        _log.info(
            "%s uses direct convolutions, because Winograd convolutions are not available: %s",
            path.name,
            _first_line(error),
        )
        return None
    _log.debug("%s: %d convolutions use the operators of retinasdk", path.name, replaced)
    return session


def _options(runtime: Any, threads: int | None) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # Errors are raised as exceptions.
    # Otherwise the threads spin after a call while they wait for the next one. On two cores, a call of another detector
    # immediately afterwards took 1.7 times as long.
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
