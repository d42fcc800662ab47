"""Compares engines on the GPU with the ONNX file on the CPU: raw heads within tolerances, post-processing exactly.

Note [Tolerances]. Heads in float32 differ because sums of up to 2304 products are added in another order: by about
sqrt(2304) * 2^-24 = 3e-6 of their size in a layer, and sqrt(60) times as much after 60 layers. On the bundled network,
ONNX Runtime with and without its optimizer differs by 1.4e-6. FP32_TOLERANCE leaves room for Winograd convolutions, but
not for TF32, which rounds factors to 2^-11.
In "fp16" and "int8", the precision itself is the error. It can be measured: ONNX Runtime has it too if it runs the same
converted graph node by node. The error of an engine may be a multiple of that: 4 times for float16, because an engine
may also add in float16; 1.5 times for int8, because ONNX Runtime's own ways to run such a graph differ by a tenth.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import paths
import pytest
from gpu_device import IMAGE_SIZES, Gpu, converted_graph
from pictures import Image, blocks

from retinasdk import Detections, Detector, ModelSpec, Resize
from retinasdk.images import as_rgb
from retinasdk.models import find_model
from retinasdk.pipeline.postprocess import postprocess
from retinasdk.pipeline.preprocess import Transform, preprocess
from retinasdk.pipeline.types import HeadOutputs
from retinasdk.tensorrt.lane import Lane

FP32_TOLERANCE = 1e-4
ALLOWED = {"fp16": 4.0, "int8": 1.5}
PHOTOS = paths.PHOTOS / "people"


@dataclass(frozen=True)
class Model:
    path: Path  # of the ONNX file, its spec beside it
    spec: ModelSpec
    images: list[Image]
    engines: Path  # folder of those built of it


@pytest.fixture(scope="module", params=["tiny", "people"])
def model(
    request: pytest.FixtureRequest, model_path: Path, spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory
) -> Model:
    """A network with random weights, and the bundled one."""
    engines = tmp_path_factory.mktemp("engines")
    if request.param == "tiny":
        images = [blocks(*size, seed=seed) for seed, size in enumerate(IMAGE_SIZES)]
        return Model(model_path, spec, images, engines)
    path = find_model("people")
    images = [as_rgb(file) for file in sorted(PHOTOS.glob("*.jpg"))]
    return Model(path, ModelSpec.load(path.with_suffix(".json")), images, engines)


@pytest.fixture(scope="module")
def on_cpu(model: Model) -> Iterator[Detector]:
    with Detector(model.path, device="cpu") as detector:
        yield detector


def built(gpu: Gpu, model: Model, precision: str) -> Path:
    """The engine for the model's image size, built once."""
    engine = model.engines / f"{precision}.engine"
    if engine.exists():
        return engine
    sizes = [(image.shape[0], image.shape[1]) for image in model.images]
    return gpu.build_engine(model.path, engine, batch=(1, 1, 2), sizes=sizes, precision=precision, images=model.images)


def heads_by_name(heads: HeadOutputs, spec: ModelSpec) -> dict[str, npt.NDArray[np.float32]]:
    names = [level.logits for level in spec.levels] + [level.deltas for level in spec.levels]
    return dict(zip(names, heads.logits + heads.deltas, strict=True))


def network_input(image: Image, spec: ModelSpec) -> npt.NDArray[np.float32]:
    return preprocess([image], [Transform.plan(image.shape[:2], spec)], spec).tensor


# -- raw heads ---------------------------------------------------------------------------------------------------------


def test_fp32_heads(engine_gpu: Gpu, model: Model, on_cpu: Detector) -> None:
    """The error is at most FP32_TOLERANCE times the largest value of the output: Note [Tolerances]."""
    with Detector(built(engine_gpu, model, "fp32"), device="cuda") as on_gpu:
        for image in model.images:
            tensor = network_input(image, model.spec)
            ours = heads_by_name(on_gpu._backend.infer(tensor), model.spec)
            for name, wanted in heads_by_name(on_cpu._backend.infer(tensor), model.spec).items():
                assert (ours[name].shape, ours[name].dtype) == (wanted.shape, wanted.dtype)
                error = np.abs(ours[name] - wanted).max() / np.abs(wanted).max()
                assert error <= FP32_TOLERANCE, f"{name}: off by {error:.1e} of its largest value"


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_heads_of_lower_precision(engine_gpu: Gpu, model: Model, on_cpu: Detector, precision: str) -> None:
    """The error is at most that of the same graph on the CPU, times a factor: Note [Tolerances]."""
    graph = converted_graph(model.path, model.spec, precision, model.images).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    dtype = np.float16 if session.get_inputs()[0].type == "tensor(float16)" else np.float32
    with Detector(built(engine_gpu, model, precision), device="cuda") as on_gpu:
        for image in model.images:
            tensor = network_input(image, model.spec)
            ours = heads_by_name(on_gpu._backend.infer(tensor), model.spec)
            exact = heads_by_name(on_cpu._backend.infer(tensor), model.spec)
            given = tensor.astype(dtype)
            rounded = dict(zip(exact, session.run(list(exact), {model.spec.input: given}), strict=True))
            for name, wanted in exact.items():
                assert (ours[name].shape, ours[name].dtype) == (wanted.shape, wanted.dtype)
                allowed = ALLOWED[precision] * root_mean_square(rounded[name] - wanted)
                error = root_mean_square(ours[name] - wanted)
                assert error <= allowed, f"{name}: off by {error:.1e}, {allowed:.1e} are allowed"


