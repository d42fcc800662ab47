"""Compares `Detector(device="cuda")` over stand-ins with `Detector(device="cpu")`: results are equal bit for bit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeGpu, fake_gpu
from fakes.tensorrt import save_engine
from pictures import LABELS, Image, blocks
from PIL import Image as PillowImage

from retinasdk import Detections, Detector, ModelError, ModelSpec, Normalise, Resize
from retinasdk.cuda.device import CudaDevice, CudaStream
from retinasdk.cuda.memory import Field
from retinasdk.pipeline.preprocess import Transform
from retinasdk.tensorrt.engine_info import EngineInfo, Fingerprint
from retinasdk.tensorrt.lane_images import LaneImages
from retinasdk.tensorrt.versions import plan_header

SIZES = ((90, 120), (90, 120), (120, 90), (61, 47), (90, 121), (30, 400), (400, 30), (1, 1))


@pytest.fixture(params=["late", "at once", "integrated"])
def any_gpu(request: pytest.FixtureRequest) -> Iterator[FakeGpu]:
    """GPUs that run work when someone waits for it, or at its launch, or that share memory with the CPU."""
    with fake_gpu(eager=request.param == "at once", integrated=request.param == "integrated") as gpu:
        yield gpu


@pytest.fixture(scope="module")
def images() -> list[Image]:
    return [blocks(*size, seed=seed) for seed, size in enumerate(SIZES)]


def cpu_detector(model_path: Path, spec: ModelSpec) -> Detector:
    return Detector(model_path, device="cpu", spec=spec, threads=1)


def assert_same(ours: Detections, theirs: Detections) -> None:
    assert len(ours) == len(theirs)
    assert ours.labels == theirs.labels
    for name in ("class_ids", "scores", "xyxy"):
        mine, wanted = getattr(ours, name), getattr(theirs, name)
        assert mine.dtype == wanted.dtype
        assert mine.tobytes() == wanted.tobytes(), name


# -- equal to the CPU --------------------------------------------------------------------------------------------------


def test_single_images(any_gpu: FakeGpu, engine: Path, detector: Detector, images: list[Image]) -> None:
    with Detector(engine, device="cuda") as on_gpu:
        assert (on_gpu.device, on_gpu.labels, on_gpu.spec) == ("cuda", LABELS, detector.spec)
        for image in images:
            wanted = detector(image)
            for _ in range(3):  # launched plainly, recorded, replayed
                assert_same(on_gpu(image), wanted)
    assert any_gpu.launches["graph"] == 2 * len(images) + 2  # two neighbours have one shape


def test_lists(any_gpu: FakeGpu, engine: Path, detector: Detector, images: list[Image]) -> None:
    with Detector(engine, device="cuda") as on_gpu:
        for batch in (images, [*images[:2], *images], images[:1] * 3, []):
            for ours, theirs in zip(on_gpu(batch), detector(batch), strict=True):
                assert_same(ours, theirs)


def test_thresholds_and_classes_change_below_a_graph(any_gpu: FakeGpu, engine: Path, detector: Detector) -> None:
    calls: list[dict[str, Any]] = [{"score_threshold": value} for value in (0.0, 0.1, 0.25, 0.4, 0.6, 1.0)]
    calls += [{"classes": classes} for classes in (["dog"], ["chair", "person"], [2], LABELS)]
    calls += [{"score_threshold": 0.1, "classes": ["person"]}, {}]
    with Detector(engine, device="cuda") as on_gpu:
        for options in calls * 2:
            assert_same(on_gpu(blocks(), **options), detector(blocks(), **options))
    assert any_gpu.launches["network"] == 2  # once plainly, once for the recording
    assert any_gpu.launches["graph"] == 2 * len(calls) - 1


def test_image_sizes_change_below_a_graph(gpu: FakeGpu, engine: Path, detector: Detector) -> None:
    """Images, resizes and clipping change while the shape of the network's input stays, and so does a graph."""
    sizes = [(180, 240), (90, 120), (89, 119), (45, 60), (89, 120)]
    with Detector(engine, device="cuda") as on_gpu:
        for seed, size in enumerate(sizes):
            assert_same(on_gpu(blocks(*size, seed=seed)), detector(blocks(*size, seed=seed)))
        assert gpu.launches["network"] == 2
        assert gpu.launches["graph"] == len(sizes) - 1
        for seed, size in enumerate(sizes * 2):  # From here on, each size has a graph for all of its frame.
            assert_same(on_gpu(blocks(*size, seed=seed)), detector(blocks(*size, seed=seed)))
        assert gpu.live["graph"] == 1 + len(sizes)


