"""Does the resident memory stay level? Several hundred frames of changing sizes through one detector.

    python benchmarks/memory.py [--model NAME_OR_PATH] [--frames N] [--threads N]

Prints the resident set after the warm-up (which sees the largest frame), at intervals, and at the end. Without --model:
the bundled model, or a small network with random weights where there is none.
"""

from __future__ import annotations

import argparse
import gc
import os
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from inputs import has_bundled_model, photo, random_model, size
from timing import print_machine

import retinasdk


def resident_mb() -> float:
    """Resident set of this process in MB; Linux only."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def private_mb() -> float:
    """The part of it that no file backs, in MB; Linux only."""
    resident, of_files = Path("/proc/self/statm").read_text().split()[1:3]
    return (int(resident) - int(of_files)) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="bundled name or ONNX path")
    parser.add_argument("--frames", type=int, default=600, help="after the warm-up")
    parser.add_argument("--warmup", type=int, default=50)
    parser.add_argument("--smallest", type=size, default=(120, 160), help="HEIGHTxWIDTH")
    parser.add_argument("--largest", type=size, default=(1080, 1920), help="HEIGHTxWIDTH")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    print_machine("retinasdk", "onnxruntime", "numpy")

    random = np.random.default_rng(0)
    largest = photo(*arguments.largest)
    with ExitStack() as stack:
        bundled = "people" if has_bundled_model() else None
        model = arguments.model or bundled or stack.enter_context(random_model("tiny", classes=3, prior=0.002))
        detector = stack.enter_context(retinasdk.Detector(model, threads=arguments.threads))
        print(f"{detector.spec.name}: frames of {arguments.smallest} to {arguments.largest} pixels, crops of one photo")

        def frame() -> int:
            height, width = (
                int(random.integers(low, high + 1))
                for low, high in zip(arguments.smallest, arguments.largest, strict=True)
            )
            return len(detector(largest[:height, :width]))

        detector(largest)
        detector(largest.transpose(1, 0, 2))
        for _ in range(arguments.warmup):
            frame()
        gc.collect()
        start = resident_mb()
        print(f"  after {arguments.warmup:4d} frames of warm-up: {start:8.1f} MB")
        for done in range(1, arguments.frames + 1):
            frame()
            if done % max(1, arguments.frames // 6) == 0:
                print(f"  after {done:4d} frames:            {resident_mb():8.1f} MB")
        gc.collect()
        end = resident_mb()
        print(f"  at the end:                  {end:8.1f} MB, {end - start:+.1f} MB, {end / start:.3f} times the start")


if __name__ == "__main__":
    main()
