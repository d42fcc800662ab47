"""`Detector.predict`: what single calls give, in order, with bounded memory and errors in their place."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakes.tensorrt
import numpy as np
import pytest
from fakes import fake_gpu
from fakes.tensorrt import save_engine
from hypothesis import given
from hypothesis import strategies as st
from pictures import Image, blocks
from PIL import Image as PillowImage

from retinasdk import Detections, Detector, DeviceError, ImageError, ModelSpec
from retinasdk.pipeline.throughput import predict

SIZES = ((90, 120), (90, 120), (61, 47), (90, 121), (1, 1), (120, 90), (30, 400))
IMAGES = [blocks(*SIZES[seed % len(SIZES)], seed=seed) for seed in range(17)]


@pytest.fixture
def two_workers(model_path: Path) -> Iterator[Detector]:
    with Detector(model_path, threads=2) as detector:
        yield detector


def named_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("retinasdk-predict")]


def assert_close(ours: Detections | None, theirs: Detections) -> None:
    """ONNX Runtime may sum in another order where it has another number of threads, or of images."""
    assert ours is not None
    assert ours.class_ids.tolist() == theirs.class_ids.tolist()
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)
    np.testing.assert_allclose(ours.xyxy, theirs.xyxy, atol=1e-3)


@pytest.mark.parametrize("batch", [1, 2, 5, 16])
def test_gives_what_single_calls_give_in_order(two_workers: Detector, batch: int) -> None:
    results = list(two_workers.predict(iter(IMAGES), batch=batch, classes=["person", "dog"]))
    assert [result.index for result in results] == list(range(len(IMAGES)))
    assert any(result.detections for result in results)
    for result, image in zip(results, IMAGES, strict=True):
        assert result.error is None
        assert_close(result.detections, two_workers(image, classes=["person", "dog"]))


def test_one_thread_and_no_images(detector: Detector) -> None:
    assert list(detector.predict([])) == []
    assert [result.detections for result in detector.predict(IMAGES)] == [detector(image) for image in IMAGES]


@pytest.mark.parametrize("batch", [1, 3])
def test_errors_stay_in_their_place(two_workers: Detector, tmp_path: Path, batch: int) -> None:
    PillowImage.fromarray(IMAGES[0]).save(tmp_path / "good.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    images: list[Any] = [
        tmp_path / "good.png",
        tmp_path / "broken.jpg",
        tmp_path / "missing.jpg",
        np.zeros((4, 4, 2), np.uint8),
        None,
        IMAGES[0],
    ]
    results = list(two_workers.predict(images, batch=batch))
    expected = [type(None), ImageError, ImageError, ValueError, TypeError, type(None)]
    assert [type(result.error) for result in results] == expected
    assert [result.detections is None for result in results] == [error is not type(None) for error in expected]
    assert "no such file" in str(results[2].error)
    assert_close(results[-1].detections, two_workers(IMAGES[0]))


def test_what_the_iterable_raises_comes_after_the_results_before_it(two_workers: Detector) -> None:
    def images() -> Iterator[Image]:
        yield from IMAGES[:5]
        raise OSError("the disk is gone")

    results = two_workers.predict(images(), batch=2)
    assert [next(results).index for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(OSError, match="the disk is gone"):
        list(results)
    assert named_threads() == []


def test_options_are_checked_at_once(two_workers: Detector) -> None:
    for batch in (0, 17, 1.5, "2", None):
        with pytest.raises(ValueError, match="batch must be an integer from 1 to 16, got"):
            two_workers.predict(IMAGES, batch=batch)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="score_threshold must be"):
        two_workers.predict(IMAGES, score_threshold=2)
    with pytest.raises(ValueError, match="cat"):
        two_workers.predict(IMAGES, classes=["cat"])
    with pytest.raises(TypeError, match="not iterable"):
        two_workers.predict(3)  # type: ignore[arg-type]


def test_one_image_or_a_folder(two_workers: Detector, tmp_path: Path) -> None:
    for name in ("b.png", "a.png"):
        PillowImage.fromarray(IMAGES[0]).save(tmp_path / name)
    expected = two_workers(IMAGES[0])
    for source, count in ((tmp_path, 2), (str(tmp_path / "a.png"), 1), (IMAGES[0], 1)):
        results = list(two_workers.predict(source))
        assert len(results) == count
        for result in results:
            assert_close(result.detections, expected)
    assert "no such file" in str(next(two_workers.predict("missing.jpg")).error)


def test_stopping_early_leaves_no_thread(two_workers: Detector) -> None:
    for result in two_workers.predict(iter(IMAGES * 10)):
        if result.index == 3:
            break
    gc.collect()
    assert named_threads() == []
    unused = two_workers.predict(IMAGES)
    del unused
    assert named_threads() == []


def test_closing_ends_it(model_path: Path) -> None:
    for threads in (1, 2):
        detector = Detector(model_path, threads=threads)
        results = detector.predict(iter(IMAGES * 10))
        next(results)
        detector.close()
        with pytest.raises(DeviceError, match=r"The Detector is closed\. Create a new one"):
            list(results)
        with pytest.raises(DeviceError, match=r"The Detector is closed\. Create a new one"):
            detector.predict(IMAGES)
    assert named_threads() == []


@given(count=st.integers(0, 40), batch=st.integers(1, 7), workers=st.integers(1, 4))
def test_few_images_are_held_at_a_time(count: int, batch: int, workers: int) -> None:
    taken, lock, held, most_held = 0, threading.Lock(), 0, 0

    def images() -> Iterator[int]:
        nonlocal taken, held, most_held
        for number in range(count):
            with lock:
                held += 1
                most_held = max(most_held, held)
            taken = number + 1
            yield number

    def detect(members: list[Any]) -> list[Any]:
        assert 1 <= len(members) <= batch
        return [Detections.empty([str(member)]) for member in members]

    given_back = 0
    for result in predict(images(), detect, batch=batch, workers=workers):  # type: ignore[arg-type]
        assert result.detections is not None
        assert result.detections.labels == (str(given_back),)
        given_back += 1
        with lock:
            held -= 1
    assert (given_back, taken) == (count, count)
    assert most_held <= 2 * workers * batch + batch


def test_every_worker_works_at_once() -> None:
    meeting = threading.Barrier(3, timeout=30)  # raises in each thread where the others do not come

    def detect(members: list[Any]) -> list[Any]:
        meeting.wait()
        return [Detections.empty(["thing"])]

    results = list(predict(iter(range(6)), detect, batch=1, workers=3))  # type: ignore[arg-type]
    assert [result.error for result in results] == [None] * 6


def test_on_the_gpu_it_gives_the_same_bits(model_path: Path, spec: ModelSpec, tmp_path: Path) -> None:
    engine = save_engine(tmp_path / "tiny.engine", model_path, spec)
    with fake_gpu(), Detector(engine, device="cuda") as detector:
        single = [detector(image) for image in IMAGES]
        assert [result.detections for result in detector.predict(IMAGES, batch=4)] == single


@pytest.mark.parametrize("version", ["8.5.2", "10.3.0"])
def test_on_the_gpu_two_lanes_give_what_one_gives(
    detector: Detector, model_path: Path, spec: ModelSpec, tmp_path: Path, version: str
) -> None:
    """Before TensorRT 10 there is one context, and the workers take turns."""
    engine = save_engine(tmp_path / "tiny.engine", model_path, spec, version=f"{version}.1")
    with fake_gpu(tensorrt=version) as gpu, Detector(engine, device="cuda") as on_gpu:
        results = list(on_gpu.predict(iter(IMAGES * 3), score_threshold=0.1))
        assert [result.index for result in results] == list(range(3 * len(IMAGES)))
        assert [result.detections for result in results] == [detector(i, score_threshold=0.1) for i in IMAGES] * 3
        assert gpu.live["ExecutionContext"] <= (1 if version == "8.5.2" else 2)


@pytest.mark.parametrize("batch", [1, 3])
def test_on_the_gpu_errors_stay_in_their_place(
    detector: Detector, model_path: Path, spec: ModelSpec, tmp_path: Path, batch: int
) -> None:
    engine = save_engine(tmp_path / "tiny.engine", model_path, spec, largest=(16, 3, 192, 192))
    too_large = blocks(90, 170)  # for the engine
    images: list[Any] = [IMAGES[0], None, too_large, IMAGES[1], np.zeros((4, 4, 2), np.uint8), IMAGES[2]]
    with fake_gpu() as gpu, Detector(engine, device="cuda") as on_gpu:
        results = list(on_gpu.predict(images * 2, batch=batch))
        assert not gpu.faults
    wanted = [type(None), TypeError, ValueError, type(None), ValueError, type(None)] * 2
    assert [type(result.error) for result in results] == wanted
    found = [result.detections for result in results if result.error is None]
    assert found == [detector(image) for image in IMAGES[:3]] * 2


@pytest.mark.parametrize("batch", [1, 4])
def test_a_failure_of_the_gpu_stays_with_its_image(
    detector: Detector,
    model_path: Path,
    spec: ModelSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batch: int,
) -> None:
    """As one of ONNX Runtime does on the CPU. The images of a batch are tried one by one."""
    engine = save_engine(tmp_path / "tiny.engine", model_path, spec)
    run = fakes.tensorrt.ExecutionContext.execute_async_v3

    def failing(self: Any, stream: int) -> bool:
        return run(self, stream) if self._shape != (1, 3, 128, 224) else self._fail("no memory for this shape")

    monkeypatch.setattr(fakes.tensorrt.ExecutionContext, "execute_async_v3", failing)
    images = [*IMAGES[:2], blocks(90, 170), *IMAGES[:4]]
    with fake_gpu(), Detector(engine, device="cuda") as on_gpu:
        results = list(on_gpu.predict(images, batch=batch))
    failed = [result for result in results if result.error is not None]
    assert [result.index for result in failed] == [2]
    assert isinstance(failed[0].error, DeviceError)
    assert "no memory for this shape" in str(failed[0].error)
    found = [result.detections for result in results if result.error is None]
    assert found == [detector(image) for image in (*IMAGES[:2], *IMAGES[:4])]


def test_a_device_that_failed_for_good_ends_it() -> None:
    """Of 1000 images, the first ten are tried, and those in work. A success in between starts the count anew."""
    tried: list[int] = []

    def detect(members: list[Any]) -> list[Any]:
        tried.extend(members)
        if members != [5]:
            raise DeviceError("an illegal memory access was encountered")
        return [Detections.empty(["thing"])]

    got = []
    results = predict(iter(range(1000)), detect, batch=1, workers=2)  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match="illegal memory access"):
        got.extend(type(result.error) for result in results)
    assert got == [DeviceError] * 5 + [type(None)] + [DeviceError] * 9
    assert max(tried) < 20
    assert named_threads() == []


def test_on_the_gpu_stopping_early_leaks_nothing(model_path: Path, spec: ModelSpec, tmp_path: Path) -> None:
    engine = save_engine(tmp_path / "tiny.engine", model_path, spec)
    for count in range(4):
        with fake_gpu() as gpu, Detector(engine, device="cuda") as on_gpu:
            results = on_gpu.predict(iter(IMAGES * 10))
            for _ in range(count):
                next(results)
            del results
            gc.collect()
            assert named_threads() == []
        assert not any(gpu.live.values())