@pytest.mark.parametrize("clip", ["resized", "padded", "none"])
def test_specs(gpu: FakeGpu, model_path: Path, spec: ModelSpec, tmp_path: Path, clip: str) -> None:
    other = spec.replace(
        clip=clip,
        resize=Resize("longest", (150,), rounding="half_up", antialias=clip == "none"),
        normalise=Normalise((103.5, 116.3, 123.7), (57.4, 57.1, 58.4), channels="BGR"),
        box_coder=spec.box_coder.__class__((10.0, 10.0, 5.0, 5.0), None if clip == "padded" else 2.0),
        top_k=37,
        max_detections=5000,
        nms_iou_threshold=0.35,
    )
    engine = save_engine(tmp_path / "other.engine", model_path, spec)
    with Detector(engine, device="cuda", spec=other) as on_gpu, cpu_detector(model_path, other) as on_cpu:
        for seed in range(3):
            image = blocks(200, 140, seed=seed)
            assert_same(on_gpu(image), on_cpu(image))
            assert_same(on_gpu(image, score_threshold=0.01), on_cpu(image, score_threshold=0.01))


def test_ignored_labels(gpu: FakeGpu, engine: Path, model_path: Path, spec: ModelSpec) -> None:
    other = spec.replace(ignore_labels=("person",))
    with Detector(engine, device="cuda", spec=other) as on_gpu, cpu_detector(model_path, other) as on_cpu:
        assert_same(on_gpu(blocks()), on_cpu(blocks()))


def test_no_detections(gpu: FakeGpu, engine: Path) -> None:
    with Detector(engine, device="cuda") as on_gpu:
        nothing = on_gpu(blocks(), score_threshold=1.0)
        assert (nothing.xyxy.shape, nothing.scores.shape, nothing.class_ids.shape) == ((0, 4), (0,), (0,))


def test_files_and_crops(gpu: FakeGpu, engine: Path, detector: Detector, tmp_path: Path) -> None:
    image = blocks(150, 200)
    PillowImage.fromarray(image).save(tmp_path / "image.png")
    crop, flipped = image[10:90, 20:120], image[::-1]
    given = [tmp_path / "image.png", PillowImage.fromarray(image), crop, flipped, image[:, ::-1]]
    with Detector(engine, device="cuda") as on_gpu:
        for item in given:
            assert_same(on_gpu(item), detector(item))


# -- the engine's types and batches ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtypes", [{"heads": "float16"}, {"images": "float16"}, {"heads": "float16", "images": "float16"}]
)
def test_float16_tensors(
    any_gpu: FakeGpu, detector: Detector, model_path: Path, spec: ModelSpec, tmp_path: Path, dtypes: dict[str, str]
) -> None:
    """The detections are near those of float32, and equal to those of float16 heads on the CPU."""
    engine = save_engine(tmp_path / "half.engine", model_path, spec, dtypes=dtypes)
    with Detector(engine, device="cuda") as on_gpu:
        assert_same(on_gpu(blocks()), halved_on_the_cpu(detector, blocks(), dtypes))
        assert abs(len(on_gpu(blocks())) - len(detector(blocks()))) <= 3


