"""Fault loops over the calls of CUDA and TensorRT, by stand-ins: each fails once, or is the first of all that fail.

Then the error names the call, what is found is right, the next call works or says why not, nothing hangs, and closing
frees all memory. What the stand-ins believe of a failing call is said in tests/support/fakes.
"""

from __future__ import annotations

import logging
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeGpu, fake_gpu
from fakes.tensorrt import save_engine
from fault_loop import TAKES_LONG
from pictures import blocks

from retinasdk import Detector, DeviceError, ModelError, ModelSpec
from retinasdk.live import stream

_TIMEOUT_S = 300
_SIZES = ((90, 120), (30, 200))


@pytest.fixture(scope="module")
def engine(model_path: Path, spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_engine(tmp_path_factory.mktemp("engine") / "tiny.engine", model_path, spec)


def frames(detector: Detector, wanted: Detector) -> Iterator[Any]:
    """Frames of two shapes, launched directly, recorded and replayed, and a batch."""
    for size in (*_SIZES, _SIZES[0]):
        for _ in range(3):
            yield detector(blocks(*size)), wanted(blocks(*size))
    yield detector([blocks()] * 3), wanted([blocks()] * 3)


def tiles(detector: Detector, wanted: Detector) -> Iterator[Any]:
    """A large picture in tiles."""
    for _ in range(2):
        yield detector(blocks(150, 200), tiles=100), wanted(blocks(150, 200), tiles=100)


def live(detector: Detector, wanted: Detector) -> Iterator[Any]:
    """A stream with two calls in work."""
    pictures = [blocks(90, 120, seed=seed) for seed in range(5)]
    with stream(iter(pictures), detector, policy="all") as results:
        for number, frame in enumerate(results):
            assert frame.index == number
            if frame.detections is None:
                assert isinstance(frame.error, DeviceError)
            else:
                yield frame.detections, wanted(pictures[number])


@contextmanager
def alarm() -> Iterator[None]:
    """Fails instead of hanging."""

    def ring(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(_TIMEOUT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


Scenario = Callable[[Detector, Detector], Iterator[Any]]


def run(scenario: Scenario, engine: Path, wanted: Detector, gpu: FakeGpu, said: list[str]) -> None:
    """Opens a detector, runs the scenario, detects once more, and closes."""
    try:
        detector = Detector(engine, device="cuda")
    except (DeviceError, ModelError) as error:
        said.append(str(error))
        return
    try:
        for found, right in scenario(detector, wanted):
            assert found == right
    except DeviceError as error:
        said.append(str(error))
    has_failed = gpu.fail_call is not None and len(gpu.calls) >= gpu.fail_call
    try:
        assert detector(blocks()) == wanted(blocks())
    except DeviceError as error:
        assert gpu.fails_for_good or not has_failed, "the call after the one that failed does not work"
        said.append(str(error))
    with suppress(DeviceError):
        detector.close()
    with pytest.raises(DeviceError, match="closed"):
        detector(blocks())


@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("scenario", [frames, tiles, live])
def test_a_sample(
    scenario: Scenario, for_good: bool, engine: Path, detector: Detector, caplog: pytest.LogCaptureFixture
) -> None:
    fail_calls(scenario, engine, detector, caplog, for_good=for_good, limit=3)


@TAKES_LONG
@pytest.mark.heavy
@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("scenario", [frames, tiles, live])
def test_every_call(
    scenario: Scenario, for_good: bool, engine: Path, detector: Detector, caplog: pytest.LogCaptureFixture
) -> None:
    fail_calls(scenario, engine, detector, caplog, for_good=for_good, limit=None)


def fail_calls(
    scenario: Scenario,
    engine: Path,
    wanted: Detector,
    caplog: pytest.LogCaptureFixture,
    *,
    for_good: bool,
    limit: int | None,
) -> None:
    """Fails each call of a scenario, or so many of them."""
    caplog.set_level(logging.INFO, logger="retinasdk")
    with fake_gpu() as gpu, alarm():
        nothing: list[str] = []
        run(scenario, engine, wanted, gpu, nothing)
        assert nothing == []
        count = len(gpu.calls)
    numbers = list(range(1, count + 1))
    if limit is not None:
        numbers = sorted(random.Random(1).sample(numbers, min(limit, count)))
    for number in numbers:
        caplog.clear()
        said: list[str] = []
        with fake_gpu(fail_call=number, fails_for_good=for_good) as gpu, alarm():
            run(scenario, engine, wanted, gpu, said)
        said += [record.getMessage() for record in caplog.records]
        if number <= len(gpu.calls):  # With two calls in work, the number of recordings varies.
            wanted_text = f"{gpu.calls[number - 1]} failed: the test asked for it"
            assert any(wanted_text in text for text in said), f"call {number}: {wanted_text} is not in {said}"
    print(f"\n| {scenario.__name__} | {'for good' if for_good else 'once'} | {len(numbers)} of {count} |")
