"""Tests CUDA graphs: they are used, and give the results of direct launches, whatever changes between calls."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu_device import IMAGE_SIZES, Gpu, counted
from pictures import LABELS, Image, blocks

from retinasdk import Detections, Detector, ModelSpec
from retinasdk._util.labels import class_ids_of
from retinasdk.cuda.device import CudaStream
from retinasdk.cuda.graph import GraphRunner
from retinasdk.cuda.memory import DeviceBuffer, Field
from retinasdk.pipeline.postprocess import postprocess
from retinasdk.pipeline.preprocess import Transform, preprocess
from retinasdk.tensorrt.lane_images import LaneImages

Call = tuple[Any, dict[str, Any]]  # what a detector is called with


def launched_plainly(engine: Path, calls: list[Call]) -> list[Any]:
    """The results of a detector that uses no CUDA graph."""
    with pytest.MonkeyPatch.context() as patch, Detector(engine, device="cuda") as detector:
        patch.setattr(GraphRunner, "run", lambda runner, key, stream, launch, directly=None: launch())
        return [detector(image, **options) for image, options in calls]


def postprocessed_on_the_cpu(on_gpu: Detector, image: Image, options: dict[str, Any]) -> Detections:
    """Returns what the CPU detects in the head outputs that the GPU computes."""
    spec, transform = on_gpu.spec, Transform.plan(image.shape[:2], on_gpu.spec)
    heads = on_gpu._backend.infer(preprocess([image], [transform], spec).tensor)
    threshold = options.get("score_threshold", on_gpu.score_threshold)
    class_ids = class_ids_of(options["classes"], spec.labels) if "classes" in options else ()
    return postprocess(heads, spec, [transform], score_threshold=threshold, class_ids=class_ids)[0]


def assert_graphs_give_the_same(
    gpu: Gpu, engine: Path, on_gpu: Detector, calls: list[Call], *, shapes: int, graphs_of_a_shape: int = 1
) -> list[Any]:
    """From the second frame of an input shape on, there is a graph."""
    wanted = launched_plainly(engine, calls)
    with counted(gpu.native, "decode") as decodes, counted(gpu.native, "launch_graph") as graphs:
        found = [on_gpu(image, **options) for image, options in calls]
    assert len(decodes) == (1 + graphs_of_a_shape) * shapes  # the first frame of a shape, and the recordings
    assert len(graphs) == len(calls) - shapes
    assert any(len(result) > 0 for result in wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours == theirs
        if isinstance(ours, Detections):
            assert ours.xyxy.tobytes() == theirs.xyxy.tobytes()
    return found


def test_thresholds_and_classes_change(engine_gpu: Gpu, engine: Path, on_gpu: Detector) -> None:
    options: list[dict[str, Any]] = [{"score_threshold": value} for value in (0.0, 0.1, 0.25, 0.4, 0.6, 1.0)]
    options += [{"classes": classes} for classes in (["dog"], ["chair", "person"], [2], LABELS)]
    options += [{"score_threshold": 0.1, "classes": ["person"]}, {}]
    calls: list[Call] = [(blocks(), chosen) for chosen in options * 3]
    found = assert_graphs_give_the_same(engine_gpu, engine, on_gpu, calls, shapes=1)
    assert found == [postprocessed_on_the_cpu(on_gpu, *call) for call in calls]


def test_images_change(engine_gpu: Gpu, engine: Path, on_gpu: Detector) -> None:
    """Images may differ in pixels, addresses and sizes, and so in resize and clipping."""
    sizes = [(90, 120), (89, 119), (45, 60), (180, 240), (89, 120)]
    calls: list[Call] = [(blocks(*size, seed=seed), {}) for seed, size in enumerate(sizes * 4)]
    # One graph from the network on, and one for the whole frame of each size.
    found = assert_graphs_give_the_same(engine_gpu, engine, on_gpu, calls, shapes=1, graphs_of_a_shape=1 + len(sizes))
    assert found == [postprocessed_on_the_cpu(on_gpu, *call) for call in calls]


def test_an_upload_in_a_graph_copies_what_is_there_when_it_runs(gpu: Gpu, stream: CudaStream, spec: ModelSpec) -> None:
    """A graph holds addresses, not pixels: those of the pinned block are read in each run. Needs no engine."""
    image = blocks()
    transform = Transform.plan(image.shape[:2], spec)
    field = Field(0, (1, 3, *transform.padded), np.dtype(np.float32))
    images, target = LaneImages(gpu.device, spec, stream), DeviceBuffer(gpu.device, "a network's input")
    target.reserve(math.prod(field.shape) * 4)
    runner = GraphRunner(gpu.native, set())
    runner.begin(field.shape)
    found = np.empty(field.shape, field.dtype)
    with counted(gpu.native, "launch_graph") as graphs:
        for seed in range(6):
            image = blocks(seed=seed)
            prepared = images.prepare([image], [transform], field, target.address)
            runner.run(prepared.key, stream.handle, partial(images.launch, prepared))
            gpu.driver.memcpy_dtoh_async(found, target.address, stream.driver_stream)
            stream.wait()
            assert found.tobytes() == preprocess([image], [transform], spec).tensor.tobytes()
    assert len(graphs) == 5
    for release in (runner.forget, images.free, target.free):
        release()


def test_batches(engine_gpu: Gpu, engine: Path, on_gpu: Detector) -> None:
    lists = [[blocks(seed=10 * turn + i) for i in range(3)] for turn in range(6)]
    assert_graphs_give_the_same(engine_gpu, engine, on_gpu, [(images, {}) for images in lists], shapes=1)


def test_shapes_change(engine_gpu: Gpu, engine: Path, on_gpu: Detector) -> None:
    """Another input shape discards the graph. The second frame of the new shape records a new one."""
    calls: list[Call] = [(blocks(*size), {}) for size in IMAGE_SIZES[:2] * 2 for _ in range(4)]
    assert_graphs_give_the_same(engine_gpu, engine, on_gpu, calls, shapes=4)
