"""Detects objects in a photo, prints them and saves a marked copy.

python detect_photo.py PHOTO [--model NAME_OR_ONNX] [--out marked.jpg]
"""

import argparse
import sys
from pathlib import Path

import retinasdk


def main() -> None:
    parser = argparse.ArgumentParser(description="Detect objects in a photo.")
    parser.add_argument("photo", type=Path)
    parser.add_argument("--model", help="a bundled name or an ONNX file (default: people)")
    parser.add_argument("--out", type=Path, default=Path("marked.jpg"))
    arguments = parser.parse_args()

    detector = retinasdk.Detector(arguments.model)
    detections = detector(arguments.photo)
    for item in detections:
        x1, y1, x2, y2 = item.xyxy
        print(f"{item.label} {item.score:.3f} at ({x1:.0f}, {y1:.0f}) to ({x2:.0f}, {y2:.0f})")
    detections.save(arguments.out)
    print(f"{len(detections)} found, marked in {arguments.out}")


if __name__ == "__main__":
    try:
        main()
    except (retinasdk.RetinaSdkError, ImportError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
