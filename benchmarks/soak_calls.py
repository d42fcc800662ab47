"""Detects in photos of changing sizes, whole and by tiles, until SIGTERM: one of the programs that soak.py watches.

    python benchmarks/soak_calls.py --model people --device cpu --share 0.3

Prints "detect SECONDS" or "tiles SECONDS" for each call.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import signal
import time

import numpy as np
from inputs import photo

import retinasdk

_TILED_EVERY = 5  # calls: one by tiles takes as long as several without
_SIDES = (96, 800)  # smallest and largest side of a photo in pixels
_TILE = 320


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--share", type=float, required=True, help="share of the time in which it detects, 0 to 1")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    random = np.random.default_rng(0)
    largest = photo(_SIDES[1], _SIDES[1])
    with (
        contextlib.suppress(KeyboardInterrupt),
        retinasdk.Detector(arguments.model, device=arguments.device) as detector,
    ):
        detector(largest)  # first, so that memory has its full size early
        detector(largest, tiles=retinasdk.Tiles(_TILE))
        for number in itertools.count(1):
            what = "detect" if number % _TILED_EVERY else "tiles"
            height, width = random.integers(*_SIDES, size=2, endpoint=True)
            start = time.perf_counter()
            if what == "detect":
                detector(largest[:height, :width])
            else:
                detector(largest[: max(height, 2 * _TILE), :width], tiles=retinasdk.Tiles(_TILE))
            took = time.perf_counter() - start
            print(what, f"{took:.6f}", flush=True)
            time.sleep(took * (1 - arguments.share) / arguments.share)


if __name__ == "__main__":
    main()
