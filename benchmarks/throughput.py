"""Images a second of `Detector.predict` against calls one by one, from image files to detections.

    python benchmarks/throughput.py [--model NAME_OR_PATH] [--images DIR | --size 1080x1920] [--count N] [--rounds N]

Both take the same files in turn and use the same cores. Without --images: synthetic photos as JPEG files of three
sizes. The larger the files, the more there is besides the network for one core to do while the others wait. How busy
the cores are tells of that waiting alone: threads that wait for each other inside a call of the network count as busy.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from inputs import photo, size
from PIL import Image
from timing import interleave, print_machine, print_ratio, print_times

import retinasdk

SIZES = ((480, 640), (1080, 1920), (3024, 4032))


def measure(detector: retinasdk.Detector, paths: list[str], *, batch: int, rounds: int) -> None:
    candidates = {
        "one by one": lambda: [detector(path) for path in paths],
        "predict": lambda: deque(detector.predict(paths, batch=batch), maxlen=0),
    }
    times = interleave(candidates, rounds=rounds, warmup=1)
    print_times(times)
    for name, call in candidates.items():
        print(f"  {name}: the cores are {busy_share(call):.0%} busy")
    print_ratio(times, "one by one", "predict", target="at least 1.25")


def busy_share(call: Callable[[], object]) -> float:
    """This process's time on the processors over the time that there was on them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    start, used = time.perf_counter(), time.process_time()
    call()
    return (time.process_time() - used) / (time.perf_counter() - start) / cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="people", help="bundled name or ONNX path (default: %(default)s)")
    parser.add_argument("--images", type=Path, help="a folder of image files; without it, synthetic ones")
    parser.add_argument("--size", type=size, action="append", help="HEIGHTxWIDTH of synthetic ones; again for more")
    parser.add_argument("--count", type=int, default=24, help="images in a round (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="of predict (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    print_machine("retinasdk", "onnxruntime", "numpy", "pillow")
    with retinasdk.Detector(arguments.model) as detector:
        if arguments.images is not None:
            paths = retinasdk.list_images(arguments.images)[: arguments.count]
            print(f"\n{detector.spec.name}: {len(paths)} files of {arguments.images}, milliseconds for all of them")
            measure(detector, paths, batch=arguments.batch, rounds=arguments.rounds)
            return
        for height, width in arguments.size or SIZES:
            with TemporaryDirectory() as folder:
                paths = []
                for number in range(arguments.count):
                    paths.append(str(Path(folder) / f"{number}.jpg"))
                    Image.fromarray(photo(height, width, seed=number)).save(paths[-1], quality=90)
                print(f"\n{detector.spec.name}: {len(paths)} JPEG files of {height} x {width}, ms for all of them")
                measure(detector, paths, batch=arguments.batch, rounds=arguments.rounds)


if __name__ == "__main__":
    main()
