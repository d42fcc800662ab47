"""Video files and network streams, decoded by an NVIDIA GPU (package pynvvideocodec)."""

from __future__ import annotations

import functools
import heapq
import os
from collections import deque
from collections.abc import Iterator
from typing import Any

from retinasdk._util.lazy import require
from retinasdk.cuda.device import ORDINAL, why_no_cuda
from retinasdk.cuda.device_frame import ColorMatrix, DeviceFrame
from retinasdk.errors import DeviceError
from retinasdk.live.errors import CorruptFrameError, StreamError
from retinasdk.live.sources.base import RawFrame
from retinasdk.live.sources.surfaces import Surfaces
from retinasdk.live.sources.video import Video

# By FFmpeg's name of the codec: the decoder's name, and the filter that puts a container's packets into a byte stream.
_CODECS = {
    "av1": ("AV1", None),
    "h264": ("H264", "h264_mp4toannexb"),
    "hevc": ("HEVC", "hevc_mp4toannexb"),
    "mpeg2video": ("MPEG2", None),
    "vp8": ("VP8", None),
    "vp9": ("VP9", None),
}
_PIXEL_FORMATS = ("nv12", "p010le", "yuv420p", "yuv420p10le", "yuvj420p")
# By FFmpeg's number of the color space. The last is "unspecified", which FFmpeg converts as BT.601.
_MATRICES: dict[int, ColorMatrix] = {1: "bt709", 5: "bt601", 6: "bt601", 9: "bt2020", 2: "bt601"}
_FULL_RANGE = 2  # FFmpeg's AVCOL_RANGE_JPEG
_MAX_PROBED = 300  # Packets until the first frame, also of a network stream that is joined between key frames.
# More frames are not reordered by any codec. Times beyond that belong to packets that gave no frame.
_MAX_REORDERED = 32
_ADVICE = "use decoder='ffmpeg' to decode on the CPU"


class NvdecVideo(Video):
    """A video file or network stream that an NVIDIA GPU decodes. Frames stay in GPU memory, see `DeviceFrame`.

    It needs a `Detector` on the GPU, the extra `video` and the package pynvvideocodec: `pip install pynvvideocodec`.
    FFmpeg opens the file or URL, and decodes the first frame to learn its colors. Video without a color matrix is read
    as BT.601, as `Video` does. Supported are H.264, HEVC, AV1, VP8, VP9 and MPEG-2 with 4:2:0 chroma and 8 or 10 bits.
    Rotated video is not supported, and chroma is not interpolated, so pixels differ slightly from those of `Video`.

    A frame occupies a surface of the decoder until its `Frame` and its copies are gone, so do not keep many of them.

    Args:
        location: A file or a URL, as for `Video`.
        timeout_s: A URL that sends nothing for this many seconds is lost. Default: 5.
        options: Options of FFmpeg, as for `Video`.
        format: FFmpeg's name of the container format. Detected automatically by default.

    Raises:
        DeviceError: If there is no usable GPU, or pynvvideocodec does not work here.
        MissingDependencyError: If PyAV or pynvvideocodec is not installed.
    """

    def __init__(
        self,
        location: str | os.PathLike[str],
        *,
        timeout_s: float = 5.0,
        options: dict[str, str] | None = None,
        format: str | None = None,
    ) -> None:
        self._nvc = _decoder_package()
        super().__init__(location, timeout_s=timeout_s, options=options, format=format)
        self._surfaces: Surfaces | None = None
        self._filter: Any = None
        self._probed: deque[Any] = deque()  # Packets that were read to learn about the video.
        self._times: list[int] = []  # A heap: the times of packets whose frames are not out yet.
        self._ready: deque[RawFrame] = deque()
        self._ended = False
        self._colors: dict[str, Any] = {}

    def open(self) -> None:
        """Connects or opens the file, and makes the decoder. See `Source.open`."""
        super().open()
        stream = self._container.streams.video[0]
        name = stream.codec_context.codec.canonical_name
        if name not in _CODECS:
            raise StreamError(_unsupported("video", name))
        codec, bitstream_filter = _CODECS[name]
        stream.thread_type = "SLICE"  # With frame threading, the first frame comes out late.
        self._colors = _checked_colors(self._first_frame())
        if bitstream_filter is not None:
            self._filter = self._av.bitstream.BitStreamFilterContext(bitstream_filter, stream)
        try:
            decoder = self._nvc.CreateDecoder(
                gpuid=ORDINAL, codec=getattr(self._nvc.cudaVideoCodec, codec), usedevicememory=True
            )
        except Exception as error:
            raise StreamError(f"the GPU cannot decode {name}: {_reason(error)}; {_ADVICE}") from error
        self._surfaces = Surfaces(decoder)

    def read(self) -> RawFrame | None:
        """Decodes the next frame. See `Source.read`."""
        while not self._ready:
            if self._ended:
                return None
            packet = self._probed.popleft() if self._probed else self._read_packet()
            self._ended = packet is None
            for part in self._parts(packet):
                self._decode(part)
        return self._ready.popleft()

    def close(self) -> None:
        """Disconnects or closes the file. Frames that are still in use stay valid. See `Source.close`."""
        super().close()
        self._filter = None
        self._ended = False
        self._probed.clear()
        self._ready.clear()
        self._times.clear()
        if self._surfaces is not None:
            self._surfaces.close()
            self._surfaces = None

    def _first_frame(self) -> Any:
        """Decodes the first frame on the CPU, and keeps the packets for the GPU, from the first key frame on."""
        context = self._container.streams.video[0].codec_context
        for _ in range(_MAX_PROBED):
            packet = self._read_packet()
            if packet is not None:
                if not (self._probed or packet.is_keyframe):
                    continue
                self._probed.append(packet)
            try:
                frames = context.decode(packet)  # At the end, None makes FFmpeg give what it holds back.
            except self._av.error.FFmpegError:
                frames = []  # A damaged packet: another one will tell.
            if frames:
                return frames[0]
            if packet is None:
                break
        raise StreamError("it contains no frame that can be decoded")

    def _read_packet(self) -> Any:
        """The next packet with content, or None at the end."""
        packet = self._next_packet()
        return packet if packet is not None and packet.size else None

    def _parts(self, packet: Any) -> Iterator[Any]:
        """What the decoder gets for a packet. Ends with None at the end of the video."""
        if self._filter is not None:
            try:
                yield from self._filter.filter(packet)
            except self._av.error.FFmpegError as error:
                raise CorruptFrameError(f"the packet cannot be read: {error.strerror}") from None
            if packet is not None:
                return
        yield packet

    def _decode(self, packet: Any) -> None:
        data = self._nvc.PacketData()  # Without content it tells the decoder to give its last frames.
        if packet is not None:
            data.bsl_data, data.bsl = packet.buffer_ptr, packet.buffer_size
            if packet.pts is not None:
                data.pts = packet.pts
                heapq.heappush(self._times, packet.pts)
        assert self._surfaces is not None
        try:
            surfaces = self._surfaces.decode(data)
        except StreamError:
            raise
        except Exception as error:  # The package's own errors derive from Exception.
            raise StreamError(f"the GPU failed to decode: {_reason(error)}") from error
        stream = self._container.streams.video[0]
        for surface in surfaces:
            pts = heapq.heappop(self._times) if self._times else None
            time_s = None if pts is None else float(pts * stream.time_base)
            length_s = float(1 / stream.average_rate) if stream.average_rate else 0.0
            frame = self._frame(surface)
            self._ready.append(RawFrame(functools.partial(_itself, frame), time_s, self._progress(time_s, length_s)))
        while len(self._times) > _MAX_REORDERED:
            heapq.heappop(self._times)

    def _frame(self, surface: Any) -> DeviceFrame:
        try:
            return DeviceFrame(
                luma=surface.address,
                chroma=surface.address + surface.row_bytes * surface.height,
                height=surface.height,
                width=surface.width,
                row_bytes=surface.row_bytes,
                format=surface.format,
                stream=surface.stream,
                owner=surface,
                **self._colors,
            )
        except ValueError as error:
            raise StreamError(f"{error}; {_ADVICE}") from error


