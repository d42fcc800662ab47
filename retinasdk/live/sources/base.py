"""What a source of frames is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True)
class RawFrame:
    """One frame as its source gives it.

    rgb: makes its picture, RGB uint8 (H, W, 3). Called at most once, and only for frames that the detector gets: a
        frame that is dropped is never converted. Must not need the source any more.
    time_s: its time in the recording, seconds; None where there is none.
    """

    rgb: Callable[[], npt.NDArray[np.uint8]]
    time_s: float | None = None


class Source(Protocol):
    """Anything that gives frames. All but `__init__` is called from one thread; `close` always follows `open`.

    name: for messages and `Frame.source`; without passwords.
    live: opened again when it is lost or ends (a camera, a network stream); others end. Known after `open`.
    on_demand: has no time of its own (a folder): read only when the detector is free, whatever the policy.
    """

    name: str
    live: bool
    on_demand: bool

    def open(self) -> None:
        """Opens it. Raises whatever says best why it cannot be; the stream adds the name."""

    def read(self) -> RawFrame | None:
        """The next frame, waiting for it; None: there is no more.

        Raises `CorruptFrameError` for one bad frame, anything else where the source is lost. Must come back within
        seconds, or else `Stream.close` cannot.
        """

    def close(self) -> None:
        """Releases everything. Also called where `open` failed, or was never called; may be called twice."""
