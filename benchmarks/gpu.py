"""A frame on the GPU, stage by stage: prints one Markdown page with the chip, its clocks, times, shares and bandwidths.

    python benchmarks/gpu.py [--model NAME_OR_PATH] [--sizes 800x1344 640x640] [--precisions fp32 fp16 int8]
                             [--rounds N] [--json FILE]

The photo lies on the host and is squashed to each size. Without --model: a ResNet-50-FPN RetinaNet of 91 classes with
random weights, about 0.3 % of its scores above the threshold. An engine is taken as it is, at the size it is tuned for.

Stages are timed by CUDA events on the frame's stream, kernels as a graph of ten launches, whole frames by the host's
clock; what is compared takes turns. Asserts nothing. Ends with one sentence and exit code 2 where no GPU can be used.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
from gpu_heads import use_driver
from gpu_page import Case, page
from gpu_stages import DeviceArray, copy_bandwidth, kernel_times, opened_lane, stage_times
from inputs import photo, random_model, read_or_make, size
from timing import interleave

import retinasdk
from retinasdk._util.files import write_atomically
from retinasdk.cuda.device import CudaDevice, gpu_identity
from retinasdk.errors import RetinaSdkError
from retinasdk.models import find_model
from retinasdk.pipeline.preprocess import Transform, preprocess
from retinasdk.pipeline.rules import logit
from retinasdk.tensorrt.engine_info import ENGINE_SUFFIX, EngineInfo
from retinasdk.tensorrt.installed import import_tensorrt, why_no_gpu

RANDOM_PRIOR = 0.001  # around which the random scores lie: as in overhead.py
CALIBRATION_IMAGES = 8
COPY_BYTES = 256 << 20  # beyond any second-level cache
SECONDS_OF_THROUGHPUT = 2.0

Image = npt.NDArray[np.uint8]


# -- the machine -------------------------------------------------------------------------------------------------------


def _said_by(*command: str) -> str:
    """What a program prints, on one line; "" where it is not here or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "; ".join(line.strip() for line in done.stdout.splitlines() if line.strip()) if done.returncode == 0 else ""


def _content(path: str) -> str:
    file = Path(path)
    return file.read_text(errors="replace").strip("\0\n ") if file.is_file() else ""


def machine(device: CudaDevice) -> dict[str, str]:
    """Chip, driver, versions; on Jetson the power mode too. Lines without an answer are left out."""

    def version(number: int) -> str:
        return f"{number // 1000}.{number % 1000 // 10}"

    native = device.native
    trt = import_tensorrt("benchmarks/gpu.py", gpu=gpu_identity(native))
    properties = native.device_properties(0)
    clocks = "clocks.sm,clocks.max.sm,clocks.mem,clocks.max.mem,power.limit,persistence_mode"
    facts = {
        "GPU": f"{device.name}, compute capability {'.'.join(map(str, device.compute_capability))}, "
        f"{properties['multiprocessors']} multiprocessors, {properties['memory_bytes'] / 1e9:.1f} GB",
        "driver": _said_by("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "CUDA": f"{version(native.runtime_version())}, driver up to {version(native.driver_version())}",
        "TensorRT": f"{trt.__name__} {trt.__version__}",
        "clocks": _said_by("nvidia-smi", f"--query-gpu={clocks}", "--format=csv"),
        "board": _content("/proc/device-tree/model"),
        "L4T": _content("/etc/nv_tegra_release").partition("\n")[0],
        "power mode": _said_by("nvpmodel", "-q"),
        "jetson_clocks": _said_by("jetson_clocks", "--show"),
        "host": f"{platform.machine()}, Python {platform.python_version()}, retinasdk {retinasdk.__version__}",
        "date": time.strftime("%Y-%m-%d"),
    }
    return {name: fact for name, fact in facts.items() if fact}


# -- whole frames ------------------------------------------------------------------------------------------------------


def launch_plainly(detector: retinasdk.Detector, image: Image) -> None:
    """Lets the detector's lane record nothing from here on."""
    detector(image)
    backend: Any = detector._backend
    for lane in backend._pool._idle:
        lane._graphs.run = lambda key, stream, launch, directly=None: launch()


def frames_per_second(detector: retinasdk.Detector, image: Image, threads: int, seconds: float) -> float:
    """Frames done by so many threads, each with one frame at a time."""

    def work(until: float) -> int:
        frames = 0
        while time.perf_counter() < until:
            detector(image)
            frames += 1
        return frames

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, [time.perf_counter() + seconds / 10] * threads))  # each gets its lane and its graph
        begin = time.perf_counter()
        frames = sum(pool.map(work, [begin + seconds] * threads))
        return frames / (time.perf_counter() - begin)


# -- one case ----------------------------------------------------------------------------------------------------------


