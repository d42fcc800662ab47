"""Measures how `retinasdk.ray.detect_files` scales over worker processes of one machine.

    pip install 'retinasdk[ray]'
    python benchmarks/ray_scaling.py

Each turn detects in the same images with one worker, with all, and in this process without Ray (`Detector.predict` on
one thread), so that what else the machine does meets all of them. Ray runs already, but each turn starts its workers:
their start is in the time, and is measured apart by a job of one image for each worker.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import retinasdk
from retinasdk.ray import detect_files

PHOTOS = Path(__file__).parents[1] / "examples/photos/people"


def main() -> int:
    parser = argparse.ArgumentParser(description="Measures how Ray jobs scale over workers.")
    parser.add_argument("--model", default="people")
    parser.add_argument("--images", type=int, default=96, help="images for each job; default: %(default)s")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="default: one for each core")
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()

    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "images")
        folder.mkdir()
        photos = [Path(photo) for photo in retinasdk.list_images(PHOTOS)]
        paths = [folder / f"{number:05d}.jpg" for number in range(arguments.images)]
        for number, path in enumerate(paths):
            shutil.copy(photos[number % len(photos)], path)

        def job(workers: int, images: list[Path]) -> float:
            out = Path(name, "out")
            shutil.rmtree(out, ignore_errors=True)
            start = time.perf_counter()
            # Four parts for each worker, so that none waits long for the last one.
            size = max(1, len(images) // (4 * workers)) if len(images) > workers else 1
            report = detect_files(images, out, model=arguments.model, workers=workers, images_per_file=size)
            assert (report.images, report.failed) == (len(images), 0)
            return time.perf_counter() - start

        def alone() -> float:
            with retinasdk.Detector(arguments.model, device="cpu", threads=1) as detector:
                start = time.perf_counter()
                assert all(found.error is None for found in detector.predict(map(str, paths)))
                return time.perf_counter() - start

        several = arguments.workers
        cases: dict[str, Callable[[], float]] = {
            "no Ray, 1 thread": alone,
            "1 worker": lambda: job(1, paths),
            f"{several} workers": lambda: job(several, paths),
            "start of 1 worker": lambda: job(1, paths[:1]),
            f"start of {several} workers": lambda: job(several, paths[:several]),
        }
        job(1, paths[:1])  # Starts Ray.
        for turn in range(arguments.turns):
            for title, run in cases.items():
                seconds.setdefault(title, []).append(run())
                print(f"turn {turn + 1}: {title}: {seconds[title][-1]:.1f} s", file=sys.stderr)

    median = {title: statistics.median(values) for title, values in seconds.items()}
    print(f"{arguments.images} images, model {arguments.model}, {arguments.turns} turns, medians")
    for title, value in median.items():
        print(f"  {title:20s} {value:6.1f} s")
    both = list(zip(seconds["1 worker"], seconds[f"{several} workers"], strict=True))
    whole = statistics.median(one / more for one, more in both)
    starts = list(zip(seconds["start of 1 worker"], seconds[f"start of {several} workers"], strict=True))
    detecting = [(a - c) / (b - d) for (a, b), (c, d) in zip(both, starts, strict=True)]
    print(f"{several} workers are {whole:.2f} times as fast as one with their start, ", end="")
    print(f"{statistics.median(detecting):.2f} times without it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
