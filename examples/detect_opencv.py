"""Detects objects in an image that OpenCV has read, and writes a marked copy.

python detect_opencv.py IMAGE [--model NAME_OR_ONNX] [--out marked.jpg]

OpenCV arrays have their channels in the order BGR: tell the detector, or its results are silently worse.
Needs `pip install opencv-python-headless`.
"""

import argparse
import sys
from pathlib import Path

import retinasdk


def main() -> None:
    parser = argparse.ArgumentParser(description="Detect objects in an image read with OpenCV.")
    parser.add_argument("image", type=Path)
    parser.add_argument("--model", help="a bundled name or an ONNX file (default: people)")
    parser.add_argument("--out", type=Path, default=Path("marked.jpg"))
    arguments = parser.parse_args()

    import cv2

    image = cv2.imread(str(arguments.image))
    if image is None:
        raise retinasdk.ImageError(f"{arguments.image}: OpenCV cannot read this file")
    detector = retinasdk.Detector(arguments.model, channel_order="bgr")
    found = detector(image)
    found.save(arguments.out)
    print(f"{len(found)} found, marked in {arguments.out}")


if __name__ == "__main__":
    try:
        main()
    except (retinasdk.RetinaSdkError, ImportError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
