"""The C interface of libretinasdk on the GPU path: over emulated kernels and a stand-in for TensorRT's library.

Engines hold the heads that ONNX Runtime gives for real photos and for small random networks, and the JSON that the
Python package writes. What C finds must be what Python finds on the CPU, bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from libretinasdk import ARGUMENT, DEVICE, MODEL, CDetector, LibraryError, assert_same, described
from paths import PHOTOS
from random_retinanet import random_retinanet
from recorded_engine import Recorder
from runtime_on_cpu import VERSION, runtime_on_cpu

from retinasdk import Detections, ModelError, ModelSpec, Resize, Suppression
from retinasdk.backends.onnx_cpu import OnnxCpuBackend
from retinasdk.images import as_rgb
from retinasdk.models import find_model
from retinasdk.pipeline.postprocess import decode, suppress, to_detections
from retinasdk.pipeline.preprocess import Transform
from retinasdk.pipeline.types import HeadOutputs
from retinasdk.tensorrt.engine_info import EngineInfo

pytestmark = pytest.mark.heavy  # compiles the library

Images = Sequence[npt.NDArray[np.uint8]]
RULES = ("greedy", "soft_linear", "soft_gaussian", "fusion")  # In the order of rsdk_suppression_rule.


@pytest.fixture(scope="module", autouse=True)
def emulated() -> Iterator[None]:
    with runtime_on_cpu():
        yield


def random_images(*sizes: tuple[int, int]) -> list[npt.NDArray[np.uint8]]:
    random = np.random.default_rng(3)
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> OnnxCpuBackend:
    """A random network for small images."""
    model, spec = random_retinanet()
    path = tmp_path_factory.mktemp("small") / "small.onnx"
    onnx.save(model, path)
    spec = spec.replace(resize=Resize("squash", (64, 96)), top_k=100)
    return OnnxCpuBackend(path, spec=spec, threads=1, convolution="direct")


def expected(
    heads: HeadOutputs,
    spec: ModelSpec,
    images: Images,
    *,
    scores: Sequence[float],
    rule: str = "greedy",
    class_ids: Sequence[int] = (),
    ignore: Sequence[Sequence[float]] = (),
) -> list[Detections]:
    transforms = [Transform.plan(image.shape[:2], spec) for image in images]
    threshold = scores[0] if len(scores) == 1 else tuple(scores)
    regions = np.array(ignore, np.float32) if ignore else None
    candidates = decode(heads, spec, transforms, score_threshold=threshold, class_ids=class_ids, ignore=regions)
    return to_detections(suppress(candidates, spec, Suppression(rule), score_threshold=threshold), spec, transforms)


def check_finds(detector: CDetector, images: Images, wanted: Sequence[Detections], **options: Any) -> None:
    assert sum(map(len, wanted)) > 0
    found = detector([described(image) for image in images], **options)
    for one, other in zip(found, wanted, strict=True):
        assert_same(one, other)


def test_finds_in_a_real_photo_what_python_finds(tmp_path: Path) -> None:
    backend = OnnxCpuBackend(find_model("people"), spec=None, threads=1, convolution="direct")
    photo = as_rgb(PHOTOS / "people" / "astronaut.jpg")
    recorder = Recorder(backend)
    recorder.add([photo])
    detector = CDetector(recorder.save(tmp_path / "people.engine", version=VERSION), device="auto")
    wanted = expected(recorder.heads[0], backend.spec, [photo], scores=[backend.spec.score_threshold])
    for _ in range(3):  # Launched directly, recorded as a graph, and replayed.
        check_finds(detector, [photo], wanted)
    detector.close()


@pytest.mark.parametrize(
    ("types", "formats", "gap", "rule"),
    [
        ({}, {}, 0, "greedy"),
        ({}, {"heads": "HWC"}, 5, "soft_gaussian"),
        ({"input_dtype": "float16", "head_dtype": "float16"}, {"heads": "HWC8"}, 0, "soft_linear"),
        ({"head_dtype": "float16"}, {}, 0, "fusion"),
    ],
)
def test_types_layouts_and_rules(
    small: OnnxCpuBackend, tmp_path: Path, types: dict[str, str], formats: dict[str, str], gap: int, rule: str
) -> None:
    images = random_images((50, 80), (64, 96))
    recorder = Recorder(small, **types)
    recorder.add(images)
    recorder.add(images[:1])
    engine = recorder.save(tmp_path / "small.engine", version=VERSION, formats=formats, gap=gap)
    count = len(small.spec.labels)
    scores = np.linspace(0.02, 0.05, count).tolist()
    ids = list(range(0, count, 2))
    ignore = [[5, 5, 40, 30], [0, 0, 1e-3, 1]]
    detector = CDetector(engine, suppression=RULES.index(rule))
    for batch, heads in zip((images, images[:1]), recorder.heads, strict=True):
        options: dict[str, Any] = {"class_ids": ids, "ignore": ignore}
        wanted = expected(heads, small.spec, batch, rule=rule, scores=scores, **options)
        for _ in range(2):
            check_finds(detector, batch, wanted, score_threshold=scores, **options)
        wanted = expected(heads, small.spec, batch, rule=rule, scores=[0.02])
        check_finds(detector, batch, wanted, score_threshold=0.02)
    detector.close()


def test_threads_share_a_detector(small: OnnxCpuBackend, tmp_path: Path) -> None:
    images = random_images((50, 80), (64, 96), (30, 30))
    recorder = Recorder(small)
    for image in images:
        recorder.add([image])
    detector = CDetector(recorder.save(tmp_path / "small.engine", version=VERSION))
    wanted = [
        expected(heads, small.spec, [image], scores=[0.02]) for heads, image in zip(recorder.heads, images, strict=True)
    ]
    with ThreadPoolExecutor(6) as pool:
        calls = [
            pool.submit(check_finds, detector, [images[index % 3]], wanted[index % 3], score_threshold=0.02)
            for index in range(24)
        ]
        for call in calls:
            call.result()
    detector.close()


# -- refusals ----------------------------------------------------------------------------------------------------------


def python_refuses(engine: Path) -> str:
    with pytest.raises(ModelError) as refusal:
        EngineInfo.load(engine).check_belongs(engine.read_bytes(), engine)
    return str(refusal.value)


def c_refuses(path: Path, status: int = MODEL) -> str:
    with pytest.raises(LibraryError) as refusal:
        CDetector(path, device="cuda")
    assert refusal.value.status == status
    return str(refusal.value)


@pytest.fixture
def engine(small: OnnxCpuBackend, tmp_path: Path) -> Path:
    recorder = Recorder(small)
    recorder.add(random_images((64, 96)))
    return recorder.save(tmp_path / "small.engine", version=VERSION)


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "fp8"},
        {"size_bytes": -1},
        {"size_bytes": "many"},
        {"build_seconds": -0.5},
        {"head_dtype": "int8"},
        {"profile": {"min": [1, 3, 32, 32], "opt": [1, 3, 32, 32], "max": [1, 3, 16, 32]}},
        {"profile": {"min": [1, 4, 32, 32], "opt": [1, 3, 32, 32], "max": [1, 3, 16, 32]}},
        {"profile": {"min": [1, 3, 32], "opt": [1, 3, 32, 32], "max": [1, 3, 32, 32]}},
        {"profile": 5},
        {"fingerprint": {"compute_capability": [8.5, 7]}},
        {"fingerprint": {"options": {"a": 1}}},
        {"speed": 1},
        {"format": 2},
        {"format": True},
        {"engine_sha256": "0" * 64},
        {"spec": {"format": 1}},
    ],
)
def test_refuses_an_edited_json_with_pythons_words(engine: Path, changes: Mapping[str, Any]) -> None:
    path = EngineInfo.path_for(engine)
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps(content))
    assert c_refuses(engine) == python_refuses(engine)  # Its checksum is wrong, or its format.
    del content["checksum"]
    path.write_text(json.dumps(content))
    assert c_refuses(engine) == python_refuses(engine)


@pytest.mark.parametrize("field", ["spec", "fingerprint", "profile", "precision", "size_bytes", "format"])
def test_refuses_a_json_without_a_field(engine: Path, field: str) -> None:
    path = EngineInfo.path_for(engine)
    content = json.loads(path.read_text())
    del content["checksum"], content[field]
    path.write_text(json.dumps(content))
    assert c_refuses(engine) == python_refuses(engine)


def test_refuses_files_that_do_not_belong_together(engine: Path) -> None:
    engine.write_bytes(engine.read_bytes()[:-1])
    assert c_refuses(engine) == python_refuses(engine)
    EngineInfo.path_for(engine).unlink()
    assert "needs the file small.engine.json beside it, which cannot be read: No such file" in c_refuses(engine)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"tensorrt": "tensorrt_rtx"}, "was built by tensorrt_rtx 10.3.0, but tensorrt 10.3.0 is installed here"),
        ({"tensorrt_version": "10.13.3.9"}, "was built by tensorrt 10.13.3.9, but tensorrt 10.3.0 is installed here"),
        ({"compute_capability": (9, 0)}, "it was built for compute capability 9.0, but this is 8.7. Use the ONNX file"),
    ],
)
def test_refuses_an_engine_of_another_machine(
    small: OnnxCpuBackend, tmp_path: Path, facts: dict[str, Any], words: str
) -> None:
    recorder = Recorder(small)
    recorder.add(random_images((64, 96)))
    engine = recorder.save(tmp_path / "small.engine", **{"version": VERSION, **facts})
    assert words in c_refuses(engine)


def test_an_onnx_file_on_the_gpu_needs_an_engine(tmp_path: Path) -> None:
    path = find_model("people")
    words = c_refuses(path)
    assert f"retinasdk build {path} -o {path.with_suffix('.engine')}" in words


def test_a_size_outside_the_profile_is_an_argument_error(small: OnnxCpuBackend, tmp_path: Path) -> None:
    recorder = Recorder(small)
    images = random_images((64, 96))
    recorder.add(images)
    detector = CDetector(recorder.save(tmp_path / "small.engine", version=VERSION, largest=(1, 3, 32, 32)))
    with pytest.raises(LibraryError, match=r"accepts inputs from \(1, 3, 1, 1\) to \(1, 3, 32, 32\)") as refusal:
        detector([described(images[0])])
    assert refusal.value.status == ARGUMENT
    detector.close()


def test_warns_of_an_engine_for_another_gpu(small: OnnxCpuBackend, tmp_path: Path) -> None:
    recorder = Recorder(small)
    recorder.add(random_images((64, 96)))
    path = recorder.save(tmp_path / "small.engine", version=VERSION, gpu="Orin")
    detector = CDetector(path)
    words = (
        "it was built for the GPU Orin, but this is emulated on the CPU. It works, but it is optimized for the other"
    )
    assert f"{path}: {words} GPU." == detector.warning
    detector.close()


def test_says_that_there_is_no_gpu(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_ON_CPU_DEVICES", "0")
    assert "there is no usable one here (cudaErrorInsufficientDriver" in c_refuses(engine, DEVICE)
