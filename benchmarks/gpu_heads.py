"""Head outputs in the GPU's memory, with a lane around them whose network does nothing: TensorRT is not needed."""

from __future__ import annotations

import importlib
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from retinasdk.convert.flavours import flavour_spec
from retinasdk.cuda.device import CudaDevice
from retinasdk.cuda.memory import DeviceBuffer
from retinasdk.pipeline.preprocess import Transform
from retinasdk.pipeline.rules import logit
from retinasdk.pipeline.suppression import AS_FRAMEWORK, Suppression
from retinasdk.spec import ModelSpec
from retinasdk.tensorrt.lane import Lane
from retinasdk.tensorrt.loaded_engine import Engine

STRIDES = (8, 16, 32, 64, 128)  # P3 to P7
Levels = list[npt.NDArray[np.float32]]


def use_driver() -> str:
    """Makes sure that there is a pycuda.driver or what stands in for it; returns which of them."""
    if os.environ.get("RETINASDK_GPU_TESTS") == "fake":
        return "stand-in"
    sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "support"))
    return str(importlib.import_module("libcuda_driver").pycuda_or_stand_in())


def spec_of(classes: int) -> ModelSpec:
    """torchvision's rules for so many classes."""
    return flavour_spec("torchvision").replace(labels=tuple(f"class {index}" for index in range(classes)))


def cells(size: tuple[int, int]) -> list[tuple[int, int]]:
    return [(math.ceil(size[0] / stride), math.ceil(size[1] / stride)) for stride in STRIDES]


def normal_heads(spec: ModelSpec, size: tuple[int, int]) -> tuple[Levels, Levels]:
    """Independent normal logits around 0, and small normal deltas, of one image: (1, channels, rows, columns)."""
    random = np.random.default_rng(0)
    anchors = spec.anchors_per_cell

    def levels(channels: int, scale: float) -> Levels:
        return [
            np.float32(scale) * random.standard_normal((1, channels, *level), dtype=np.float32) for level in cells(size)
        ]

    return levels(anchors * len(spec.labels), 1.0), levels(anchors * 4, 0.2)


def shift(spec: ModelSpec, passing: float) -> Any:
    """What moves normal logits so that this share of them is above the spec's threshold."""
    deviations = 6.0 if passing >= 1 else -NormalDist().inv_cdf(1 - passing)
    return np.float32(float(logit(spec.score_threshold)) + deviations)


def batched(levels: Levels, batch: int, added: Any, dtype: str) -> list[npt.NDArray[Any]]:
    """The levels for a batch: the same values for each image, at other places."""
    images = [[np.roll(level, 997 * image) for image in range(batch)] for level in levels]
    return [np.concatenate([image + added for image in level]).astype(dtype) for level in images]


class _NoNetwork:
    """An execution context and its engine, whose outputs are there already: row-major, as `batched` makes them."""

    active_optimization_profile = 0

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self._shapes = shapes

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def get_tensor_strides(self, name: str) -> tuple[int, ...]:
        shape = self._shapes[name]
        return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))

    def get_tensor_vectorized_dim(self, name: str) -> int:
        return -1

    def set_tensor_address(self, name: str, address: int) -> bool:
        return True

    def execute_async_v3(self, stream: int) -> bool:
        return True


class _HeadsEngine(Engine):
    """What a lane asks of an engine, without one."""

    def __init__(self, device: CudaDevice, spec: ModelSpec, shapes: dict[str, tuple[int, ...]], dtype: str) -> None:
        self.device, self.spec, self.path = device, spec, Path("no network")
        self._runtime, self._engine = None, _NoNetwork(shapes)
        self._anchors = DeviceBuffer(device, "anchors")
        self.input_dtype = np.dtype(dtype)
        self.output_dtypes = dict.fromkeys(shapes, np.dtype(dtype))
        self.base_anchors = self._upload_anchors()

    def new_context(self) -> Any:
        return self._engine


class GpuHeads:
    """A lane that is set up for heads of this size; the device's context must be current."""

    def __init__(self, lane: Lane, spec: ModelSpec, transforms: list[Transform]) -> None:
        self.lane, self.spec, self.transforms = lane, spec, transforms

    def upload(self, logits: Sequence[npt.NDArray[Any]], deltas: Sequence[npt.NDArray[Any]]) -> None:
        lane: Any = self.lane
        for level, scores, boxes in zip(self.spec.levels, logits, deltas, strict=True):
            for name, array in ((level.logits, scores), (level.deltas, boxes)):
                lane._device.driver.memcpy_htod(lane._address(lane._plan.outputs[name]), np.ascontiguousarray(array))
        lane._device.driver.Context.synchronize()

    def decode(self) -> None:
        lane: Any = self.lane
        lane._native.decode(**lane._decode_arguments, stream=lane._stream.handle)

    def suppress(self) -> None:
        lane: Any = self.lane
        lane._suppress(**lane._suppress_arguments, stream=lane._stream.handle)

    def both(self) -> None:
        self.decode()
        self.suppress()

    def results(self) -> list[Any]:
        """The detections of each image, in pixels of the network's input."""
        lane: Any = self.lane
        self.both()
        lane._results.download(0, lane._plan.result_bytes, lane._stream)
        lane._stream.wait()
        found: list[Any] = lane._read_results()
        return found


@contextmanager
def opened_heads(
    device: CudaDevice,
    spec: ModelSpec,
    size: tuple[int, int],
    *,
    batch: int,
    dtype: str,
    suppression: Suppression = AS_FRAMEWORK,
) -> Iterator[GpuHeads]:
    """Memory for heads of this (height, width) of network input, and thresholds of the spec in it."""
    anchors, classes = spec.anchors_per_cell, len(spec.labels)
    shapes: dict[str, tuple[int, ...]] = {}
    for level, grid in zip(spec.levels, cells(size), strict=True):
        shapes[level.logits] = (batch, anchors * classes, *grid)
        shapes[level.deltas] = (batch, anchors * 4, *grid)
    engine = _HeadsEngine(device, spec, shapes, dtype)
    lane: Any = None
    try:
        lane = Lane(engine, set(), suppression)
        transforms = [Transform(original=size, resized=size, padded=size)] * batch
        lane._set_shape((batch, 3, *size))
        lane._set_parameters(transforms, spec.score_threshold, ())
        lane._parameters.upload(0, lane._plan.parameter_bytes, lane._stream)
        lane._stream.wait()
        yield GpuHeads(lane, spec, transforms)
    finally:
        if lane is not None:
            lane.close()
        engine.close()
