"""The kernels beside decode and NMS: preprocessing of RGB and NV12, soft NMS, fusion of boxes, NMS of rotated boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
from gpu_heads import batched, normal_heads, opened_heads, shift
from gpu_stages import graph_time

from retinasdk.cuda.device import CudaDevice
from retinasdk.cuda.memory import DeviceBuffer
from retinasdk.pipeline.suppression import Suppression
from retinasdk.spec import ModelSpec
from retinasdk.tensorrt.lane import Lane

PASSING = 0.003
PHOTO = (1080, 1920)
ROTATED = 5000  # candidates for the NMS of rotated boxes


def other_kernels(device: CudaDevice, spec: ModelSpec, size: tuple[int, int], rounds: int) -> dict[str, float]:
    """Medians in ms, in CUDA graphs of ten launches, for one image; the device's context must be current."""
    found: dict[str, float] = {}
    scores, boxes = normal_heads(spec, size)
    logits, deltas = batched(scores, 1, shift(spec, PASSING), "float32"), batched(boxes, 1, np.float32(0), "float32")
    for rule in ("soft_linear", "fusion"):
        with opened_heads(device, spec, size, batch=1, dtype="float32", suppression=Suppression(rule)) as heads:
            heads.upload(logits, deltas)
            heads.decode()
            found[f"{rule}, candidates of {100 * PASSING:g}%"] = graph_time(heads.lane, heads.suppress, rounds)
            if rule == "fusion":
                found |= _preprocess(heads.lane, spec, size, rounds)
                found |= _rotated(heads.lane, rounds)
    return found


class _Blocks:
    """Device memory for the length of a measurement."""

    def __init__(self, lane: Lane) -> None:
        self._device: Any = lane._device
        self._blocks: list[DeviceBuffer] = []

    def room(self, size_bytes: int) -> int:
        block = DeviceBuffer(self._device, "a benchmark")
        block.reserve(max(size_bytes, 1))
        self._blocks.append(block)
        return block.address

    def put(self, array: Any) -> int:
        address = self.room(array.nbytes)
        self._device.driver.memcpy_htod(address, array)
        return address

    def free(self) -> None:
        for block in self._blocks:
            block.free()


def _preprocess(lane: Lane, spec: ModelSpec, size: tuple[int, int], rounds: int) -> dict[str, float]:
    """A photo of 1080 x 1920, squashed to the network's input."""
    native, memory, found = lane._native, _Blocks(lane), {}
    height, width = PHOTO
    pixels = memory.put(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    sizes: dict[str, Any] = {"size": PHOTO, "resized": size, "padded": size, "antialias": spec.resize.antialias}
    scratch_bytes = native.preprocess_scratch_bytes(**sizes)
    scratch, output = memory.room(scratch_bytes), memory.room(3 * size[0] * size[1] * 4)
    nv12 = {"pixels": pixels, "row_bytes": width, "chroma": pixels + height * width, "chroma_row_bytes": width}
    for name, planes in (("rgb", {"pixels": pixels, "row_bytes": 3 * width}), ("nv12", nv12)):
        for dtype in ("float32", "float16"):
            arguments: dict[str, Any] = {
                "format": name,
                **planes,
                **sizes,
                "mean": spec.normalise.mean,
                "std": spec.normalise.std,
                "reverse_channels": False,
                "output": output,
                "dtype": dtype,
                "scratch": scratch,
                "scratch_bytes": scratch_bytes,
                "stream": lane._stream.handle,
            }

            def launch(arguments: dict[str, Any] = arguments) -> None:
                native.preprocess(**arguments)

            found[f"preprocess, {name} {height} x {width} to {size[0]} x {size[1]}, {dtype}"] = graph_time(
                lane, launch, rounds
            )
    memory.free()
    return found


def _rotated(lane: Lane, rounds: int) -> dict[str, float]:
    """Random rotated boxes of 15 classes, as in aerial photos."""
    native, memory, random = lane._native, _Blocks(lane), np.random.default_rng(0)
    angles = random.uniform(-1.5, 1.5, ROTATED)
    boxes = np.stack(
        [
            *random.uniform(0, 1000, (2, ROTATED)),
            *random.uniform(8, 60, (2, ROTATED)),
            np.sin(angles),
            np.cos(angles),
        ],
        axis=1,
    ).astype(np.float32)
    scratch_bytes = native.rotated_nms_scratch_bytes(batch=1, capacity=ROTATED, max_detections=300)
    arguments: dict[str, Any] = {
        "batch": 1,
        "capacity": ROTATED,
        "boxes": memory.put(boxes),
        "logits": memory.put(-np.sort(-random.standard_normal(ROTATED)).astype(np.float32)),
        "class_ids": memory.put(random.integers(0, 15, ROTATED).astype(np.int32)),
        "counts": memory.put(np.array([ROTATED], np.int32)),
        "iou_threshold": 0.3,
        "max_detections": 300,
        "kept": memory.room(300 * 4),
        "kept_counts": memory.room(4),
        "kept_boxes": memory.room(300 * 24),
        "kept_logits": memory.room(300 * 4),
        "kept_class_ids": memory.room(300 * 4),
        "scratch": memory.room(scratch_bytes),
        "scratch_bytes": scratch_bytes,
        "stream": lane._stream.handle,
    }
    found = graph_time(lane, lambda: native.rotated_nms(**arguments), rounds)
    memory.free()
    return {f"rotated_nms, {ROTATED:,} candidates": found}
