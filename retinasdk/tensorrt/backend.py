"""The GPU backend: runs a RetinaNet as a TensorRT engine, with preprocessing and post-processing on the GPU too."""

from __future__ import annotations

import os
import weakref
from collections.abc import Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk.cuda.device import CudaDevice, gpu_identity
from retinasdk.cuda.device_image import DeviceImage, as_device_image
from retinasdk.errors import ClosedError
from retinasdk.images import as_rgb
from retinasdk.pipeline.call_options import Thresholds
from retinasdk.pipeline.preprocess import Transform
from retinasdk.pipeline.stage_timing import stage
from retinasdk.pipeline.suppression import AS_FRAMEWORK, Suppression
from retinasdk.pipeline.types import HeadOutputs, Kept
from retinasdk.spec import ModelSpec
from retinasdk.tensorrt.engine_info import ENGINE_SUFFIX
from retinasdk.tensorrt.lane import Lane
from retinasdk.tensorrt.lane_pool import CLOSED, LanePool
from retinasdk.tensorrt.loaded_engine import Engine

if TYPE_CHECKING:
    import numpy.typing as npt

# The most execution contexts that exist at a time. Each needs memory for its activations. Two keep the GPU busy while
# one of the threads works on the host; further ones only shorten the wait of further threads.
_MAX_LANES = 4
_DEFAULT_PRECISION = "fp16"


