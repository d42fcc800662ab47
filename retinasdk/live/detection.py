"""`Detection`: calls the detector on frames of a stream, and keeps what it returned or raised for each."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from retinasdk.cuda.device_frame import DeviceFrame
from retinasdk.images import as_rgb
from retinasdk.live.capture import Capture, Waiting
from retinasdk.live.clock import Clock
from retinasdk.live.metrics import Metrics
from retinasdk.pipeline.stage_timing import collect

if TYPE_CHECKING:
    import threading

    import numpy.typing as npt

    from retinasdk.detections import Detections

_LOGGER = logging.getLogger("retinasdk.live")

Batch = list[tuple[Capture, Waiting]]
Image: TypeAlias = "npt.NDArray[np.uint8] | DeviceFrame"


@dataclass(frozen=True)
class Done:
    """A frame that the detector has processed and that the caller has not taken yet."""

    capture: Capture
    waiting: Waiting
    image: Image
    result: Detections | Exception
    taken_s: float
    done_s: float


class Detection:
    """Runs the detector on batches of frames. Threads may call it at once if the detector allows it."""

    def __init__(
        self,
        detector: Callable[..., Any],
        *,
        several: bool,
        clock: Clock,
        changed: threading.Condition,
        metrics: Metrics,
    ) -> None:
        """Keeps the detector.

        Args:
            detector: A `Detector` or another function.
            several: Whether it is called with lists of images.
            clock: The clock of the stream.
            changed: Guards the state of the captures.
            metrics: Where durations are added.
        """
        self._detector = detector
        self._several = several
        self._clock = clock
        self._changed = changed
        self._metrics = metrics
        self._is_converting = False

    @property
    def calls_at_once(self) -> int:
        """How many calls at a time the detector asks for with its attribute of this name. 1 for most."""
        function = self._detector
        while isinstance(function, functools.partial):
            function = function.func
        return int(getattr(function, "calls_at_once", 1))

    def run(self, batch: Batch) -> list[Done]:
        """Returns the results for frames, in their order. Frames that cannot be converted to RGB are left out.

        Raises:
            ValueError: If the detector does not return a result for each image of a list.
        """
        taken_s = self._clock.now()
        load = self._metrics.load
        with load.during("detect"):
            with self._converting_alone(), load.during("convert"):
                start_s = self._clock.now()
                members, images = self._converted(batch)
                convert_s = self._clock.now() - start_s
            if not images:
                return []
            self._metrics.convert.add(convert_s)
            with collect(load.during) as stages:
                results = self._call(images)
        done_s = self._clock.now()
        self._metrics.detect.add(done_s - taken_s)
        for name, seconds in stages.items():
            getattr(self._metrics, name).add(seconds)
        return [
            Done(capture, waiting, image, result, taken_s, done_s)
            for (capture, waiting), image, result in zip(members, images, results, strict=True)
        ]

    @contextmanager
    def _converting_alone(self) -> Iterator[None]:
        """Lets one thread at a time convert: the frames of a source may share a converter."""
        with self._changed:
            while self._is_converting:
                self._changed.wait()
            self._is_converting = True
        try:
            yield
        finally:
            with self._changed:
                self._is_converting = False
                self._changed.notify_all()

    def _converted(self, batch: Batch) -> tuple[Batch, list[Image]]:
        members: Batch = []
        images: list[Image] = []
        for capture, waiting in batch:
            try:
                image = waiting.raw.rgb()
                images.append(image if isinstance(image, DeviceFrame) else as_rgb(image))
                members.append((capture, waiting))
            except Exception as error:
                capture.warn("rgb", f"frame {waiting.index} cannot be converted to RGB: {error}")
                with self._changed:
                    capture.count(failed=1)
        return members, images

    def _call(self, images: list[Image]) -> list[Any]:
        """Returns what the detector returned or raised for each image."""
        if len(images) > 1:
            try:
                results = list(self._detector(images))
            except Exception as error:
                _LOGGER.debug(
                    "detection in a batch of %d frames failed (%s); trying each frame alone", len(images), error
                )
            else:
                if len(results) != len(images):
                    raise ValueError(
                        f"detector must return a result for each of {len(images)} images, got {len(results)}"
                    )
                return results
        return [self._call_one(image) for image in images]

    def _call_one(self, image: Image) -> Any:
        try:
            return self._detector([image])[0] if self._several else self._detector(image)
        except Exception as error:
            return error
