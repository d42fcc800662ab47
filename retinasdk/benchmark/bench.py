"""`bench`: times models, devices, precisions and input sizes alternately on this machine, and measures their AP."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retinasdk._util.dataclass_json import dump_readable, from_json_object, to_json_object
from retinasdk._util.json_text import parse_json
from retinasdk._util.pictures import seeded_picture
from retinasdk._util.progress import ProgressCallback, tracked
from retinasdk.backends.base import DEVICES
from retinasdk.benchmark.contestant import Contestant
from retinasdk.benchmark.machine import machine_facts
from retinasdk.benchmark.published import PUBLISHED, Published
from retinasdk.benchmark.turns import Spread, Times, take_turns
from retinasdk.detector import Detector
from retinasdk.errors import ModelError
from retinasdk.images import as_rgb, list_images
from retinasdk.models import find_model
from retinasdk.spec import ModelSpec, Resize
from retinasdk.tensorrt.engine_info import ENGINE_SUFFIX, PRECISIONS, EngineInfo

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["BenchReport", "BenchRow", "Published", "Spread", "bench"]

DEFAULT_ROUNDS, DEFAULT_WARMUP = 20, 3
_MAX_BATCH = 256
MOST_IMAGES = 16  # kept decoded in memory during the measurement
_PICTURE_SIZE = (480, 640)
_CPU_PRECISION = "fp32"
_STAGES = ("preprocess", "network", "postprocess")

_Path = str | os.PathLike[str]


@dataclass(frozen=True)
class BenchRow:
    """The measurements of one configuration. Times are milliseconds per call with `BenchReport.batch` images.

    Attributes:
        model: Name or file of the model.
        device: "cpu" or "cuda".
        precision: "fp32", "fp16" or "int8".
        size: (height, width) that was requested, in pixels. None for the model's own rule.
        inputs: (height, width) of the network inputs, in pixels.
        call_ms: Time of `Detector(images)`, from decoded images to detections.
        stages_ms: Times of its stages "preprocess", "network" and "postprocess", measured separately. Empty on the
            GPU, which runs them as one.
        ratio: Time of the call divided by that of the first row in the same round.
        metrics: COCO metrics by name, as in `Evaluation.metrics`. Empty without annotations.
        convolution: Which convolutions the CPU used, and why. Empty on the GPU.
    """

    model: str
    device: str
    precision: str
    size: tuple[int, int] | None
    inputs: tuple[tuple[int, int], ...]
    call_ms: Spread
    stages_ms: Mapping[str, Spread]
    ratio: Spread
    metrics: Mapping[str, float | None]
    convolution: str = ""

    @property
    def name(self) -> str:
        """Model, size if one was requested, device and precision, as one string."""
        size = f" {self.size[0]}x{self.size[1]}" if self.size else ""
        return f"{self.model}{size} {self.device} {self.precision}"


@dataclass(frozen=True)
class BenchReport:
    """The result of `retinasdk.bench`.

    Attributes:
        machine: Facts about the machine, by name.
        batch: Images per call.
        rounds: Timed rounds.
        warmup: Rounds before them that are not timed.
        images: Number of images that took turns, or 0 for a generated picture.
        annotations: Name of the annotation file, or None.
        rows: One row for each configuration.
        published: Figures published by others, for comparison.
    """

    machine: Mapping[str, str]
    batch: int
    rounds: int
    warmup: int
    images: int
    annotations: str | None
    rows: tuple[BenchRow, ...]
    published: tuple[Published, ...] = ()

    def to_json(self) -> str:
        """Returns the report as JSON text."""
        return dump_readable(to_json_object(self))

    @classmethod
    def from_json(cls, text: str) -> BenchReport:
        """Reads a report from JSON text.

        Raises:
            ModelError: If the text is not a report.
        """
        try:
            content = parse_json(text)
        except ValueError as error:
            raise ModelError(f"expected a benchmark report in JSON, but the text cannot be parsed: {error}") from error
        if not isinstance(content, dict):
            raise ModelError(f"expected a benchmark report, which is a JSON object, got {type(content).__name__}")
        return from_json_object(cls, content)


@dataclass(frozen=True)
class _Setup:
    """One configuration to measure. `precision` is None if the device or the file determines it."""

    model: str
    path: Path
    device: str
    precision: str | None
    size: tuple[int, int] | None

    def open(self, threads: int | None) -> Detector:
        spec = None if self.size is None else _sized(_own_spec(self.path), self.size)
        return Detector(self.path, device=self.device, precision=self.precision, spec=spec, threads=threads)


def bench(
    models: Sequence[_Path],
    *,
    devices: Sequence[str] = ("auto",),
    precisions: Sequence[str] = (),
    sizes: Sequence[tuple[int, int]] = (),
    images: _Path | None = None,
    annotations: _Path | None = None,
    batch: int = 1,
    rounds: int = DEFAULT_ROUNDS,
    warmup: int = DEFAULT_WARMUP,
    threads: int | None = None,
    published: bool = False,
    clock: Callable[[], float] = time.perf_counter,
    progress: ProgressCallback | None = None,
) -> BenchReport:
    """Times every combination of models, devices, precisions and sizes, alternately (A B A B ...).

    All configurations are loaded at once and measured in the same rounds, so that other work on the machine slows all
    of them alike. Compare the ratios, not the times of different runs.

    Args:
        models: Names of bundled models, ONNX files or engines.
        devices: "cpu", "cuda" or "auto".
        precisions: Precisions of the engines that are built from ONNX files: "fp32", "fp16", "int8". Defaults to
            "fp16". The CPU always computes in float32.
        sizes: (height, width) in pixels that the network input must fit into, by the resize rule of the model.
            Defaults to the model's own size.
        images: Folder of images, of which up to 16 take turns. Defaults to a generated picture of 480 x 640 or of the
            requested size.
        annotations: COCO annotation file for `images`. Its images are then used, and each row has metrics.
        batch: Images per call.
        rounds: Timed rounds.
        warmup: Rounds before them that are not timed.
        threads: CPU threads per call. Defaults to the number of cores.
        published: Add figures published by others. Needs annotations.
        clock: Returns the time in seconds.
        progress: Called with a `retinasdk.Progress` for each model that is loaded, each round, and each image on which
            average precision is measured.

    Raises:
        ValueError: If an option is not valid.
        ModelError: If a model cannot be loaded.
        DeviceError: If a device cannot be used.

    Example:
        ```python
        report = retinasdk.bench(["people"], devices=["cpu"], sizes=[(256, 256)], rounds=2, warmup=1)
        print(report.rows[0].call_ms.median)
        ```
    """
    _check_options(devices, precisions, sizes, batch, rounds, warmup)
    if annotations is not None and images is None:
        raise ValueError("annotations need the folder of their images; give images=, or --images on the command line")
    if published and annotations is None:
        raise ValueError("published figures are average precision against time; give images and annotations too")
    setups = _setups(models, devices, precisions, sizes)
    pictures = None if images is None else _read_images(Path(images), annotations)
    facts = machine_facts()
    with ExitStack() as opened:
        contestants = []
        for setup in tracked(setups, progress, "load", "model"):
            detector = opened.enter_context(setup.open(threads))
            height, width = setup.size or _PICTURE_SIZE
            shown = pictures or [seeded_picture(height, width, seed=0)]
            contestants.append(Contestant(detector, _batches(shown, batch)))
        # First all whole calls, then all stages, so that each starts with caches that another configuration has filled.
        halves = take_turns(
            [item.whole() for item in contestants] + [item.stages() for item in contestants],
            rounds=rounds,
            warmup=warmup,
            clock=clock,
            progress=progress,
        )
        times = [whole | stages for whole, stages in zip(halves, halves[len(contestants) :], strict=False)]
        metrics: list[Mapping[str, float | None]] = [{} for _ in setups]
        if annotations is not None and images is not None:
            from retinasdk.evaluation.evaluate import evaluate

            for place, item in enumerate(contestants):
                metrics[place] = evaluate(item.detector, images, annotations, progress=progress).metrics
        facts |= {name: fact for item in contestants for name, fact in item.gpu_facts().items()}
        rows = [_row(*four, times[0]) for four in zip(setups, contestants, times, metrics, strict=True)]
    return BenchReport(
        machine=facts,
        batch=batch,
        rounds=rounds,
        warmup=warmup,
        images=len(pictures or ()),
        annotations=None if annotations is None else Path(annotations).name,
        rows=tuple(rows),
        published=PUBLISHED if published else (),
    )


def _check_options(
    devices: Sequence[str],
    precisions: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    batch: int,
    rounds: int,
    warmup: int,
) -> None:
    for what, given, known in (("devices", devices, DEVICES), ("precisions", precisions, PRECISIONS)):
        if isinstance(given, str):
            raise TypeError(f"{what} must be a list of names, got the string {given!r}; write [{given!r}]")
        unknown = [name for name in given if name not in known]
        if unknown:
            raise ValueError(f"{what} must be among {', '.join(known)}; got {unknown[0]!r}")
    if not devices:
        raise ValueError(f"devices must contain at least one of {', '.join(DEVICES)}, got none")
    for size in sizes:
        if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
            raise ValueError(f"sizes must be (height, width) in pixels, got {size!r}")
    if isinstance(batch, int) and batch > _MAX_BATCH:
        raise ValueError(f"batch must be at most {_MAX_BATCH}, got {batch}")
    for name, number, least in (("batch", batch, 1), ("rounds", rounds, 1), ("warmup", warmup, 0)):
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {number!r}")


def _setups(
    models: Sequence[_Path], devices: Sequence[str], precisions: Sequence[str], sizes: Sequence[tuple[int, int]]
) -> list[_Setup]:
    """Returns every valid combination once. Raises `ValueError` or `ModelError`."""
    if isinstance(models, (str, os.PathLike)) or not models:
        raise ValueError(f"models must be a list of at least one name or path, got {models!r}")
    setups = []
    for model in models:
        path = find_model(model)
        name = os.fspath(model) if path.stem == os.fspath(model) else path.name
        is_engine = path.suffix == ENGINE_SUFFIX
        if is_engine and set(devices) == {"cpu"}:
            raise ValueError(
                f"{path} is a TensorRT engine, which runs on the GPU only, got device 'cpu'; give the ONNX file "
                "instead, or device 'cuda'"
            )
        for device in devices:
            found = "cuda" if is_engine else _resolved(device)
            own: Sequence[str | None] = precisions if found == "cuda" and not is_engine and precisions else (None,)
            for precision in own:
                setups += [_Setup(name, path, found, precision, size) for size in sizes or (None,)]
    unused = [name for name in precisions if name not in {setup.precision for setup in setups}]
    if unused and unused != [_CPU_PRECISION]:
        raise ValueError(
            f"precision {unused[0]!r} applies to engines built from ONNX files for the GPU, and none is built here; "
            "give device 'cuda', or leave out the precision"
        )
    return list(dict.fromkeys(setups))


def _resolved(device: str) -> str:
    if device != "auto":
        return device
    from retinasdk.tensorrt.installed import why_no_gpu

    return "cpu" if why_no_gpu() else "cuda"


def _own_spec(path: Path) -> ModelSpec:
    if path.suffix == ENGINE_SUFFIX:
        return EngineInfo.load(path).spec
    with Detector(path, device="cpu", threads=1) as detector:
        return detector.spec


def _sized(spec: ModelSpec, size: tuple[int, int]) -> ModelSpec:
    """Returns the spec with an input that fits into `size`. A rule that keeps proportions still does."""
    sides: dict[str, tuple[int, ...]] = {"shortest": (min(size), max(size)), "squash": size, "fit": size}
    resize: Resize = spec.resize
    return spec.replace(resize=dataclasses.replace(resize, size=sides.get(resize.rule, (max(size),))))


def _read_images(folder: Path, annotations: _Path | None) -> list[npt.NDArray[Any]]:
    if annotations is None:
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder; give a folder of images")
        paths: Sequence[_Path] = list_images(folder)
    else:
        from retinasdk.evaluation.annotations import read_annotations

        paths = read_annotations(Path(annotations)).paths(folder)
    if not paths:
        raise ValueError(
            f"{folder} contains no images; give another folder, or leave it out to use a generated picture"
        )
    return [as_rgb(path) for path in paths[:MOST_IMAGES]]


def _batches(images: Sequence[npt.NDArray[Any]], batch: int) -> list[list[npt.NDArray[Any]]]:
    """Splits images into batches; after the last image the first follows again."""
    return [[images[(start + step) % len(images)] for step in range(batch)] for start in range(0, len(images), batch)]


def _row(
    setup: _Setup, contestant: Contestant, times: Times, metrics: Mapping[str, float | None], first: Times
) -> BenchRow:
    return BenchRow(
        model=setup.model,
        device=contestant.detector.device,
        precision=contestant.precision,
        size=setup.size,
        inputs=contestant.inputs(),
        call_ms=Spread.of(times["call"]),
        stages_ms={name: Spread.of(times[name]) for name in _STAGES if name in times},
        ratio=Spread.of(times["call"] / first["call"]),
        metrics=metrics,
        convolution=str(contestant.detector.convolution or ""),
    )