class TensorRtBackend:
    """Runs a RetinaNet on the GPU: preprocessing, network, decoding and suppression.

    Several threads may call it at once.

    Attributes:
        device: "cuda".
        spec: The spec of the model.
        max_batch: The most images that one call may have.
        convolution: None: TensorRT chooses the convolutions.
        fixed_batch: The number of images that the engine runs at a time if it accepts no other number. Smaller calls
            are padded to it here.
    """

    device = "cuda"
    convolution = None

    def __init__(
        self,
        path: Path,
        *,
        spec: ModelSpec | None,
        precision: str | None,
        suppression: Suppression = AS_FRAMEWORK,
    ) -> None:
        """Opens the GPU and loads the engine.

        Args:
            path: An engine with its JSON file, or an ONNX file. The engine of an ONNX file is built on first use and
                kept in the cache.
            spec: The spec of the model. None: the one that belongs to the file.
            precision: Precision of an engine that is built. None: "fp16".
            suppression: How overlapping boxes are resolved.

        Raises:
            DeviceError: If there is no usable GPU, it fails, or no TensorRT that is installed runs on it.
            ModelError: If the file is not a model or engine for this machine, or does not fit its spec.
            MissingDependencyError: If TensorRT or pycuda cannot be imported.
            OSError: If a file cannot be read or written.
        """
        self._process = os.getpid()
        with ExitStack() as opened:  # If a later step fails, this closes what is open.
            self._gpu = gpu = CudaDevice()
            opened.callback(gpu.close)
            with gpu.current():
                self._engine = engine = Engine(gpu, _engine_file(path, spec, precision, gpu), spec)
            opened.callback(gpu.release, engine.close)
            refused: set[Hashable] = set()
            self._pool = LanePool(lambda: _new_lane(engine, refused, suppression), _MAX_LANES)
            opened.callback(gpu.release, self._pool.close)
            # Also closes when the last reference is gone, and when the interpreter exits.
            self._finalizer = weakref.finalize(self, _release, self._process, opened.pop_all())
        self.spec = engine.spec
        smallest, largest = engine.profile.min[0], engine.profile.max[0]
        self.max_batch: int | None = largest
        self.fixed_batch = largest if smallest == largest else None

    def read(self, image: Any) -> npt.NDArray[np.uint8] | DeviceImage:
        """Returns the image as RGB uint8 (height, width, 3). An image on the GPU is not copied.

        Raises:
            ImageError: If it cannot be read as an image.
            ValueError: If an image on the GPU has another shape.
        """
        return as_device_image(image) or as_rgb(image)

    def detect(
        self,
        images: Sequence[npt.NDArray[np.uint8] | DeviceImage],
        transforms: Sequence[Transform],
        *,
        score_threshold: Thresholds,
        class_ids: Sequence[int],
        ignore: npt.NDArray[np.float32] | None = None,
    ) -> list[Kept]:
        """Detects objects in images that result in the same network input. See `Backend.detect`.

        Raises:
            ValueError: If the engine does not accept an input of that shape.
            DeviceError: If the GPU fails, or the backend is closed.
        """
        count, missing = len(images), self._engine.profile.min[0] - len(images)
        if missing > 0:  # The batch is filled with copies, whose results are dropped.
            images, transforms = [*images, *[images[-1]] * missing], [*transforms, *[transforms[-1]] * missing]
        with self._lane((len(images), 3, *transforms[0].padded)) as lane:
            kept = lane.detect(images, transforms, score_threshold=score_threshold, class_ids=class_ids, ignore=ignore)
            return kept[:count]

    def infer(self, tensor: npt.NDArray[np.float32]) -> HeadOutputs:
        """Runs the network alone on a (N, 3, height, width) float32 input. See `Backend.infer`.

        Raises:
            ValueError: If the engine does not accept an input of that shape.
            DeviceError: If the GPU fails, or the backend is closed.
        """
        count, missing = len(tensor), self._engine.profile.min[0] - len(tensor)
        if missing > 0:
            tensor = np.concatenate([tensor, np.repeat(tensor[-1:], missing, axis=0)])
        with self._lane(tensor.shape) as lane:
            heads = lane.infer(tensor)
        return HeadOutputs(tuple(item[:count] for item in heads.logits), tuple(item[:count] for item in heads.deltas))

    def for_workers(self) -> tuple[TensorRtBackend, int]:
        """Returns the backend for a pipeline's workers and how many of them to use.

        Two workers keep the GPU busy: one works on the host while the work of the other runs on the GPU.
        """
        return self, 2

    @contextmanager
    def _lane(self, shape: tuple[int, ...]) -> Iterator[Lane]:
        """Lends a lane to this call and makes the GPU's context current in this thread."""
        if os.getpid() != self._process:
            raise ClosedError(
                "The Detector was created before this process was forked, and CUDA does not work across a fork. Create "
                'it after the fork, or start processes with multiprocessing.get_context("spawn").'
            )
        if not self._finalizer.alive:
            raise ClosedError(CLOSED)
        profile = self._engine.profile
        if not profile.holds(shape):
            raise ValueError(
                f"{self._engine.path.name} accepts inputs from {profile.min} to {profile.max} (images, channels, "
                f"height, width), but got {shape}. Build an engine for that size: retinasdk.build_engine(..., "
                "batch=..., sizes=...)"
            )
        with self._gpu.current(), ExitStack() as lent:
            with stage("queue"):
                lane = lent.enter_context(self._pool.lane(shape))
            yield lane

    def close(self) -> None:
        """Releases the GPU. Waits for calls that are in progress; later calls raise `DeviceError`."""
        self._finalizer()


def _release(process: int, opened: ExitStack) -> None:
    if os.getpid() == process:
        opened.close()


def _new_lane(engine: Engine, refused: set[Hashable], suppression: Suppression) -> Lane | None:
    lane = Lane(engine, refused, suppression)
    if lane.is_usable:
        return lane
    lane.close()
    return None


def _engine_file(path: Path, spec: ModelSpec | None, precision: str | None, gpu: CudaDevice) -> Path:
    """The path itself if it is an engine, else the cached engine of the ONNX file, which is built if necessary."""
    if path.suffix == ENGINE_SUFFIX:
        return path
    from retinasdk.tensorrt.cache import cached_engine

    return cached_engine(path, spec=spec, precision=precision or _DEFAULT_PRECISION, gpu=gpu_identity(gpu.native))
