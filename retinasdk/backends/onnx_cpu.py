"""The CPU backend: runs a RetinaNet with ONNX Runtime."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk._util.processor import usable_cores
from retinasdk.backends.chosen_session import open_model
from retinasdk.backends.convolution import DEFAULT_CONVOLUTION, ConvolutionChoice
from retinasdk.backends.sessions import first_line
from retinasdk.cuda.decoded_frame import is_decoded_frame
from retinasdk.cuda.device_frame import DeviceFrame
from retinasdk.errors import ClosedError, ModelError
from retinasdk.images import ImageInput, as_rgb
from retinasdk.onnx_graph.model_file import TensorInfo, check_fits
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

_CLOSED = "The Detector is closed. Create a new one."


class OnnxCpuBackend:
    """Runs a RetinaNet with raw head outputs on the CPU.

    Several threads may call it at once.

    Attributes:
        device: "cpu".
        spec: The spec of the model.
        max_batch: None: there is no limit.
        fixed_batch: The only batch size that the network accepts, or None. Smaller batches are padded to it here.
        convolution: Which convolutions the network uses, and why.
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
            convolution: "direct": the convolutions of ONNX Runtime. "blocked": those of retinasdk. "auto": what is
                faster on this machine.

        Raises:
            ModelError: If the file cannot be loaded, has no spec, or does not fit its spec.
            MissingDependencyError: If ONNX Runtime is not installed.
            ValueError: If RETINASDK_ISA names an instruction set that this processor does not have.
        """
        opened = read_unchanged(path, lambda: open_model(path, spec=spec, threads=threads, convolution=convolution))
        self._session, self.spec = opened.session, opened.spec
        self.convolution: ConvolutionChoice = opened.choice
        self._process = os.getpid()
        self._path = path
        self._suppression = suppression
        self._cores = threads or usable_cores()
        self._worker: OnnxCpuBackend | None = None
        self._making_worker = threading.Lock()
        self.fixed_batch = check_fits(*_inputs_and_outputs(self._session), self.spec, path)
        self._outputs = [level.logits for level in self.spec.levels] + [level.deltas for level in self.spec.levels]

    def read(self, image: ImageInput) -> npt.NDArray[np.uint8]:
        """Returns the image as RGB uint8 (H, W, 3). An array that has BGR in memory is not copied.

        Raises:
            TypeError: If it is not an image, or a frame in GPU memory.
        """
        if isinstance(image, DeviceFrame) or is_decoded_frame(image):
            raise TypeError(
                "the frame is in GPU memory, but this detector runs on the CPU; use Detector(device='cuda'), or copy "
                "the frame to the CPU with DeviceFrame.to_rgb()"
            )
        return as_rgb(image, keep_reversed=True)

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
            batch = preprocess(images, transforms, self.spec, threads=self._cores)
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
                f"ONNX Runtime failed for an input of shape {tensor.shape}: {first_line(error)}"
            ) from error
        levels, outputs = len(self.spec.levels), [output[:count] for output in outputs]
        return HeadOutputs(tuple(outputs[:levels]), tuple(outputs[levels:]))

    def for_workers(self) -> tuple[OnnxCpuBackend, int]:
        """Returns a backend with one thread per call, and the number of cores. See `Backend.for_workers`.

        It uses the same convolutions. Nothing is measured again for one thread, because a call waits for it.

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
                    convolution=self.convolution.name,
                )
        return self._worker, self._cores

    def close(self) -> None:
        """Releases the network. Later calls raise `DeviceError`."""
        with self._making_worker:
            self._session = None
            if self._worker is not None:
                self._worker.close()


def _inputs_and_outputs(session: Any) -> tuple[list[TensorInfo], list[TensorInfo]]:
    inputs, outputs = (
        [TensorInfo(item.name, item.shape, item.type) for item in items]
        for items in (session.get_inputs(), session.get_outputs())
    )
    return inputs, outputs
