"""Asks a Triton server for the objects in images, over HTTP or gRPC. `retinasdk triton export` made its model.

    pip install 'tritonclient[http,grpc]'
    python examples/triton_client.py photo.jpg --model people
    python examples/triton_client.py photo.jpg --model people --protocol grpc --url localhost:8001 --score 0.6

This program needs no retinasdk: the server decodes the image files and gives boxes in pixels of the image.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np


def main() -> int:
    parser = argparse.ArgumentParser(description="Detects objects in images with a Triton server.")
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--model", default="people", help="name of the model on the server; default: %(default)s")
    parser.add_argument("--protocol", choices=("http", "grpc"), default="http", help="default: %(default)s")
    parser.add_argument("--url", help="default: localhost:8000 for http, localhost:8001 for grpc")
    parser.add_argument("--score", type=float, help="default: the threshold of the model")
    arguments = parser.parse_args()

    try:
        from tritonclient.utils import InferenceServerException

        protocol = importlib.import_module(f"tritonclient.{arguments.protocol}")
    except ImportError as error:
        sys.exit(f"error: {error}; install the client with: pip install 'tritonclient[http,grpc]'")

    url = arguments.url or ("localhost:8000" if arguments.protocol == "http" else "localhost:8001")
    client = protocol.InferenceServerClient(url)
    parameters = {} if arguments.score is None else {"score": arguments.score}
    failed = 0
    for path in arguments.images:
        try:
            found = detect(protocol, client, arguments.model, path.read_bytes(), parameters)
        except (InferenceServerException, OSError) as error:  # A bad image fails alone.
            print(f"error: {path}: {error}", file=sys.stderr)
            failed += 1
            continue
        print(f"{path}  {len(found)} detection{'' if len(found) == 1 else 's'}")
        for score, label, (x1, y1, x2, y2) in found:
            print(f"  {score:.2f}  {label:20s} ({x1:.0f}, {y1:.0f}) to ({x2:.0f}, {y2:.0f})")
    client.close()
    return 1 if failed else 0


def detect(
    protocol: Any, client: Any, model: str, content: bytes, parameters: dict[str, Any]
) -> list[tuple[float, str, Any]]:
    """The objects in one image file: score, label, and box (x1, y1, x2, y2)."""
    image = protocol.InferInput("IMAGE", [1, 1], "BYTES")
    image.set_data_from_numpy(np.array([[content]], np.object_))
    result = client.infer(model, [image], parameters=parameters)
    # The first index is the image of the request. One image has no padding.
    labels = [label.decode() for label in result.as_numpy("LABELS")[0]]
    return list(zip(result.as_numpy("SCORES")[0].tolist(), labels, result.as_numpy("BOXES")[0].tolist(), strict=True))


if __name__ == "__main__":
    sys.exit(main())