def halved_on_the_cpu(detector: Detector, image: Image, dtypes: dict[str, str]) -> Detections:
    from retinasdk.pipeline.postprocess import postprocess
    from retinasdk.pipeline.preprocess import Transform, preprocess
    from retinasdk.pipeline.types import HeadOutputs

    def rounded(array: Any, name: str) -> Any:
        return array.astype(dtypes.get(name, "float32")).astype(np.float32)

    transform = Transform.plan(image.shape[:2], detector.spec)
    tensor = preprocess([image], [transform], detector.spec).tensor
    heads = detector._backend.infer(rounded(tensor, "images"))
    outputs = HeadOutputs(*(tuple(rounded(a, "heads") for a in side) for side in (heads.logits, heads.deltas)))
    return postprocess(outputs, detector.spec, [transform], score_threshold=detector.score_threshold)[0]


@pytest.mark.parametrize(("smallest", "largest"), [(1, 1), (1, 2), (3, 3), (2, 5)])
def test_batches(
    gpu: FakeGpu, detector: Detector, model_path: Path, spec: ModelSpec, tmp_path: Path, smallest: int, largest: int
) -> None:
    """Calls are split at the largest batch and padded to the smallest one."""
    shapes: dict[str, Any] = {"smallest": (smallest, 3, 32, 32), "largest": (largest, 3, 256, 256)}
    engine = save_engine(tmp_path / "batch.engine", model_path, spec, **shapes)
    images = [blocks(seed=seed) for seed in range(7)]
    with Detector(engine, device="cuda") as on_gpu:
        for count in (1, 2, 3, 7):
            for ours, theirs in zip(on_gpu(images[:count]), detector(images[:count]), strict=True):
                assert_same(ours, theirs)


def test_raw_heads(gpu: FakeGpu, engine: Path, detector: Detector) -> None:
    tensor = np.random.default_rng(0).normal(size=(2, 3, 128, 160)).astype(np.float32)
    wanted = detector._backend.infer(tensor)
    with Detector(engine, device="cuda") as on_gpu:
        for _ in range(2):
            heads = on_gpu._backend.infer(tensor)
            for ours, theirs in zip(heads.logits + heads.deltas, wanted.logits + wanted.deltas, strict=True):
                assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
                assert ours.tobytes() == theirs.tobytes()
        assert_same(on_gpu(blocks()), detector(blocks()))


@pytest.mark.parametrize("version", ["8.5.2", "8.6.1", "10.16.1", "11.4.0"])
def test_versions(detector: Detector, model_path: Path, spec: ModelSpec, tmp_path: Path, version: str) -> None:
    engine = save_engine(tmp_path / "tiny.engine", model_path, spec, version=f"{version}.6")
    with fake_gpu(tensorrt=version), Detector(engine, device="cuda") as on_gpu:
        assert_same(on_gpu(blocks()), detector(blocks()))


def test_tensorrt_for_rtx(detector: Detector, model_path: Path, spec: ModelSpec, tmp_path: Path) -> None:
    engine = save_engine(tmp_path / "tiny.engine", model_path, spec, version="1.7.1.116", rtx=True)
    with fake_gpu(tensorrt="1.7.1", rtx=True) as gpu, Detector(engine, device="cuda") as on_gpu:
        for _ in range(3):
            assert_same(on_gpu(blocks()), detector(blocks()))
        assert gpu.launches["graph"] == 2


