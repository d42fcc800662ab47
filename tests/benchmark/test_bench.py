"""The benchmark: who runs when, what is made of the times, and how it is shown. No time is measured here."""

from __future__ import annotations

import dataclasses
import functools
import io
import itertools
import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_sets import own_truth, save_set
from fakes import FakeGpu, fake_gpu
from fakes.tensorrt import save_engine
from hypothesis import given
from hypothesis import strategies as st
from pictures import blocks
from PIL import Image as PillowImage

from retinasdk import Detector, ModelError, ModelSpec, Progress, Resize
from retinasdk.benchmark.bench import BenchReport, BenchRow, Spread, bench
from retinasdk.benchmark.published import PUBLISHED
from retinasdk.benchmark.table import markdown
from retinasdk.benchmark.turns import take_turns
from retinasdk.cli.main import main
from retinasdk.evaluation.evaluate import METRICS, evaluate

MILLISECOND = 0.001


def ticking(steps_ms: Sequence[float]) -> Callable[[], float]:
    """A clock that is read before and after each step, and says that they took so long."""
    readings = itertools.chain.from_iterable((0.0, MILLISECOND * step) for step in steps_ms)
    return functools.partial(next, readings)


def constant() -> Callable[[], float]:
    """A clock by which every step takes one second."""
    return functools.partial(next, itertools.count(0.0))


# -- turns -------------------------------------------------------------------------------------------------------------


def test_contestants_take_turns() -> None:
    calls: list[str] = []

    def step(name: str) -> Callable[[int], object]:
        return lambda turn: calls.append(f"{name}{turn}")

    first, second = {"call": step("a")}, {"call": step("b"), "network": step("n")}
    durations = [float(number) for number in range(12)]
    times = take_turns([first, second], rounds=3, warmup=1, clock=ticking(durations))
    assert calls == [f"{name}{turn}" for turn in range(4) for name in ("a", "b", "n")]
    assert [list(found) for found in times] == [["call"], ["call", "network"]]
    # The round of warm-up took 0, 1 and 2.
    np.testing.assert_allclose(times[0]["call"], [3, 6, 9])
    np.testing.assert_allclose(times[1]["call"], [4, 7, 10])
    np.testing.assert_allclose(times[1]["network"], [5, 8, 11])


