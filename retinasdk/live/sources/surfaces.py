"""The surfaces of a pynvvideocodec decoder: lent to frames, and given back when these are gone.

A decoder overwrites a surface in its next call unless it is locked. A frame may wait for the detector meanwhile, so
each surface is locked, and unlocked when nothing refers to it any more.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

from retinasdk.cuda.arrays import LEGACY_STREAM
from retinasdk.cuda.device_frame import PlaneFormat
from retinasdk.live.errors import StreamError

# By the decoder's name of the format: ours, and the bytes of a sample.
_FORMATS: dict[str, tuple[PlaneFormat, int]] = {"NV12": ("nv12", 1), "P016": ("p010", 2)}


@dataclass(frozen=True, eq=False)
class Surface:
    """A decoded frame: `height` rows of luma, then `height / 2` rows of chroma, without gaps. Locked until it is gone.

    Attributes:
        address: Address of the first row in GPU memory.
        height: Height in pixels.
        width: Width in pixels.
        row_bytes: Bytes of a row, of luma and of chroma.
        format: "nv12" or "p010".
        stream: Handle of the CUDA stream on which it is written.
        surfaces: Where it is given back.
    """

    address: int
    height: int
    width: int
    row_bytes: int
    format: PlaneFormat
    stream: int
    surfaces: Surfaces

    def __del__(self) -> None:
        self.surfaces.give_back(self.address)


class Surfaces:
    """Decodes packets into surfaces.

    The decoder is called by the source's thread only: it does not guard all of its lists against other threads. What
    other threads give back is unlocked before the next packet.
    """

    def __init__(self, decoder: Any) -> None:
        """Takes over a decoder that writes to GPU memory on the default stream."""
        self._decoder = decoder
        self._returned: deque[int] = deque()
        self._lock = threading.RLock()  # A surface may be given back by garbage collection in the thread that holds it.
        self._closed = False

    def decode(self, packet: Any) -> list[Surface]:
        """Decodes a packet.

        Args:
            packet: A `PacketData`. One without content ends the video.

        Returns:
            The frames that are complete, in the order in which they are shown.

        Raises:
            StreamError: If the decoder's surfaces are not as this class expects.
            Exception: What the decoder raises.
        """
        self._unlock_returned()
        decoder = self._decoder
        return [self._surface(decoder.GetLockedFrame()) for _ in range(decoder.GetNumDecodedFrame(packet))]

    def give_back(self, address: int) -> None:
        """Notes that a surface is not used any more. It may be called from any thread."""
        self._returned.append(address)
        if self._closed:
            self._unlock_returned()

    def close(self) -> None:
        """Ends decoding. Surfaces that are in use stay valid; with the last one, the decoder is released."""
        self._closed = True
        self._unlock_returned()

    def _unlock_returned(self) -> None:
        with self._lock:
            while self._returned:
                self._decoder.UnlockFrame(self._returned.popleft())

    def _surface(self, address: int) -> Surface:
        decoder = self._decoder
        height, width = decoder.GetHeight(), decoder.GetWidth()
        name = str(getattr(decoder.GetPixelFormat(), "name", "unknown"))
        layout, sample_bytes = _FORMATS.get(name, ("nv12", 0))
        surface = Surface(address, height, width, width * sample_bytes, layout, LEGACY_STREAM, self)
        if decoder.GetFrameSize() != surface.row_bytes * (height + (height + 1) // 2):
            raise StreamError(
                f"the decoder's frames of {width} x {height} in {name} have {decoder.GetFrameSize()} bytes, which is "
                "not the layout that retinasdk knows; report this with the version of pynvvideocodec"
            )
        return surface