# -- what it costs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("integrated", [False, True])
@pytest.mark.parametrize("count", [1, 4])
def test_a_frame_like_the_one_before_is_one_graph_launch(engine: Path, integrated: bool, count: int) -> None:
    """Upload, preprocessing, network, decoding, suppression and download are one launch, and one wait."""
    with fake_gpu(integrated=integrated) as gpu, Detector(engine, device="cuda") as on_gpu:
        on_gpu([blocks(seed=seed) for seed in range(count)])
        gpu.launches.clear()
        on_gpu([blocks(seed=seed) for seed in range(count, 2 * count)])
        assert gpu.launches - gpu.recorded == {"graph": 1}
        copies = {} if integrated else {"upload": 2, "download": 1}
        kernels = {"preprocess": count, "network": 1, "decode": 1, "nms": 1}
        assert gpu.recorded == {"upload": 1} | copies | kernels  # Thresholds are uploaded even where memory is shared.
        for _ in range(3):
            gpu.steps.clear()
            gpu.launches.clear()
            on_gpu([blocks(seed=seed) for seed in range(count)])
            assert gpu.launches == {"graph": 1}
            assert gpu.steps == ["cuStreamSynchronize"]


def test_nothing_is_allocated_once_sizes_have_settled(engine: Path) -> None:
    with fake_gpu() as gpu, Detector(engine, device="cuda") as on_gpu:
        on_gpu([blocks(seed=seed) for seed in range(4)])
        on_gpu(blocks(40, 30))
        on_gpu([blocks(seed=9)] * 4)
        gpu.steps.clear()
        on_gpu(blocks(40, 30))  # smaller than what there is room for
        assert not {"cuMemAlloc", "cuMemHostAlloc", "cuStreamCreate"} & set(gpu.steps)


def test_graphs_survive_neither_their_memory_nor_their_shape(engine: Path, detector: Detector) -> None:
    """A larger image moves the block that images are uploaded to, below the graphs that read it."""
    sizes = [(90, 120)] * 3 + [(180, 240)] * 3 + [(90, 120)] * 3 + [(30, 200)] * 3 + [(90, 120)] * 3
    with fake_gpu() as gpu, Detector(engine, device="cuda") as on_gpu:
        for seed, size in enumerate(sizes):
            assert_same(on_gpu(blocks(*size, seed=seed)), detector(blocks(*size, seed=seed)))
        assert gpu.live["graph"] == 1


