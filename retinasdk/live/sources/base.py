"""`Source`, the interface of everything that delivers frames, and `RawFrame`, what it delivers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from retinasdk.cuda.device_frame import DeviceFrame


@dataclass(frozen=True)
class RawFrame:
    """One frame as its source delivers it, before it is numbered and processed.

    Attributes:
        rgb: A function that returns the image, (H, W, 3) uint8, RGB, or a `DeviceFrame`. It is called at most once, in
            the thread that detects, for one frame of a stream at a time, and never for frames that are dropped. It must
            work after the source is closed.
        time_s: The time of the frame in the recording, in seconds. None if the source has no times.
        progress: How much of the recording has been read with this frame, from 0 to 1. None if the source does not
            know its length.
        tag: Anything that belongs to the frame, such as the header of its message. It comes back as `Frame.tag`.
    """

    rgb: Callable[[], npt.NDArray[np.uint8] | DeviceFrame]
    time_s: float | None = None
    progress: float | None = None
    tag: Any = None


class Source(Protocol):
    """The interface of everything that delivers frames. Implement it to stream from a device of your own.

    `open`, `read` and `close` are called from one thread, the source's own. `close` always follows `open`.

    Attributes:
        name: A name for messages and `Frame.source`, without passwords.
        live: True for a camera or network stream, which is opened again when it fails or ends. False for a recording,
            which ends. It is read after `open`.
        on_demand: True for a source without a time of its own, such as a folder. It is read only when the detector is
            free, so no frame is dropped under any policy.
    """

    name: str
    live: bool
    on_demand: bool

    def open(self) -> None:
        """Opens the source. Raises any exception whose text says why it cannot; the stream adds the name."""

    def read(self) -> RawFrame | None:
        """Waits for the next frame and returns it, or None at the end.

        It must return or raise within a few seconds, because `Stream.close` waits for it.

        Raises:
            CorruptFrameError: If one frame is bad, but the source continues.
            Exception: Any other exception means that the source is lost.
        """

    def close(self) -> None:
        """Releases everything. It may be called twice, after `open` failed, and without `open`."""