def root_mean_square(values: npt.NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


# -- what is made of the heads -----------------------------------------------------------------------------------------


def assert_same(ours: Detections, theirs: Detections) -> None:
    for name in ("class_ids", "scores", "xyxy"):
        mine, wanted = getattr(ours, name), getattr(theirs, name)
        assert (mine.shape, mine.dtype) == (wanted.shape, wanted.dtype)
        assert mine.tobytes() == wanted.tobytes(), name


def heads_of_last_frame(detector: Detector, gpu: Gpu) -> HeadOutputs:
    """The head outputs of the last call, which stay in the lane's memory until the next call."""
    backend: Any = detector._backend
    lane: Lane = backend._pool._idle[-1]
    fields = lane._plan.outputs

    def read(name: str) -> npt.NDArray[np.float32]:
        values = np.empty(fields[name].shape, fields[name].dtype)
        gpu.driver.memcpy_dtoh_async(values, lane._address(fields[name]), lane._stream.driver_stream)
        lane._stream.wait()
        return lane._plan.channels_first(name, values)

    levels = lane._engine.spec.levels
    return HeadOutputs(tuple(read(level.logits) for level in levels), tuple(read(level.deltas) for level in levels))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_detections_are_the_cpus_of_the_same_heads(engine_gpu: Gpu, model: Model, precision: str) -> None:
    """Post-processing of the same head outputs is equal bit for bit, launched directly and replayed."""
    with Detector(built(engine_gpu, model, precision), device="cuda") as on_gpu:
        for image in model.images:
            transform = Transform.plan(image.shape[:2], model.spec)
            for threshold in (None, None, None, 0.05, 0.9):
                found = on_gpu(image, score_threshold=threshold)
                heads = heads_of_last_frame(on_gpu, engine_gpu)
                limit = on_gpu.score_threshold if threshold is None else threshold
                assert_same(found, postprocess(heads, model.spec, [transform], score_threshold=limit)[0])


def test_the_network_input_is_the_cpus(engine_gpu: Gpu, model: Model) -> None:
    """The CPU's input and the image give equal head outputs: preprocessing is exact, the engine deterministic."""
    with Detector(built(engine_gpu, model, "fp32"), device="cuda") as on_gpu:
        for image in model.images:
            on_gpu(image)
            ours = heads_by_name(heads_of_last_frame(on_gpu, engine_gpu), model.spec)
            wanted = heads_by_name(on_gpu._backend.infer(network_input(image, model.spec)), model.spec)
            for name, array in wanted.items():
                assert ours[name].tobytes() == array.tobytes(), name


# Of two detectors: scores this near the threshold may be on either side, and partners' scores and boxes differ so far.
MARGIN = {"fp32": 1e-3, "fp16": 0.02}
OVERLAP = {"fp32": 0.999, "fp16": 0.95}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_photos(engine_gpu: Gpu, on_cpu: Detector, model: Model, precision: str) -> None:
    """On photos, the bundled network finds the same persons on both devices."""
    if model.path != find_model("people"):
        pytest.skip("random weights have no detections to speak of")
    with Detector(built(engine_gpu, model, precision), device="cuda") as on_gpu:
        for image in model.images:
            ours, theirs = on_gpu(image), on_cpu(image)
            assert len(theirs) > 0
            for found, others in ((ours, theirs), (theirs, ours)):
                for box, score in zip(found.xyxy, found.scores, strict=True):
                    if score <= on_cpu.score_threshold + MARGIN[precision]:
                        continue
                    near = np.abs(others.scores - score) <= MARGIN[precision]
                    assert (overlaps(box, others.xyxy[near]) >= OVERLAP[precision]).any()


def overlaps(box: npt.NDArray[np.float32], boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Returns the IoU of one box with each of `boxes`, as xyxy."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=1, dtype=np.float64)
    area, areas = (np.prod(b[..., 2:] - b[..., :2], axis=-1, dtype=np.float64) for b in (box, boxes))
    return np.asarray(shared / (area + areas - shared))


def test_two_hundred_thousand_anchors(engine_gpu: Gpu, model_path: Path, spec: ModelSpec, tmp_path: Path) -> None:
    """At torchvision's usual size, 800 x 1344, the tiny network has as many anchors as a ResNet-50."""
    large = spec.replace(resize=Resize("shortest", (800, 1333)), score_threshold=0.05)
    path = Path(shutil.copy(model_path, tmp_path / "large.onnx"))
    large.save(path.with_suffix(".json"))
    images = [blocks(800, 1333, seed=seed) for seed in range(2)]
    engine = engine_gpu.build_engine(path, tmp_path / "large.engine", batch=(1, 2, 2), sizes=[(800, 1333)])
    with Detector(engine, device="cuda") as on_gpu:
        found = on_gpu(images)
        heads = heads_of_last_frame(on_gpu, engine_gpu)
    assert sum(level.shape[2] * level.shape[3] * 9 for level in heads.logits) == 201_600
    transforms = [Transform.plan(image.shape[:2], large) for image in images]
    for ours, theirs in zip(found, postprocess(heads, large, transforms, score_threshold=0.05), strict=True):
        assert len(theirs) > 0
        assert_same(ours, theirs)


def test_an_onnx_file_builds_its_engine_once(chip: Gpu, model_path: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """The engine is cached and reused the next time."""
    monkeypatch.setenv("RETINASDK_CACHE", str(tmp_path))
    found, times = [], []
    for _ in range(2):
        with Detector(model_path, device="cuda", precision="fp32") as on_gpu:
            assert on_gpu.device == "cuda"
            found.append(on_gpu(blocks()))
        (engine,) = tmp_path.glob("*.engine")
        times.append(engine.stat().st_mtime_ns)
    assert len(found[0]) > 0
    assert found[0] == found[1]
    assert times[0] == times[1]