def test_a_block_that_has_grown_makes_other_graphs_even_at_the_same_address(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver may place the GPU's part of a block where the old one was, and the host's part elsewhere."""
    with fake_gpu():
        device = CudaDevice()
        with device.current():
            stream = CudaStream(device)
            images = LaneImages(device, spec, stream)
            monkeypatch.setattr("retinasdk.cuda.memory.DeviceBuffer.address", 4096)

            def key_of(size: tuple[int, int]) -> Any:
                transform = Transform.plan(size, spec)
                field = Field(0, (1, 3, *transform.padded), np.dtype(np.float32))
                return images.prepare([blocks(*size)], [transform], field, 8192).key

            small = key_of((90, 120))
            assert key_of((90, 120)) == small
            large = key_of((180, 240))
            assert large != small
            assert key_of((180, 240)) == large
            assert key_of((90, 120)) not in (small, large)
            images.free()
            stream.close()
        device.close()


@pytest.mark.heavy
def test_the_number_of_graphs_is_bounded(engine: Path, detector: Detector) -> None:
    """Twenty sizes in turn are never recorded as a whole; in random order, only until all graphs were used."""
    sizes = [(90 + 3 * number, 120 + 4 * number) for number in range(20)]
    order = [*range(20)] * 3
    order += np.random.default_rng(0).integers(0, 20, 100).tolist()
    with fake_gpu() as gpu, Detector(engine, device="cuda") as on_gpu:
        on_gpu(blocks(180, 240))  # so that no block moves later
        wanted = [detector(blocks(*size)) for size in sizes]
        most = 0
        for number, kind in enumerate(order):
            assert_same(on_gpu(blocks(*sizes[kind])), wanted[kind])
            most = max(most, gpu.live["graph"])
            assert number >= 60 or most <= 1
        assert 1 < most <= 16
        assert gpu.recorded["network"] == 16  # Not one more, however often a size came back.
        gpu.recorded.clear()
        for _ in range(40):  # One that keeps coming is worth a graph at any time.
            on_gpu(blocks(93, 124))
        assert gpu.recorded["network"] <= 1
        gpu.launches.clear()
        on_gpu(blocks(93, 124))
        assert gpu.launches == {"graph": 1}


def test_plain_frames_download_once(engine: Path) -> None:
    with fake_gpu(refuse="begin") as gpu, Detector(engine, device="cuda") as on_gpu:
        on_gpu([blocks(seed=seed) for seed in range(4)])
        assert gpu.launches["download"] == 1


def test_shared_memory_needs_no_copies(engine: Path) -> None:
    with fake_gpu(integrated=True, refuse="begin") as gpu, Detector(engine, device="cuda") as on_gpu:
        on_gpu([blocks(seed=seed) for seed in range(4)])
        assert gpu.launches["upload"] == 1  # thresholds, which every warp reads
        assert gpu.launches["download"] == 0


# -- whose engine it is ------------------------------------------------------------------------------------------------


def test_the_first_bytes_of_an_engine_decide_nothing(
    detector: Detector, model_path: Path, spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real plans of TensorRT 8.5 begin with "ptrt", which nobody had expected."""
    monkeypatch.setattr("fakes.tensorrt.magic_of", lambda version, *, rtx: "new!")
    engine = save_engine(tmp_path / "tiny.engine", model_path, spec, version="12.1.0.5")
    with fake_gpu(tensorrt="12.1.0"), Detector(engine, device="cuda") as on_gpu:
        assert_same(on_gpu(blocks()), detector(blocks()))


def test_an_engine_that_tensorrt_refuses(model_path: Path, spec: ModelSpec, tmp_path: Path) -> None:
    engine = save_engine(tmp_path / "tiny.engine", model_path, spec, version="8.5.2.6")
    content = b"zzzz" + engine.read_bytes()[4:]
    engine.write_bytes(content)
    info = EngineInfo.load(engine)
    replace(info, engine_sha256=hashlib.sha256(content).hexdigest()).save(engine)
    with fake_gpu(tensorrt="8.5.2"), pytest.raises(ModelError) as caught:
        Detector(engine, device="cuda")
    assert "tensorrt 8.5.2 cannot load this engine: deserializeCudaEngine" in str(caught.value)
    assert "begin with b'zzzz', which no known version of TensorRT writes" in str(caught.value)


@pytest.mark.parametrize(("version", "rtx"), [("8.5.3", False), ("10.3.1", False), ("8.5.2", True)])
def test_an_engine_of_another_tensorrt(
    model_path: Path, spec: ModelSpec, tmp_path: Path, version: str, rtx: bool
) -> None:
    engine = save_engine(tmp_path / "tiny.engine", model_path, spec, version="8.5.2.6")
    built = Fingerprint(tensorrt="tensorrt", tensorrt_version="8.5.2.6")
    replace(EngineInfo.load(engine), fingerprint=built).save(engine)
    product = "tensorrt_rtx" if rtx else "tensorrt"
    message = rf"was built by tensorrt 8.5.2.6, but {product} {version} is installed here. .* retinasdk build"
    with fake_gpu(tensorrt=version, rtx=rtx), pytest.raises(ModelError, match=message):
        Detector(engine, device="cuda")


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (b"ptrt" + bytes(60), "it was written by TensorRT 8.5"),
        (b"ftrt" + bytes(20) + bytes([10, 3, 0, 26]), "it was written by TensorRT 10.3.0.26"),
        (b"vtrt" + bytes(20) + bytes([1, 7, 1, 116]), "it was written by TensorRT for RTX 1.7.1.116"),
        (b"vtrt", "it was written by TensorRT for RTX"),
        (b"", "its 0 bytes begin with b'', which no known version of TensorRT writes"),
    ],
)
def test_what_a_header_says(plan: bytes, words: str) -> None:
    assert plan_header(plan) == words
