"""TensorRT on the GPU."""

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
from retinasdk.errors import DeviceError
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

# Execution contexts at a time, each with activations of its own. Two keep a GPU busy while their threads are on the
# host; more only wait less often.
_MAX_LANES = 4
_DEFAULT_PRECISION = "fp16"


class TensorRtBackend:
    """A RetinaNet as a TensorRT engine, with preprocessing, decode and NMS on the GPU too.

    path: an engine with its JSON, or an ONNX file, of which the engine is built on first use and found in the cache
    from then on. precision: of that engine; None: float16.
    """

    device = "cuda"

    def __init__(
        self,
        path: Path,
        *,
        spec: ModelSpec | None,
        precision: str | None,
        suppression: Suppression = AS_FRAMEWORK,
    ) -> None:
        self._process = os.getpid()
        with ExitStack() as opened:  # closes what is open where a later step fails
            self._gpu = gpu = CudaDevice()
            opened.callback(gpu.close)
            with gpu.current():
                self._engine = engine = Engine(gpu, _engine_file(path, spec, precision, gpu), spec)
            opened.callback(gpu.within, engine.close)
            refused: set[Hashable] = set()
            self._pool = LanePool(lambda: _new_lane(engine, refused, suppression), _MAX_LANES)
            opened.callback(gpu.within, self._pool.close)
            # Closes as well when the last reference goes, and at the interpreter's exit.
            self._finalizer = weakref.finalize(self, _release, self._process, opened.pop_all())
        self.spec = engine.spec
        smallest, largest = engine.profile.min[0], engine.profile.max[0]
        self.max_batch: int | None = largest
        self.fixed_batch = largest if smallest == largest else None

    def read(self, image: Any) -> npt.NDArray[np.uint8] | DeviceImage:
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
        count, missing = len(images), self._engine.profile.min[0] - len(images)
        if missing > 0:  # filled up with copies, whose results are left out
            images, transforms = [*images, *[images[-1]] * missing], [*transforms, *[transforms[-1]] * missing]
        with self._lane((len(images), 3, *transforms[0].padded)) as lane, stage("inference"):
            kept = lane.detect(images, transforms, score_threshold=score_threshold, class_ids=class_ids, ignore=ignore)
            return kept[:count]

    def infer(self, tensor: npt.NDArray[np.float32]) -> HeadOutputs:
        count, missing = len(tensor), self._engine.profile.min[0] - len(tensor)
        if missing > 0:
            tensor = np.concatenate([tensor, np.repeat(tensor[-1:], missing, axis=0)])
        with self._lane(tensor.shape) as lane:
            heads = lane.infer(tensor)
        return HeadOutputs(tuple(item[:count] for item in heads.logits), tuple(item[:count] for item in heads.deltas))

    def for_workers(self) -> tuple[TensorRtBackend, int]:
        return self, 2  # one is on the host while the other's work runs on the GPU

    @contextmanager
    def _lane(self, shape: tuple[int, ...]) -> Iterator[Lane]:
        """A lane for this call, with the GPU's context current in this thread."""
        if os.getpid() != self._process:  # CUDA does not work in a forked process
            raise DeviceError(
                "the Detector was made before this process was forked; make it after the fork, or start processes by "
                'multiprocessing.get_context("spawn")'
            )
        if not self._finalizer.alive:
            raise DeviceError(CLOSED)
        profile = self._engine.profile
        if not profile.holds(shape):
            raise ValueError(
                f"{self._engine.path.name} takes inputs of {profile.min} to {profile.max} (images, channels, height, "
                f"width), got {shape}; build it for that size: retinasdk.build_engine(..., batch=..., sizes=...)"
            )
        with self._gpu.current(), self._pool.lane(shape) as lane:
            yield lane

    def close(self) -> None:
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
    """The engine that `path` is, or the one built of the ONNX file that it is. Raises `ModelError` or `ValueError`."""
    if path.suffix == ENGINE_SUFFIX:
        return path
    from retinasdk.tensorrt.cache import cached_engine

    return cached_engine(path, spec=spec, precision=precision or _DEFAULT_PRECISION, gpu=gpu_identity(gpu.native))