def measure(device: CudaDevice, engine: Path, image: Image, arguments: argparse.Namespace) -> Case:
    """Everything about one engine, on an image that it takes."""
    info = EngineInfo.load(engine)
    spec, rounds = info.spec, arguments.rounds
    transform = Transform.plan(image.shape[:2], spec)
    with opened_lane(device, engine) as lane:
        for _ in range(3):
            lane.detect([image], [transform], score_threshold=spec.score_threshold, class_ids=())
        read_twice = int(lane._plan.rescans.view(lane._results.host).sum())
        stages = stage_times(lane, image, transform, spec.score_threshold, rounds)
        on_device = DeviceArray(device, image)
        kernels = kernel_times(lane, on_device, transform, rounds)
        on_device.buffer.free()
        tensor_bytes = math.prod(lane._plan.input.shape) * lane._plan.input.dtype.itemsize
        heads = [lane._plan.outputs[level.logits] for level in spec.levels]
        logits_bytes = sum(math.prod(field.shape) * field.dtype.itemsize for field in heads)
        shape = lane._plan.input.shape
        heads_of_photo = lane.infer(preprocess([image], [transform], spec).tensor)
    limit = logit(spec.score_threshold)
    pairs = sum(level.size for level in heads_of_photo.logits)
    above = sum(int((level > limit).sum()) for level in heads_of_photo.logits)

    with (
        retinasdk.Detector(engine, device="cuda") as replayed,
        retinasdk.Detector(engine, device="cuda") as plain,
        device.current(),
    ):
        launch_plainly(plain, image)
        on_device = DeviceArray(device, image)
        times = interleave(
            {
                "plain launches": lambda: plain(image),
                "graph replay": lambda: replayed(image),
                "graph replay, image on the GPU": lambda: replayed(on_device),  # type: ignore[call-overload]
            },
            rounds=rounds,
            warmup=10,
        )
        rates: dict[int, list[float]] = {threads: [] for threads in arguments.threads}
        for threads in arguments.threads * 3:
            rates[threads].append(frames_per_second(replayed, image, threads, arguments.seconds))
        detections = len(replayed(image))
        on_device.buffer.free()
    return Case(
        model=spec.name,
        precision=info.precision,
        input=shape,
        classes=len(spec.labels),
        anchors=pairs // len(spec.labels),
        logits_mb=logits_bytes / 1e6,
        engine_mb=info.size_bytes / 1e6,
        build_seconds=info.build_seconds,
        passing=above / pairs,
        levels_read_twice=read_twice,
        detections=detections,
        stages_ms=stages,
        kernels_ms=kernels,
        frame_ms={name: float(np.median(values)) for name, values in times.items()},
        frame_p90_ms=float(np.percentile(times["graph replay"], 90)),
        replay_over_plain=float(np.median(times["graph replay"] / times["plain launches"])),
        frames_per_second={
            f"{threads} thread{'s' if threads > 1 else ''}": float(np.median(values))
            for threads, values in rates.items()
        },
        decode_gb_s=logits_bytes / kernels["decode"] / 1e6,
        preprocess_gb_s=(image.nbytes + tensor_bytes) / kernels["preprocess"] / 1e6,
    )


def engines(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[Path, Image]]:
    """Each engine to measure, built here unless one was given, with the photo for it."""
    model: str | None = arguments.model
    if model is not None and model.endswith(ENGINE_SUFFIX):
        info = EngineInfo.load(model)
        height, width = info.profile.opt[2:]
        yield Path(model), read_or_make(arguments.image, (height, width))
        return
    with ExitStack() as stack:
        path = (
            find_model(model)
            if model
            else stack.enter_context(random_model("resnet50", classes=91, prior=RANDOM_PRIOR))
        )
        image = read_or_make(arguments.image, (1080, 1920))
        calibration = [photo(720, 1280, seed=seed) for seed in range(CALIBRATION_IMAGES)]
        with retinasdk.Detector(path, device="cpu") as detector:
            spec = detector.spec
        for sides in arguments.sizes:
            squashed = spec.replace(resize=retinasdk.Resize("squash", sides))
            for precision in arguments.precisions:
                engine = folder / f"{precision}-{sides[0]}x{sides[1]}.engine"
                retinasdk.build_engine(
                    path,
                    engine,
                    precision=precision,
                    sizes=[(image.shape[0], image.shape[1])],
                    images=calibration if precision == "int8" else None,
                    spec=squashed,
                )
                yield engine, image


# -- the program -----------------------------------------------------------------------------------------------------


def main() -> int:
    """The process's exit code: 2 where no GPU can be used."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="bundled name, ONNX file or engine")
    parser.add_argument("--image", type=Path, help="an image file; without it, a synthetic photo of 1080 x 1920")
    parser.add_argument("--sizes", type=size, nargs="+", default=[(800, 1344), (640, 640)], help="HEIGHTxWIDTH")
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "fp16", "int8"), default=["fp32", "fp16", "int8"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=SECONDS_OF_THROUGHPUT, help="of each throughput run")
    parser.add_argument("--json", type=Path, help="write the numbers there too")
    arguments = parser.parse_args()
    use_driver()
    missing = why_no_gpu()
    if missing is not None:
        print(f"benchmarks/gpu.py measures the GPU path, which cannot be used here: {missing}", file=sys.stderr)
        return 2
    try:
        device = CudaDevice()
        facts = machine(device)
    except RetinaSdkError as error:
        print(f"benchmarks/gpu.py measures the GPU path, which cannot be used here: {error}", file=sys.stderr)
        return 2
    cases: list[Case] = []
    bandwidth = 0.0
    with closing(device), TemporaryDirectory() as folder:
        for engine, image in engines(arguments, Path(folder)):
            if not cases:
                with opened_lane(device, engine) as lane:
                    bandwidth = copy_bandwidth(lane, COPY_BYTES, arguments.rounds)
            cases.append(measure(device, engine, image, arguments))
            if arguments.json is not None:  # After each case, as a run may be ended early.
                numbers = {"machine": facts, "copy_gb_s": bandwidth, "cases": [_numbers(case) for case in cases]}
                write_atomically(arguments.json, json.dumps(numbers, indent=2).encode() + b"\n")
            print(f"measured: {cases[-1].precision} {cases[-1].input}", file=sys.stderr)
    print(page(facts, bandwidth, COPY_BYTES, cases), end="")
    return 0


def _numbers(case: Case) -> dict[str, Any]:
    return {**asdict(case), "postprocess_share": case.postprocess_share}


if __name__ == "__main__":
    sys.exit(main())
