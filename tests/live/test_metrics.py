"""Stage times of a detector in a stream, their way to Prometheus, and logs that stay short."""

from __future__ import annotations

import gc
import itertools
import logging
import re
import subprocess
import sys
import urllib.request
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import fake_gpu
from fakes.tensorrt import save_engine
from live_world import Camera, World
from pictures import Image, blocks
from PIL import Image as PillowImage

from retinasdk import Detections, Detector, ModelSpec
from retinasdk.live import CorruptFrameError, Histogram, Metrics, RawFrame, Reconnect, StreamError, stream
from retinasdk.live.limited_log import LimitedLog
from retinasdk.pipeline.stage_timing import collect

PICTURES = [blocks(90, 120, seed=seed) for seed in range(4)]
NOTHING = Detections.empty(("thing",))


@pytest.fixture
def client() -> Any:
    return pytest.importorskip("prometheus_client", reason="needs the extra [prometheus]")


# -- stages ------------------------------------------------------------------------------------------------------------


def test_stages_of_a_detector_are_within_the_call(detector: Detector) -> None:
    with stream(iter(PICTURES * 5), detector, policy="all") as frames:
        assert sum(1 for _ in frames) == 20
        metrics = frames.metrics
    parts = (metrics.preprocess, metrics.inference, metrics.postprocess)
    assert [part.count for part in parts] == [20] * 3
    assert min(part.min_s for part in parts) > 0
    assert 0.5 * metrics.detect.sum_s < sum(part.sum_s for part in parts) <= metrics.detect.sum_s
    assert metrics.age.sum_s == pytest.approx(metrics.wait.sum_s + metrics.detect.sum_s + metrics.hand_over.sum_s)
    assert "inference" in str(metrics)


def test_another_callable_has_no_stages() -> None:
    with stream(iter(PICTURES), lambda image: NOTHING, policy="all") as frames:
        assert sum(1 for _ in frames) == 4
        assert (frames.metrics.detect.count, frames.metrics.inference.count) == (4, 0)


def test_stages_on_the_gpu(model_path: Path, spec: ModelSpec, tmp_path: Path) -> None:
    """Upload to download is one piece of work. Before it, images are copied to pinned memory; after it, results read.

    A call may also wait for one that another thread makes.
    """
    engine = save_engine(tmp_path / "tiny.engine", model_path, spec)
    with fake_gpu(), Detector(engine, device="cuda") as detector, collect() as seconds:
        detector(PICTURES)
    assert set(seconds) == {"queue", "preprocess", "inference", "postprocess"}


def test_collecting_is_of_one_thread_and_one_block(detector: Detector) -> None:
    with collect() as outer, collect() as inner:
        detector(PICTURES[0])
    detector(PICTURES[0])
    assert set(inner) == {"preprocess", "inference", "postprocess"}
    assert outer == inner  # a collector counts what those inside it collect


# -- Prometheus --------------------------------------------------------------------------------------------------------


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """By (name, labels), as prometheus_client itself reads them."""
    from prometheus_client.parser import text_string_to_metric_families

    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_numbers_are_the_streams(client: Any, detector: Detector) -> None:
    from retinasdk.live.prometheus import register

    registry = client.CollectorRegistry()
    with stream({"left": iter(PICTURES), "right": iter(PICTURES[:2])}, detector, policy="all") as frames:
        register(frames, name="hall", registry=registry)
        for _ in frames:
            text = client.generate_latest(registry).decode()
        found = samples(text)
        counted = {
            (source, outcome): found["retinasdk_stream_frames_total", labels(source=source, outcome=outcome)]
            for source, outcome in itertools.product(("left", "right"), ("captured", "processed", "dropped", "failed"))
        }
        expected = {name: vars(counters) for name, counters in frames.counters.items()}
        assert counted == {(name, outcome): value for name in expected for outcome, value in expected[name].items()}
        for stage in frames.metrics.STAGES:
            histogram = getattr(frames.metrics, stage)
            if stage == "output":  # That of the last frame was not over yet.
                assert found["retinasdk_stream_stage_seconds_count", labels(stage=stage)] == histogram.count - 1
                continue
            assert found["retinasdk_stream_stage_seconds_count", labels(stage=stage)] == histogram.count
            assert found["retinasdk_stream_stage_seconds_sum", labels(stage=stage)] == pytest.approx(histogram.sum_s)
            buckets = [
                value
                for (name, given), value in found.items()
                if name.endswith("_bucket") and ("stage", stage) in given
            ]
            assert len(buckets) == 26
            assert buckets == sorted(buckets)
            assert buckets[-1] == histogram.count
        load = frames.metrics.load
        for stage in load.STAGES:
            seconds = found["retinasdk_stream_busy_seconds_total", labels(stage=stage)]
            assert seconds == 0 if stage == "queue" else 0 < seconds <= load.busy_s(stage)
        for reason in ("source", "limit"):
            assert found["retinasdk_stream_awaited_frames_total", labels(reason=reason)] == load.awaited(reason)
    assert samples(client.generate_latest(registry).decode()) == {}  # closed


