"""Peak memory of detecting in an image of 100 megapixels by tiles, from files read in windows and from an array.

    python benchmarks/tiles_memory.py [--side 10000] [--tile 640]

Each case runs in a process of its own on a small network with random weights, so that the image's share is seen.
"loaded" is the peak after a first call on one tile: Python, ONNX Runtime, the network and its activations. Linux.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from inputs import photo, random_model

import retinasdk

CASES: dict[str, tuple[str, dict[str, Any] | None]] = {
    "TIFF, blocks of 256, deflate": ("blocks.tif", {"driver": "GTiff", "tiled": True, "compress": "deflate"}),
    "TIFF, strips, not compressed": ("strips.tif", {"driver": "GTiff", "interleave": "pixel"}),
    "PNG": ("image.png", {"driver": "PNG", "zlevel": 1}),
    "the same, decoded whole": ("image.png", None),
}


def peak_mb() -> float:
    """Of this process alone: getrusage() would also count what its parent had when it started this one."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def detect(model: str, path: str, tile: int, *, whole: bool) -> None:
    with retinasdk.Detector(model) as detector:
        detector(photo(tile, tile), tiles=retinasdk.Tiles(tile // 2))
        loaded = peak_mb()
        if whole:
            from PIL import Image

            Image.MAX_IMAGE_PIXELS = None
            found = detector(np.asarray(Image.open(path)), tiles=retinasdk.Tiles(tile))
        else:
            found = detector(path, tiles=retinasdk.Tiles(tile))
    print(f"loaded {loaded:6.0f} MB, peak {peak_mb():6.0f} MB: {peak_mb() - loaded:+6.0f} MB, {len(found)} boxes")


def make(folder: Path, side: int) -> None:
    import rasterio

    part = np.moveaxis(photo(1000, 1000), 2, 0)
    pixels = np.tile(part, (1, -(-side // 1000), -(-side // 1000)))[:, :side, :side]
    for name, options in CASES.values():
        if options is not None:
            with rasterio.open(folder / name, "w", width=side, height=side, count=3, dtype="uint8", **options) as file:
                file.write(pixels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=10_000, help="pixels of the image (default: %(default)s)")
    parser.add_argument("--tile", type=int, default=640)
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)  # model, file, "whole" or "windows"
    arguments = parser.parse_args()
    if arguments.run:
        model, path, how = arguments.run
        detect(model, path, arguments.tile, whole=how == "whole")
        return
    with random_model("tiny", classes=1, prior=0.002) as model, TemporaryDirectory() as folder:
        make(Path(folder), arguments.side)
        print(f"{arguments.side} x {arguments.side} pixels, {3 * arguments.side**2 / 1e6:.0f} MB as RGB")
        for name, (file, options) in CASES.items():
            words = [str(model), str(Path(folder) / file), "whole" if options is None else "windows"]
            command = [sys.executable, "-W", "ignore", __file__, "--tile", str(arguments.tile), "--run", *words]
            result = subprocess.run(command, capture_output=True, text=True, check=True)
            print(f"  {name:30} {result.stdout.strip()}", flush=True)


if __name__ == "__main__":
    main()