def _decoder_package() -> Any:
    """Imports pynvvideocodec, and says what is missing."""
    why = why_no_cuda()
    if why is not None:
        raise DeviceError(f"decoder='nvdec' needs an NVIDIA GPU, but there is {why}; {_ADVICE}")
    try:
        return require("PyNvVideoCodec", "decoder='nvdec'")
    except ImportError:
        raise
    except Exception as error:  # The package raises RuntimeError if the driver lacks its libraries for video.
        raise DeviceError(f"pynvvideocodec does not work here: {_reason(error)}; {_ADVICE}") from error


def _checked_colors(frame: Any) -> dict[str, Any]:
    """The color matrix and range of the video, after checking that the GPU path supports its frames."""
    if round(frame.rotation) % 360:
        raise StreamError(_unsupported("rotation", f"{round(frame.rotation) % 360} degrees"))
    if frame.width % 2 or frame.height % 2:  # The decoder would add a column.
        raise StreamError(_unsupported("size", f"{frame.width} x {frame.height}, with an odd side,"))
    if frame.format.name not in _PIXEL_FORMATS:
        raise StreamError(_unsupported("pixel format", frame.format.name))
    if int(frame.colorspace) not in _MATRICES:
        raise StreamError(_unsupported("color space", f"{int(frame.colorspace)} (FFmpeg's number)"))
    is_full = int(frame.color_range) == _FULL_RANGE or frame.format.name == "yuvj420p"
    return {"matrix": _MATRICES[int(frame.colorspace)], "full_range": is_full}


def _unsupported(what: str, value: str) -> str:
    return f"the {what} {value} is not supported by decoder='nvdec'; {_ADVICE}"


def _itself(frame: DeviceFrame) -> DeviceFrame:
    return frame


def _reason(error: Exception) -> str:
    """The line that tells the cause. The package writes a function's name and an error code before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line.partition(":")[2].strip() for line in lines if line.startswith("Error Type")]
    return (causes or lines or [type(error).__name__])[0]