def labels(**names: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted({"stream": "hall", **names}.items()))


def test_several_streams_of_a_process(client: Any) -> None:
    from retinasdk.live.prometheus import register

    registry = client.CollectorRegistry()
    first, second = (stream(iter(PICTURES), lambda image: NOTHING) for _ in range(2))
    register(first, registry=registry)
    register(second, registry=registry)
    names = {dict(given)["stream"] for _, given in samples(client.generate_latest(registry).decode())}
    assert len(names) == 2
    third = stream(iter(PICTURES), lambda image: NOTHING)
    with pytest.raises(ValueError, match="another stream of this registry is named"):
        register(third, name=names.pop(), registry=registry)
    gone = weakref.ref(first)
    third.close()
    second.close()
    del first, second, third
    gc.collect()
    assert gone() is None  # being shown keeps nothing alive
    assert samples(client.generate_latest(registry).decode()) == {}


def test_command_serves_them(client: Any, model_path: Path, tmp_path: Path) -> None:
    for number in range(400):
        PillowImage.fromarray(PICTURES[number % 4]).save(tmp_path / f"{number}.png")
    arguments = ["live", str(tmp_path), "--model", str(model_path), "--device", "cpu", "--max-fps", "50"]
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "retinasdk.cli.main", *arguments, "--metrics", "0", "--jsonl", "-"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        found = re.fullmatch(r"metrics at (http://127\.0\.0\.1:\d+/metrics)\n", process.stderr.readline())
        assert found is not None
        process.stdout.readline()
        with urllib.request.urlopen(found[1], timeout=20) as answer:
            text = answer.read().decode()
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert re.search(r'retinasdk_stream_frames_total\{.*outcome="processed".*stream="live"\} [1-9]', text)


# -- logs --------------------------------------------------------------------------------------------------------------


class Unsteady:
    """Spoils every other frame, and is lost with each twentieth; a thousandth of a second each."""

    name, live, on_demand = "unsteady", True, False

    def __init__(self, world: World, until_s: float) -> None:
        self._world, self._until_s = world, until_s
        self.spoiled = self.lost = 0
        self._count = 0

    def open(self) -> None: ...

    def read(self) -> RawFrame | None:
        self._world.sleep(0.001)
        self._count += 1
        if self._count % 20 == 0:
            self.lost += 1
            raise OSError("the cable was pulled")
        if self._count % 2:
            self.spoiled += 1
            raise CorruptFrameError("a packet was lost")
        return RawFrame(lambda: PICTURES[0])

    def close(self) -> None: ...


def fails(image: Image) -> Detections:
    raise RuntimeError("cannot do this one")


def test_ten_thousand_failures_in_ten_seconds_are_a_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    source = Unsteady(world, 30.0)
    with (
        caplog.at_level("INFO", "retinasdk.live"),
        stream(
            source,
            fails,
            policy="all",
            clock=world,
            reconnect=Reconnect(first_s=0.0, longest_s=0.0, attempts=None),
            max_failures=10**9,
        ) as frames,
    ):
        failed = 0
        while world.now() < 130.0:
            failed += next(frames).error is not None
    messages = [record.getMessage() for record in caplog.records]
    assert failed > 10_000
    assert source.spoiled > 10_000
    assert len(messages) < 80
    for text, happened in (("corrupt frame", source.spoiled), ("the detector failed", failed)):
        told = [message for message in messages if text in message and "the last of" not in message]
        assert 5 <= len(told) <= 5 + 3  # at once, and in 30 s
        numbers = re.findall(rf"{text}.*\((?:the last of )?(\d+) ", "\n".join(messages))
        # Those of the source are told to the last when it ends, those of the detector up to the last line.
        least = happened - (0 if text == "corrupt frame" else 6000)
        assert least <= len(told) + sum(map(int, numbers)) <= happened
    assert any("the cable was pulled; trying again in" in message for message in messages)


