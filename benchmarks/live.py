"""How old are the frames of a stream, what does the stream itself cost, and does anything pile up?

    python benchmarks/live.py age [--model NAME_OR_PATH] [--seconds S]      # real clock, sources of several rates
    python benchmarks/live.py cost [--frames N]                             # of a stream around an idle detector
    python benchmarks/live.py soak [--frames N] [--reopen N] [--video FILE] # resident memory, open files, threads

The source is a generator of synthetic photos, or with --video a file that is opened again and again.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from inputs import has_bundled_model, photo, random_model, size
from memory import resident_mb
from timing import print_machine

import retinasdk
from retinasdk.live import stream


def camera(fps: float, shape: tuple[int, int]) -> Iterator[npt.NDArray[np.uint8]]:
    """Photos of a size, `fps` a second, for ever; 0: as fast as they are taken. One that was missed is not made up."""
    image = photo(*shape)
    due = time.monotonic()
    while True:
        if fps:
            due = max(due + 1.0 / fps, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
        yield image


def age(detector: Callable[[Any], Any], shape: tuple[int, int], seconds: float) -> None:
    """Prints the age of frames under each policy and rate: `latest` is to stay near one period and one detection."""
    print(f"\nframes of {shape[0]} x {shape[1]}, {seconds:g} s each; milliseconds")
    print("  policy        source   done  dropped  detect p50    age p50    age max")
    for policy, fps in itertools.product(("latest", "all", "bounded:8"), (5, 30, 120, 1000)):
        with stream(camera(fps, shape), detector, policy=policy) as frames:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                next(frames)
            detect, ages, (counters,) = frames.metrics.detect, frames.metrics.age, frames.counters.values()
        print(
            f"  {policy:10s} {fps:5d} fps {counters.processed:6d} {counters.dropped:8d} "
            f"{1000 * detect.quantile(0.5):11.1f} {1000 * ages.quantile(0.5):10.1f} {1000 * ages.max_s:10.1f}"
        )


def cost(shape: tuple[int, int], count: int) -> None:
    """Prints microseconds a frame around a detector that does nothing; the copy of each array is most of it."""
    nothing = retinasdk.Detections.empty(("thing",))
    for policy in ("all", "latest"):
        with stream(camera(0, shape), lambda image: nothing, policy=policy) as frames:
            next(frames)
            start = time.perf_counter()
            for _ in itertools.islice(frames, count):
                pass
            elapsed = time.perf_counter() - start
        print(f"  {policy:12s} {1e6 * elapsed / count:8.1f} us a frame of {shape[0]} x {shape[1]}, {count} frames")
    image = photo(*shape)
    start = time.perf_counter()
    for _ in range(count):
        image.copy()
    print(f"  {'copy alone':12s} {1e6 * (time.perf_counter() - start) / count:8.1f} us")


def soak(detector: Callable[[Any], Any], video: Path | None, shape: tuple[int, int], count: int, reopen: int) -> None:
    """Prints what the process holds while streams come and go: every number is to stay level."""
    print(f"\n{count} frames, a new stream every {reopen}: {video or f'photos of {shape[0]} x {shape[1]}'}")
    print(f"  {'frames':>8s} {'resident MB':>12s} {'open files':>11s} {'threads':>8s}")
    done, step = 0, max(1, count // 12)
    policies = itertools.cycle(("latest", "all", "bounded:4", "bounded:4:newest"))
    while done < count:
        source = camera(0, shape) if video is None else video
        with stream(source, detector, policy=next(policies), speed=float("inf")) as frames:
            for _ in itertools.islice(frames, reopen):
                done += 1
                if done % step == 0:
                    print(f"  {done:8d} {resident_mb():12.1f} {_open_files():11d} {threading.active_count():8d}")
    gc.collect()
    print(f"  {'closed':>8s} {resident_mb():12.1f} {_open_files():11d} {threading.active_count():8d}")


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd")) - 1  # listing opens one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("age", "cost", "soak"))
    parser.add_argument("--model", help="bundled name or ONNX path")
    parser.add_argument("--threads", type=int, help="of the detector")
    parser.add_argument("--size", type=size, default=(480, 640), help="HEIGHTxWIDTH of the photos")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each policy and rate")
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--reopen", type=int, default=100, help="frames of one stream")
    parser.add_argument("--video", type=Path)
    parser.add_argument("--no-model", action="store_true", help="soak without inference: the stream's own part alone")
    arguments = parser.parse_args()
    print_machine("retinasdk", "onnxruntime", "numpy")
    if arguments.what == "cost":
        cost(arguments.size, arguments.frames)
        return
    with ExitStack() as stack:
        detector: Callable[[Any], Any]
        if arguments.no_model:
            nothing = retinasdk.Detections.empty(("thing",))
            detector = lambda image: nothing  # noqa: E731
        else:
            bundled = "people" if has_bundled_model() else None
            model = arguments.model or bundled or stack.enter_context(random_model("tiny", classes=3, prior=0.002))
            detector = stack.enter_context(retinasdk.Detector(model, threads=arguments.threads))
        if arguments.what == "age":
            age(detector, arguments.size, arguments.seconds)
        else:
            soak(detector, arguments.video, arguments.size, arguments.frames, arguments.reopen)


if __name__ == "__main__":
    main()
