"""How old are the frames of a stream, what does the stream itself cost, and does anything pile up?

    python benchmarks/live.py age [--model NAME_OR_PATH] [--seconds S]      # real clock, sources of several rates
    python benchmarks/live.py cost [--frames N]                             # of a stream around an idle detector
    python benchmarks/live.py soak [--frames N] [--video FILE] [--plot FILE] # memory, open files, threads

The source is a generator of synthetic photos; of the soak also a camera that is lost and found, and a video.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from inputs import has_bundled_model, photo, random_model, size
from memory import private_mb, resident_mb
from timing import print_machine

import retinasdk
from retinasdk.live import CorruptFrameError, RawFrame, Reconnect, stream


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
    print(f"\nframes of {shape[0]} x {shape[1]}, {seconds:g} s each; milliseconds, means")
    print("  policy        source   done  dropped     detect        age  age/detect    age max")
    for policy, fps in itertools.product(("latest", "all", "bounded:8"), (5, 30, 120, 1000)):
        with stream(camera(fps, shape), detector, policy=policy) as frames:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                next(frames)
            detect, ages, (counters,) = frames.metrics.detect, frames.metrics.age, frames.counters.values()
        print(
            f"  {policy:10s} {fps:5d} fps {counters.processed:6d} {counters.dropped:8d} "
            f"{1000 * detect.sum_s / detect.count:10.1f} {1000 * ages.sum_s / ages.count:10.1f} "
            f"{ages.sum_s / ages.count / (detect.sum_s / detect.count):11.2f} {1000 * ages.max_s:10.1f}"
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


_RATE = 500.0  # frames a second of the soak's cameras: more than the detector takes, and the machine is left some rest


class UnsteadyCamera:
    """A camera that is lost every 90 frames and opened again, spoils one frame in 50, and changes its size."""

    name, live, on_demand = "unsteady camera", True, False

    def __init__(self, shape: tuple[int, int]) -> None:
        self._images = [photo(shape[0] // part, shape[1] // part) for part in (1, 2, 3)]
        self._count = 0
        self._handle: Any = None

    def open(self) -> None:
        self._handle = open(os.devnull, "rb")  # noqa: SIM115 - what a real one holds, to be counted

    def read(self) -> RawFrame:
        self._count += 1
        time.sleep(1.0 / _RATE)
        if self._count % 90 == 0:
            raise OSError("the cable was pulled")
        if self._count % 50 == 7:
            raise CorruptFrameError("a packet was lost")
        image = self._images[self._count // 40 % len(self._images)]
        return RawFrame(image.copy)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()


@dataclass(frozen=True)
class Held:
    """What the process holds after so many frames. private_mb: what no file backs, which is where a leak shows: the
    kernel may take pages of files back and read them again."""

    frames: int
    resident_mb: float
    private_mb: float
    files: int
    threads: int

    @classmethod
    def now(cls, frames: int) -> Held:
        files = len(os.listdir("/proc/self/fd")) - 1  # listing opens one
        return cls(frames, resident_mb(), private_mb(), files, threading.active_count())

    def __str__(self) -> str:
        return f"  {self.frames:8d} {self.resident_mb:12.1f} {self.private_mb:11.1f} {self.files:11d} {self.threads:8d}"


def soak(
    detector: Callable[[Any], Any], video: Path | None, shape: tuple[int, int], count: int, reopen: int
) -> list[Held]:
    """Prints what the process holds while streams come and go: every number is to stay level.

    Streams of each policy, of a steady and of an unsteady camera and, where there is one, a video; the detector raises
    on one frame in 100. The last row is from when all is closed.
    """
    calls = itertools.count()

    def shaky(image: Any) -> Any:
        if next(calls) % 100 == 99:
            raise ValueError("one frame in 100 fails")
        return detector(image)

    print(f"\n{count} frames, a new stream every {reopen}, photos of {shape[0]} x {shape[1]} and less; video: {video}")
    print(f"  {'frames':>8s} {'resident MB':>12s} {'private MB':>11s} {'open files':>11s} {'threads':>8s}")
    logging.getLogger("retinasdk").addHandler(logging.NullHandler())
    sources: list[Callable[[], Any]] = [lambda: camera(_RATE, shape), lambda: UnsteadyCamera(shape)]
    if video is not None:
        sources.append(lambda: video)
    mix = itertools.cycle(itertools.product(("latest", "all", "bounded:4", "bounded:4:newest"), sources))
    rows, done, step = [], 0, max(1, count // 200)
    quick = Reconnect(first_s=0.001, longest_s=0.001)
    while done < count:
        policy, source = next(mix)
        with stream(source(), shaky, policy=policy, speed=10.0, reconnect=quick) as frames:
            for _ in itertools.islice(frames, min(reopen, count - done)):
                done += 1
                if done % step == 0:
                    rows.append(Held.now(done))
                    if done % (20 * step) == 0:
                        print(rows[-1], flush=True)
    gc.collect()
    rows.append(Held.now(done))
    print(f"{rows[-1]}  closed")
    return rows


def plot_soak(rows: list[Held], path: Path) -> None:
    """Writes memory, open files and threads over frames as a picture."""
    from matplotlib.figure import Figure

    frames = [row.frames for row in rows]
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    above.plot(frames, [row.resident_mb for row in rows], color="#8b949e", linewidth=1.0, label="resident")
    above.plot(frames, [row.private_mb for row in rows], color="#1f6feb", linewidth=1.2, label="private")
    above.set_ylim(0, 1.25 * max(row.resident_mb for row in rows))
    above.set_ylabel("memory, MB")
    above.set_title(f"{frames[-1]:,} frames: cameras lost and found, corrupt frames, failing detector", fontsize=10)
    below.step(frames, [row.files for row in rows], where="post", color="#bf5b17", linewidth=1.0, label="open files")
    below.step(frames, [row.threads for row in rows], where="post", color="#2f7d4f", linewidth=1.0, label="threads")
    below.set_ylim(0, 1.6 * max(max(row.files, row.threads) for row in rows))
    below.set_xlabel("frames")
    for axes in (above, below):
        axes.legend(loc="upper right", ncols=2, frameon=False, fontsize=8)
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    print(f"wrote {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("age", "cost", "soak"))
    parser.add_argument("--model", help="bundled name or ONNX path")
    parser.add_argument("--threads", type=int, help="of the detector")
    parser.add_argument("--size", type=size, default=(480, 640), help="HEIGHTxWIDTH of the photos")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each policy and rate")
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--reopen", type=int, default=100, help="frames of one stream")
    parser.add_argument("--video", type=Path, help="soak: a file that is among the sources")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="soak: draw it; needs matplotlib")
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
            bundled = "people" if has_bundled_model() and arguments.what == "age" else None
            model = arguments.model or bundled or stack.enter_context(random_model("tiny", classes=3, prior=0.002))
            detector = stack.enter_context(retinasdk.Detector(model, threads=arguments.threads))
            if arguments.what == "soak" and not arguments.model:  # many frames, not large ones
                small = detector.spec.replace(resize=retinasdk.Resize("longest", (256,)))
                detector = stack.enter_context(retinasdk.Detector(model, spec=small, threads=arguments.threads))
        if arguments.what == "age":
            age(detector, arguments.size, arguments.seconds)
        else:
            rows = soak(detector, arguments.video, arguments.size, arguments.frames, arguments.reopen)
            if arguments.plot is not None:
                plot_soak(rows, arguments.plot)


if __name__ == "__main__":
    main()
