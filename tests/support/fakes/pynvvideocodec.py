# ruff: noqa: N802 - the names are the package's.
"""The stand-in for `PyNvVideoCodec`: the names that retinasdk uses. FFmpeg decodes; the frames lie in the fake GPU.

Beliefs about the real package. SHOWN means that the package's own code (2.0.0, 2.0.3, 2.1.0, 2.2.0 and 2.2.4) did it
over a driver that needs no GPU: tests/live/test_pynvvideocodec.py. No GPU has decoded with it here, so what depends on
one is UNCONFIRMED.

- The names, and the description of planes in `__cuda_array_interface__`: SHOWN.
- A frame is overwritten by the next call of the decoder: SHOWN. Not if it came from `GetLockedFrame`, until
  `UnlockFrame`: SHOWN.
- Frames have no gaps between rows. Chroma follows luma: SHOWN.
- Locked frames are leaked if the decoder is released before they are unlocked: SHOWN.
- A packet without content makes the decoder give its last frames: SHOWN.
- `__dlpack__(stream=...)` makes that stream wait for the frame, and refuses 0: SHOWN.
- A decoder writes frames on the default stream if it is given no stream. The package waits for that stream before it
  returns a frame, by its source; here it does not, so that retinasdk may not rely on it: UNCONFIRMED.
- Frames come in the order in which they are shown: UNCONFIRMED.
- Video of 10 bits is decoded to P016, with the bits in the upper part: UNCONFIRMED, but documented by NVIDIA.
"""

from __future__ import annotations

import ctypes
import enum
from types import ModuleType
from typing import Any

import numpy as np

from fakes.gpu import Block, FakeGpu

Pixel_Format = enum.IntEnum(
    "Pixel_Format", {"NV12": 3, "YUV444": 4, "P016": 5, "YUV444_16Bit": 6, "NV16": 7, "P216": 8, "RGB": 9, "RGBP": 10}
)
Codec = enum.IntEnum("Codec", {"MPEG2": 1, "H264": 4, "HEVC": 8, "VP8": 9, "VP9": 10, "AV1": 11})
_FFMPEG = {"H264": "h264", "HEVC": "hevc", "MPEG2": "mpeg2video", "VP8": "vp8", "VP9": "vp9", "AV1": "libdav1d"}
_DEFAULT_STREAM = 1


class PacketData:
    bsl_data = bsl = pts = dts = decode_flag = 0


class CAIMemoryView:
    def __init__(self, shape: list[int], strides: list[int], typestr: str, address: int) -> None:
        # The stream is 0 for a decoder on the default stream. Strides are counted in samples.
        self.__cuda_array_interface__ = {
            "version": 3, "shape": shape, "strides": strides, "typestr": typestr, "stream": 0, "data": (address, False),
            "gpuIdx": 0,
        }  # fmt: skip


class DecodedFrame:
    """A frame as `Decode` gives it. The next call of the decoder overwrites it."""

    def __init__(
        self, gpu: FakeGpu, address: int, size: tuple[int, int], format: Any, *, device: tuple[int, int] = (2, 0)
    ) -> None:
        self.format, self.timestamp = format, 0
        self._gpu, self._address, self._device = gpu, address, device
        self._height, self._width = size
        self._item = 2 if format == Pixel_Format.P016 else 1
        self.shape = (self._height * 3 // 2, self._width)

    def cuda(self) -> list[CAIMemoryView]:
        height, width, typestr = self._height, self._width, f"|u{self._item}"
        return [
            CAIMemoryView([height, width, 1], [width, 1, 1], typestr, self._address),
            CAIMemoryView([height // 2, width // 2, 2], [width // 2 * 2, 2, 1], typestr, self.GetPtrToPlane(1)),
        ]

    def GetPtrToPlane(self, plane: int) -> int:
        return self._address + plane * self._item * self._width * self._height

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device

    def __dlpack__(self, stream: int = 0) -> Any:
        if stream == 0:
            raise RuntimeError("Invalid value for stream parameter. Passed value of 0 which is not allowed")
        self._gpu.wait_for_stream(stream, _DEFAULT_STREAM)
        return object()


class PyNvDecoder:
    def __init__(self, gpu: FakeGpu, codec: Any) -> None:
        import av

        self._gpu = gpu
        self._context: Any = av.CodecContext.create(_FFMPEG[codec.name], "r")
        self._context.thread_count = 1
        self._free: list[Block] = []
        self._locked: dict[int, Block] = {}
        self._decoded = self._returned = 0
        self._format = Pixel_Format.NV12
        self._size, self._bytes = (0, 0), 0

    def GetNumDecodedFrame(self, packet: Any) -> int:
        import av

        self._decoded = self._returned = 0
        unit = None
        if packet.bsl:
            unit = av.Packet(ctypes.string_at(packet.bsl_data, packet.bsl))
            unit.pts = packet.pts
        for frame in self._context.decode(unit):
            self._show(frame)
        return self._decoded

    def Decode(self, packet: Any) -> list[DecodedFrame]:
        count = self.GetNumDecodedFrame(packet)
        return [DecodedFrame(self._gpu, self._free[i].address, self._size, self._format) for i in range(count)]

    def GetLockedFrame(self) -> int:
        assert self._decoded > 0
        self._decoded -= 1
        block = self._free.pop(0)
        self._locked[block.address] = block
        return block.address

    def UnlockFrame(self, address: int) -> None:
        self._free.append(self._locked.pop(address))

    def GetWidth(self) -> int:
        return self._size[1]

    def GetHeight(self) -> int:
        return self._size[0]

    def GetPixelFormat(self) -> Any:
        return self._format

    def GetFrameSize(self) -> int:
        return self._bytes

    def _show(self, frame: Any) -> None:
        is_wide = frame.format.name == "yuv420p10le"
        self._format = Pixel_Format.P016 if is_wide else Pixel_Format.NV12
        self._size = (frame.height, frame.width)
        self._bytes = frame.height * 3 // 2 * frame.width * (2 if is_wide else 1)
        if len(self._free) == self._decoded:
            self._free.append(self._gpu.allocate("surface", self._bytes))
        target = self._free[self._decoded].content
        self._decoded += 1
        content = _bytes_of(frame.reformat(format="p010le" if is_wide else "nv12"), self._bytes)
        self._gpu.enqueue(_DEFAULT_STREAM, "decode", lambda: np.copyto(target, content))

    def __del__(self) -> None:
        self._gpu.synchronize(_DEFAULT_STREAM)
        for block in self._free:
            self._gpu.free("surface", block)


def _bytes_of(frame: Any, size: int) -> Any:
    """The planes of a frame, without gaps."""
    row = frame.width * (2 if frame.format.name == "p010le" else 1)
    planes = [
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:rows, :row].reshape(-1)
        for plane, rows in zip(frame.planes, (frame.height, frame.height // 2), strict=True)
    ]
    content = np.concatenate(planes)
    assert content.size == size
    return content


def pynvvideocodec_module(gpu: FakeGpu) -> ModuleType:
    """Returns the module for a GPU."""
    module: Any = ModuleType("PyNvVideoCodec")

    def create_decoder(*, gpuid: int = 0, codec: Any = Codec.H264, usedevicememory: bool = False) -> PyNvDecoder:
        assert gpuid == 0
        assert usedevicememory
        return PyNvDecoder(gpu, codec)

    module.CreateDecoder = create_decoder
    module.PacketData, module.cudaVideoCodec, module.Pixel_Format = PacketData, Codec, Pixel_Format
    return module
