"""One detector for a whole process, behind a small service that many threads call.

python embed_in_product.py IMAGE [IMAGE ...] [--model NAME_OR_ONNX] [--threads 4]

prints a line of JSON for each image, in the order given.

What is safe:
- One Detector may be called from any number of threads at once; the results are those of calls one after the other.
- Detectors share nothing: make as many as you like, of as many models as you like.
What is not:
- Using a Detector in a process forked after it was made: ONNX Runtime's threads do not exist there, and the call raises
  DeviceError. Make the Detector after the fork, in each child, or start processes by "spawn"
  (`multiprocessing.get_context("spawn")`), which needs the `if __name__ == "__main__":` below.
"""

import argparse
import json
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import retinasdk


class DetectionService:
    """Loads its model at the first request, once, whichever thread comes first."""

    def __init__(self, model: str | None = None, *, score_threshold: float = 0.5) -> None:
        self._model = model
        self._score_threshold = score_threshold
        self._lock = threading.Lock()
        self._detector: retinasdk.Detector | None = None

    def detect(self, image: str) -> dict[str, object]:
        """What an HTTP handler would answer: the image's objects, or why there are none."""
        try:
            detections = self._loaded()(image)
        except retinasdk.ImageError as error:  # the caller's mistake; a ModelError is ours, and may pass
            return {"image": image, "error": str(error)}
        return {"image": image, "detections": detections.to_dicts()}

    def close(self) -> None:
        """Gives the model's memory back. No request may be running."""
        with self._lock:
            if self._detector is not None:
                self._detector.close()
                self._detector = None

    def _loaded(self) -> retinasdk.Detector:
        with self._lock:
            if self._detector is None:
                # threads=1: here the parallel work is several requests, not several cores on one of them.
                self._detector = retinasdk.Detector(self._model, score_threshold=self._score_threshold, threads=1)
            return self._detector


def serve(service: DetectionService, images: Sequence[str], threads: int) -> list[dict[str, object]]:
    """Stands for the product: requests that come in on several threads."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(service.detect, images))


def main() -> None:
    parser = argparse.ArgumentParser(description="Detect on several threads with one model.")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--model", help="a bundled name or an ONNX file (default: people)")
    parser.add_argument("--threads", type=int, default=4)
    arguments = parser.parse_args()

    service = DetectionService(arguments.model)
    for answer in serve(service, arguments.images, arguments.threads):
        print(json.dumps(answer))
    service.close()


if __name__ == "__main__":
    try:
        main()
    except (retinasdk.RetinaSdkError, ImportError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