def test_a_camera_that_drops_out_now_and_then_is_told_of_in_full(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    camera = Camera(world, 0.1, count=200, script={number: OSError("no signal") for number in (30, 90, 150)})
    steady = Reconnect(first_s=0.5, jitter=0.0, attempts=1)
    with (
        caplog.at_level("INFO", "retinasdk.live"),
        stream(camera, lambda image: NOTHING, policy="all", clock=world, reconnect=steady) as frames,
        pytest.raises(StreamError),
    ):
        for _ in frames:
            pass
    told = [record.getMessage().removeprefix("camera: ") for record in caplog.records]
    assert [told.count(state) for state in ("connecting", "streaming")] == [5, 4]
    assert told[:6] == [
        "connecting",
        "streaming",
        *["no signal; trying again in 0.5 s (attempt 1)", "reconnecting", "connecting", "streaming"],
    ]


def test_each_kind_has_lines_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    log = LimitedLog(logging.getLogger("retinasdk.test"), world)
    with caplog.at_level("DEBUG", "retinasdk.test"):
        for number in range(8):
            log.log(logging.WARNING, "a", f"100 % of a {number}")
            log.log(logging.INFO, "b", f"b {number}")
        world.time_s += 10.0
        log.log(logging.WARNING, "a", "a again")
        log.close()
        log.close()
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [text for level, text in told if level == "WARNING"] == [
        *(f"100 % of a {number}" for number in range(5)),
        "a again (3 similar messages were not logged)",
    ]
    assert [text for level, text in told if level == "INFO"] == [
        *(f"b {number}" for number in range(5)),
        "b 7 (the last of 3 messages not logged)",
    ]


# -- histograms --------------------------------------------------------------------------------------------------------


def test_histogram_against_numpy() -> None:
    random = np.random.default_rng(0)
    for scale in (1e-3, 0.02, 3.0):
        values = random.lognormal(np.log(scale), 1.0, 5000)
        histogram = Histogram()
        for value in values:
            histogram.add(float(value))
        assert histogram.count == 5000
        assert histogram.sum_s == pytest.approx(values.sum())
        assert (histogram.min_s, histogram.max_s) == (values.min(), values.max())
        for share in (0.0, 0.01, 0.5, 0.9, 0.99, 1.0):
            exact = float(np.quantile(values, share, method="inverted_cdf"))
            assert exact * (1 - 1e-9) <= histogram.quantile(share) <= exact * 1.0906
        buckets, total = histogram.cumulative()
        edges, counts = zip(*buckets, strict=True)
        assert list(counts) == [int((values <= edge).sum()) for edge in edges]
        assert (len(edges), counts[-1], total) == (26, 5000, histogram.sum_s)


def test_histogram_edges() -> None:
    histogram = Histogram()
    assert np.isnan(histogram.quantile(0.5))
    assert histogram.to_dict() == {"count": 0}
    assert {count for _, count in histogram.cumulative()[0]} == {0}
    for seconds in (0.0, 1e-9, 1e6):
        histogram.add(seconds)
    assert histogram.quantile(1.0) == 1e6
    buckets, _ = histogram.cumulative()
    assert (buckets[0], buckets[-2][1], buckets[-1]) == ((1e-5, 2), 2, (float("inf"), 3))
    with pytest.raises(ValueError, match="from 0 to 1, got 50"):
        histogram.quantile(50)


def test_metrics_print_and_export() -> None:
    metrics = Metrics()
    metrics.detect.add(0.02)
    assert metrics.to_dict()["detect"] == {
        "count": 1,
        "mean_s": 0.02,
        "p50_s": 0.02,
        "p95_s": 0.02,
        "max_s": 0.02,
    }
    assert list(metrics.to_dict()) == [
        "capture",
        "wait",
        "detect",
        "convert",
        "queue",
        "preprocess",
        "inference",
        "postprocess",
        "hand_over",
        "output",
        "age",
    ]
    lines = str(metrics).splitlines()
    assert lines[3].split() == ["detect", "1", "20.0", "20.0", "20.0", "20.0"]
    assert lines[1].split() == ["capture", "0"]
