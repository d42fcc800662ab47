"""Detects small objects in a large image by tiles: an aerial photo, a scan, a TIFF of hundreds of megapixels.

python detect_large.py IMAGE [--model NAME_OR_ONNX] [--tile 640] [--out found.csv]

Large TIFF and PNG files are read in windows and never decoded whole: pip install 'retinasdk[large]'.
"""

import argparse
import csv
import sys
from pathlib import Path

import retinasdk


def main() -> None:
    parser = argparse.ArgumentParser(description="Detect small objects in a large image, by tiles.")
    parser.add_argument("image", type=Path)
    parser.add_argument("--model", default="tree-crowns", help="a bundled name or an ONNX file (default: tree-crowns)")
    parser.add_argument("--tile", type=int, default=640, help="side of a tile in pixels (default: 640)")
    parser.add_argument("--overlap", type=float, default=0.2, help="share of a tile's side (default: 0.2)")
    parser.add_argument("--out", type=Path, default=Path("found.csv"))
    arguments = parser.parse_args()

    # The overlap should be as large as the objects are: each is then whole in one of the tiles. For larger ones,
    # whole_image=True looks at the image as a whole, too.
    tiles = retinasdk.Tiles(arguments.tile, overlap=arguments.overlap)
    detector = retinasdk.Detector(arguments.model)
    detections = detector(arguments.image, tiles=tiles)

    with open(arguments.out, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "score", "x1", "y1", "x2", "y2"])
        for item in detections:
            writer.writerow([item.label, f"{item.score:.4f}", *(f"{value:.1f}" for value in item.xyxy)])
    print(f"{len(detections)} found by tiles of {arguments.tile} pixels, written to {arguments.out}")


if __name__ == "__main__":
    try:
        main()
    except (retinasdk.RetinaSdkError, ImportError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
