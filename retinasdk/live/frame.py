"""`Frame`, the result of a stream for one image, and `Counters`, its statistics per source."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk.cuda.device_frame import DeviceFrame

if TYPE_CHECKING:
    import numpy.typing as npt

    from retinasdk.detections import Detections


@dataclass(frozen=True)
class Counters:
    """Counts the frames of one source since the stream started.

    `captured` is the sum of `processed`, `dropped`, `failed` and the frames that are waiting or being processed now.

    Attributes:
        captured: Frames that the source delivered, corrupt ones included.
        processed: Frames that the detector processed and that were handed to the caller.
        dropped: Frames that the policy or the deadline discarded.
        failed: Frames that could not be decoded, or on which the detector raised an exception.
    """

    captured: int = 0
    processed: int = 0
    dropped: int = 0
    failed: int = 0


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a stream, with the detections in it.

    Attributes:
        image: The image, (H, W, 3) uint8, RGB, in host memory. It belongs to the caller, who may change it. If the GPU
            decoded it, it is copied to the CPU when you read this for the first time; otherwise it stays on the GPU.
        detections: What was detected, in pixels of `image`. None if the detector raised an exception.
        source: The name of the source, a key of `Stream.counters`.
        index: The number of the frame in its source, from 0. Dropped frames are counted too.
        captured_s: When the frame was read and decoded, in seconds of the monotonic clock.
        age_s: Seconds from `captured_s` until the frame was handed to the caller. The delay of the camera, the network
            and the decoder before `captured_s` is not included.
        time_s: The time of the frame in the recording, in seconds. None if the source has no times.
        counters: The counters of the source when the frame was handed over.
        error: The exception that the detector raised, or None. Its traceback keeps the stream alive: if you keep such
            frames, use the stream in a `with` statement.
        live: Whether the source is a camera or a network stream. False for files and iterators, which end.
        progress: How much of the recording has been read, from 0 to 1. None if the source does not know its length.
        connection: How many times the source had been opened again before this frame: 0 until it reconnects.
        tag: What the source attached to the frame, `RawFrame.tag`. The sources of this package attach nothing, except
            `RosBag`, which attaches the `std_msgs/msg/Header` of the message.
    """

    image: npt.NDArray[np.uint8]
    detections: Detections | None
    source: str
    index: int
    captured_s: float
    age_s: float
    time_s: float | None
    counters: Counters
    error: Exception | None = None
    live: bool = True
    progress: float | None = None
    connection: int = 0
    tag: Any = None

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the image in pixels, without copying it from the GPU."""
        shape = self.__dict__["image"].shape
        return int(shape[0]), int(shape[1])

    def to_dict(self) -> dict[str, Any]:
        """Returns all fields except the pixels and the tag as plain Python values, ready for JSON.

        Returns:
            A dictionary with "source", "index", "time_s", "captured_s", "age_s", "width", "height", "detections" (the
            list of `Detections.to_dicts`, or None), "error" ("ValueError: the message", or None), "counters", "live",
            "progress" and "connection".
        """
        return {
            "source": self.source,
            "index": self.index,
            "time_s": self.time_s,
            "captured_s": self.captured_s,
            "age_s": self.age_s,
            "width": self.image_size[1],
            "height": self.image_size[0],
            "detections": None if self.detections is None else self.detections.to_dicts(),
            "error": None if self.error is None else f"{type(self.error).__name__}: {self.error}",
            "counters": asdict(self.counters),
            "live": self.live,
            "progress": self.progress,
            "connection": self.connection,
        }


class _HostImage:
    """The attribute `Frame.image`. A frame in GPU memory is copied when it is read for the first time, if ever."""

    def __get__(self, frame: Frame | None, owner: type | None = None) -> npt.NDArray[np.uint8]:
        if frame is None:
            raise AttributeError("image")
        image: npt.NDArray[np.uint8] | DeviceFrame = frame.__dict__["image"]
        if isinstance(image, DeviceFrame):
            image = frame.__dict__["image"] = image.to_rgb()
        return image

    def __set__(self, frame: Frame, image: npt.NDArray[np.uint8] | DeviceFrame) -> None:
        frame.__dict__["image"] = image


# Set when the dataclass is made, so that the field has no default.
Frame.image = _HostImage()  # type: ignore[assignment]