def test_the_progress_counts_rounds() -> None:
    seen: list[Progress] = []
    take_turns([{}], rounds=3, warmup=2, clock=constant(), progress=seen.append)
    assert seen == [Progress("time", done, 5, "round") for done in range(6)]


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=40))
def test_quartiles(values: list[float]) -> None:
    spread = Spread.of(np.array(values))
    ordered = sorted(values)

    def quantile(share: float) -> float:
        place = share * (len(ordered) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (place - low) * (ordered[high] - ordered[low])

    assert (spread.low, spread.median, spread.high) == pytest.approx([quantile(share) for share in (0.25, 0.5, 0.75)])


# -- the function ------------------------------------------------------------------------------------------------------


def test_numbers_are_those_of_the_clock(model_path: Path) -> None:
    random_ = random.Random(0)
    rounds, warmup = 5, 2
    # In each round: both calls, then the three stages of the first and of the second.
    durations = [[random_.uniform(1, 100) for _ in range(8)] for _ in range(warmup + rounds)]
    report = bench(
        [model_path],
        devices=["cpu"],
        sizes=[(64, 96), (96, 128)],
        rounds=rounds,
        warmup=warmup,
        threads=1,
        clock=ticking(list(itertools.chain(*durations))),
    )
    table = np.array(durations)[warmup:]
    for place, row in enumerate(report.rows):
        assert_spread(row.call_ms, table[:, place])
        for stage, name in enumerate(("preprocess", "network", "postprocess")):
            assert_spread(row.stages_ms[name], table[:, 2 + 3 * place + stage])
        assert_spread(row.ratio, table[:, place] / table[:, 0])
    assert report.rows[0].ratio == Spread(1.0, 1.0, 1.0)
    assert (report.rounds, report.warmup, report.batch, report.images) == (rounds, warmup, 1, 0)


def assert_spread(spread: Spread, values: Any) -> None:
    wanted = np.quantile(values, [0.25, 0.5, 0.75])
    np.testing.assert_allclose((spread.low, spread.median, spread.high), wanted)


def quick(models: Any, **options: Any) -> BenchReport:
    return bench(models, **{"devices": ["cpu"], "rounds": 2, "warmup": 0, "threads": 1, "clock": constant(), **options})


def test_rows_are_all_combinations_in_order(model_path: Path, tmp_path: Path, spec: ModelSpec) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(model_path.read_bytes())
    spec.save(other.with_suffix(".json"))
    report = quick([model_path, other, model_path], sizes=[(64, 96), (96, 64)])
    assert [(row.model, row.size, row.device, row.precision) for row in report.rows] == [
        (name, size, "cpu", "fp32") for name in ("tiny.onnx", "other.onnx") for size in ((64, 96), (96, 64))
    ]


@pytest.mark.parametrize(
    ("resize", "wanted"),
    [
        (Resize("shortest", (128, 224)), (64, 96)),
        (Resize("longest", (500,)), (64, 96)),
        (Resize("native", (30,)), (64, 96)),
        (Resize("squash", (128, 128)), (64, 96)),
        (Resize("fit", (128, 128)), (64, 96)),
    ],
    ids=lambda value: value.rule if isinstance(value, Resize) else "",
)
def test_a_picture_of_the_size_makes_an_input_of_the_size(
    network: Any, spec: ModelSpec, tmp_path: Path, resize: Resize, wanted: tuple[int, int]
) -> None:
    (tmp_path / "model.onnx").write_bytes(network.SerializeToString())
    spec.replace(resize=resize, pad_multiple=1).save(tmp_path / "model.json")
    assert quick([tmp_path / "model.onnx"], sizes=[wanted]).rows[0].inputs == (wanted,)


def test_photos_fit_into_the_size_in_their_proportions(model_path: Path, tmp_path: Path, spec: ModelSpec) -> None:
    for size in ((200, 100), (100, 200)):
        PillowImage.fromarray(blocks(*size)).save(tmp_path / f"{size[0]}.png")
    (row,) = quick([model_path], sizes=[(128, 128)], images=tmp_path).rows
    assert row.inputs == (spec.padded(64, 128), spec.padded(128, 64))


def test_images_take_turns(model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heights = [40 + 8 * index for index in range(18)]
    for height in heights:
        PillowImage.fromarray(blocks(height, 50)).save(tmp_path / f"{height:03d}.png")
    seen: list[list[int]] = []
    real = Detector._detect

    def spy(self: Detector, images: list[Any], *options: Any) -> Any:
        seen.append([image.shape[0] for image in images])
        return real(self, images, *options)

    monkeypatch.setattr(Detector, "_detect", spy)
    report = quick([model_path], images=tmp_path, rounds=4, batch=6)
    # The first sixteen, and from the beginning again behind them.
    assert seen == [heights[:6], heights[6:12], heights[12:16] + heights[:2], heights[:6]]
    assert (report.images, report.batch) == (16, 6)


def test_stages_do_what_the_call_does(model_path: Path) -> None:
    """The detections of the last stage are the call's, over images of two network sizes."""
    from retinasdk.benchmark.contestant import Contestant

    images = [blocks(90, 120, 1), blocks(120, 90, 2), blocks(90, 120, 3)]
    with Detector(model_path, device="cpu", threads=1, score_threshold=0.3) as detector:
        contestant = Contestant(detector, [images])
        whole: Any = contestant.whole()["call"](0)
        stages: Any = [step(0) for step in contestant.stages().values()][-1]
        assert [len(found) for found in whole] == [len(detector(image)) for image in images]
        assert [whole[0], whole[2]] == stages[0]
        assert [whole[1]] == stages[1]
        assert len(contestant.inputs()) == 2


@pytest.fixture
def annotated(tmp_path: Path, detector: Detector) -> Path:
    """A folder with pictures, and their boxes in truth.json."""
    annotations = own_truth(detector)
    for item in annotations["annotations"][::3]:
        item["bbox"][0] += 30
    return save_set(tmp_path, annotations).parent


def test_average_precision_is_that_of_evaluate(annotated: Path, model_path: Path, spec: ModelSpec) -> None:
    pytest.importorskip("pycocotools")
    report = quick([model_path], sizes=[(128, 224), (64, 96)], images=annotated, annotations=annotated / "truth.json")
    for row, limits in zip(report.rows, ((128, 224), (64, 96)), strict=True):
        sized = spec.replace(resize=dataclasses.replace(spec.resize, size=limits))
        with Detector(model_path, device="cpu", spec=sized, threads=1) as detector:
            wanted = evaluate(detector, annotated, annotated / "truth.json").metrics
        assert row.metrics == wanted
        assert list(row.metrics) == list(METRICS)
    assert report.rows[0].metrics != report.rows[1].metrics
    assert (report.annotations, report.images, report.published) == ("truth.json", 5, ())


# -- on the GPU's stand-in ---------------------------------------------------------------------------------------------


@pytest.fixture
def gpu() -> Iterator[FakeGpu]:
    with fake_gpu() as gpu:
        yield gpu


def test_an_engine_beside_its_network(gpu: FakeGpu, model_path: Path, spec: ModelSpec, tmp_path: Path) -> None:
    engine = save_engine(tmp_path / "tiny.engine", model_path, spec)
    report = quick([model_path, engine], devices=["auto"], precisions=["fp32"], sizes=[(64, 96)])
    (alone,) = quick([engine], devices=["cpu", "cuda"]).rows
    assert (alone.device, alone.size) == ("cuda", None)
    del gpu
    assert [(row.model, row.device, row.precision) for row in report.rows][-1] == ("tiny.engine", "cuda", "fp32")
    assert report.rows[-1].stages_ms == {}
    assert report.machine["GPU"].startswith("Fake GPU, compute capability 8.7")
    assert report.machine["TensorRT"] == "tensorrt 10.3.0"
    assert "stages are measured on the CPU only; the GPU runs them as one" in markdown(report)


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": ["gpu"]}, "devices must be among auto, cpu, cuda; got 'gpu'"),
        ({"devices": []}, "devices must contain at least one"),
        ({"precisions": ["fp8"]}, "precisions must be among fp32, fp16, int8; got 'fp8'"),
        ({"precisions": ["fp16"]}, "precision 'fp16' applies to engines built from ONNX files for the GPU"),
        ({"sizes": [(0, 5)]}, r"sizes must be \(height, width\) in pixels, got \(0, 5\)"),
        ({"sizes": [(5,)]}, "sizes must be"),
        ({"batch": 0}, "batch must be an integer of at least 1, got 0"),
        ({"batch": 257}, "batch must be at most 256, got 257"),
        ({"rounds": 0}, "rounds must be an integer of at least 1"),
        ({"rounds": True}, "rounds must be an integer"),
        ({"warmup": -1}, "warmup must be an integer of at least 0"),
        ({"threads": 0}, "threads must be an integer"),
        ({"annotations": "truth.json"}, "annotations need the folder of their images"),
        ({"published": True}, "published figures are average precision against time"),
        ({"images": "nowhere"}, "nowhere is not a folder"),
    ],
    ids=str,
)
def test_options_that_make_no_sense(model_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quick([model_path], **options)


def test_models_that_are_none(model_path: Path, tmp_path: Path) -> None:
    for models in ([], model_path, str(model_path)):
        with pytest.raises(ValueError, match="models must be a list of at least one name or path"):
            quick(models)
    with pytest.raises(ModelError, match="peeple is not the path of a file and not the name of a bundled model"):
        quick([model_path, "peeple"])
    with pytest.raises(TypeError, match=r"devices must be a list of names, got the string 'cpu'; write \['cpu'\]"):
        quick([model_path], devices="cpu")
    (tmp_path / "a.engine").write_bytes(b"")
    with pytest.raises(ValueError, match="is a TensorRT engine, which runs on the GPU only, got device 'cpu'"):
        quick([tmp_path / "a.engine"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="contains no images"):
        quick([model_path], images=tmp_path / "empty")


# -- what is shown -----------------------------------------------------------------------------------------------------


def row(**changes: Any) -> BenchRow:
    made = BenchRow(
        model="people",
        device="cpu",
        precision="fp32",
        size=(480, 640),
        inputs=((480, 640), (640, 480)),
        call_ms=Spread(11.0, 12.3456, 14.0),
        stages_ms={"preprocess": Spread(1, 2, 3), "network": Spread(4, 5.5, 6), "postprocess": Spread(0.1, 0.2, 0.3)},
        ratio=Spread(0.9, 1.0, 1.1),
        metrics={"AP": 0.25, "AP50": None},
    )
    return dataclasses.replace(made, **changes)


def example(**changes: Any) -> BenchReport:
    on_gpu = row(device="cuda", precision="int8", size=None, stages_ms={}, metrics={"AP": 0.24, "AP50": 0.5})
    made = BenchReport(
        machine={"processor": 'An [odd] "name"', "cores": "2 usable"},
        batch=2,
        rounds=7,
        warmup=1,
        images=3,
        annotations="truth.json",
        rows=(row(), on_gpu),
        published=PUBLISHED,
    )
    return dataclasses.replace(made, **changes)


def test_json_comes_back_the_same(model_path: Path) -> None:
    for report in (example(), example(annotations=None, published=()), quick([model_path])):
        assert BenchReport.from_json(report.to_json()) == report
    content = json.loads(example().to_json())
    assert content["rows"][0]["call_ms"] == {"low": 11.0, "median": 12.3456, "high": 14.0}
    assert {item["source"].split(",")[0] for item in content["published"]} == {
        "RetinaNet paper",
        "NVIDIA/retinanet-examples",
        "mmdeploy",
        "detectron2",
    }


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": 3}', "null"])
def test_other_json_is_no_report(text: str) -> None:
    with pytest.raises(ModelError):
        BenchReport.from_json(text)


def test_a_report_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        example().rounds = 3  # type: ignore[misc]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_the_table() -> None:
    lines = markdown(example()).splitlines()
    assert lines[0] == '- processor: An [odd] "name"'
    assert "`Detector(2 images)` on 3 images in turn" in lines[2]
    assert "7 rounds" in lines[2]
    assert "after 1 warm-up rounds" in lines[2]
    head, rule, first, second = (cells(line) for line in lines if line.startswith("|"))
    assert set("".join(rule)) == {"-"}
    assert dict(zip(head, first, strict=True)) == {
        "model": "people",
        "input": "480 x 640 to 640 x 480",
        "device": "cpu",
        "precision": "fp32",
        "call, ms": "12.3",
        "quartiles": "11.0 to 14.0",
        "preprocess, ms": "2.000",
        "network, ms": "5.500",
        "postprocess, ms": "0.200",
        "ratio to the first": "1.000, 0.900 to 1.100",
        "AP": "0.250",
        "AP50": "-",
    }
    assert second[6:9] == ["-", "-", "-"]
    without = markdown(example(annotations=None, images=0)).splitlines()
    assert "a generated picture" in without[2]
    assert "AP" not in "".join(without)


def test_published_figures_are_the_published() -> None:
    by_name = {(item.source.split(",")[0], item.hardware, item.name): item for item in PUBLISHED}
    assert len(by_name) == len(PUBLISHED) == 40
    assert by_name["RetinaNet paper", "M40, R101", "R101-800"].milliseconds == 198
    assert by_name["RetinaNet paper", "M40, R50", "R50-500"].ap == 0.325
    assert by_name["NVIDIA/retinanet-examples", "A100 int8", "R50"].milliseconds == 8
    assert by_name["mmdeploy", "T4 fp16", "R50"].milliseconds == 25.79
    assert all(0.3 < item.ap < 0.45 for item in PUBLISHED)


@pytest.mark.parametrize(
    "report",
    [
        example(),
        example(published=()),
        example(annotations=None, published=()),
        example(rows=(row(metrics={"AP": None}),)),
    ],
    ids=["published", "accuracy", "stages", "undefined"],
)
def test_the_chart(report: BenchReport) -> None:
    pytest.importorskip("matplotlib")
    from retinasdk.benchmark.plot import chart

    content = chart(report)
    assert content == chart(report)
    with PillowImage.open(io.BytesIO(content)) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    colored = (pixels.max(axis=2) - pixels.min(axis=2)) > 60
    assert colored.sum() > 100
    grey = (np.abs(pixels - 0xA9).max(axis=2) < 3).sum()
    assert (grey > 300) == bool(report.published)


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command(annotated: Path, model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("pycocotools")
    target, plot = tmp_path / "bench.json", tmp_path / "bench.png"
    words = ["bench", model_path, "--device", "cpu", "--size", "64x96", "128x224", "--size", "96X96"]
    words += ["--images", annotated, "--annotations", annotated / "truth.json", "--rounds", "2", "--batch", "2"]
    words += ["--threads", "1", "--json", target, "--plot", plot, "--published"]
    assert main(list(map(str, words))) == 0
    out, err = capsys.readouterr()
    assert err == ""
    report = BenchReport.from_json(target.read_text(encoding="utf-8"))
    assert [row.size for row in report.rows] == [(64, 96), (128, 224), (96, 96)]
    assert report.published == PUBLISHED
    assert out.startswith(markdown(report))
    assert out.endswith(f"wrote {target}\nwrote {plot}\n")
    with PillowImage.open(plot) as picture:
        assert np.asarray(picture).std() > 10


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "MODEL"),
        (["people", "--size", "640"], "expected height x width in pixels such as 1080x1920, got '640'"),
        (["people", "--device", "gpu"], "--device must be among auto, cpu, cuda"),
        (["people", "--device", "cpu", "--precision", "int8"], "precision 'int8' applies to engines"),
        (["people", "--plot", "chart.jpg"], "chart.jpg: the chart is written as PNG; name it chart.png"),
        (["people", "--json", "none/bench.json"], "none: no such folder to write to"),
        (["people", "--published"], "give images and annotations too"),
        (["nobody"], "nobody is not the path of a file"),
    ],
    ids=str,
)
def test_bad_words_of_the_command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_nothing_is_timed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["bench", "people", "--plot", str(tmp_path / "a.png")]) == 2
    assert "drawing charts needs the package matplotlib" in capsys.readouterr().err
