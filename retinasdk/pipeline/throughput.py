"""Throughput of `Detector.predict`: batches on several workers at once.

A single call keeps one core busy with decoding, preprocessing and post-processing while the others wait; here each
worker does a whole batch from file to boxes on its own, so that all of them are busy all the time. The network runs on
one thread a worker where it runs on the CPU: small networks scale worse over threads than over images.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from retinasdk.detections import Detections
from retinasdk.errors import ClosedError, DeviceError, MissingDependencyError
from retinasdk.images import ImageInput

# Batches in work or waiting, for each worker: one to work on, one to take up without waiting for the caller.
_AHEAD = 2
# If the device fails on so many images in a row, it will not recover.
_MAX_DEVICE_FAILURES = 10


@dataclass(frozen=True, eq=False)
class Prediction:
    """Holds the result for one of many images.

    Attributes:
        index: Position of the image in the iterable, from 0.
        detections: The objects found, or None if there is an error.
        error: The exception that a single call raises for this image, such as `ImageError`, or None.
    """

    index: int
    detections: Detections | None
    error: Exception | None = None


def predict(
    images: Iterator[ImageInput],
    detect: Callable[[list[ImageInput]], list[Detections]],
    *,
    batch: int,
    workers: int,
) -> Iterator[Prediction]:
    """Yields one `Prediction` for each image, in order. At most 2 * `workers` batches are in memory.

    Args:
        images: The images. Only the caller's thread iterates over them.
        detect: Returns one `Detections` for each image of a list. Called by `workers` threads at once.
        batch: Number of images for each call of `detect`.
        workers: Number of threads.

    Raises:
        ClosedError: If the detector is closed.
        DeviceError: If the device fails on ten images in a row.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="retinasdk-predict")
    pending: deque[Future[list[Detections | Exception]]] = deque()
    index, failure, device_failures = 0, None, 0
    try:
        while True:
            while failure is None and len(pending) < _AHEAD * workers:
                try:
                    members = list(islice(images, batch))
                except Exception as error:  # told after the results of the images before it
                    failure = error
                else:
                    if not members:
                        break
                    pending.append(pool.submit(_detect_each, detect, members))
            if not pending:
                break
            for result in pending.popleft().result():
                device_failures = device_failures + 1 if isinstance(result, DeviceError) else 0
                if isinstance(result, DeviceError) and device_failures == _MAX_DEVICE_FAILURES:
                    raise result
                if isinstance(result, Exception):
                    yield Prediction(index, None, result)
                else:
                    yield Prediction(index, result)
                index += 1
        if failure is not None:
            raise failure
    finally:  # also where the caller stops early
        pool.shutdown(cancel_futures=True)


def _detect_each(
    detect: Callable[[list[ImageInput]], list[Detections]], images: Sequence[ImageInput]
) -> list[Detections | Exception]:
    """The detections of each image, or what it raised. Raises what is no single image's fault."""
    try:
        return list(detect(list(images)))
    except (ClosedError, MissingDependencyError):
        raise
    except Exception as error:
        if len(images) == 1:
            return [error]
    return [result for image in images for result in _detect_each(detect, [image])]
