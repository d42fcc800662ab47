"""Decodes a clip with the real package pynvvideocodec over driver.c, and checks what retinasdk makes of its frames.

python decode.py CLIP        with the libraries made of driver.c on LD_LIBRARY_PATH
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import PyNvVideoCodec

from retinasdk import DeviceFrame
from retinasdk.live import NvdecVideo
from retinasdk.live.sources import nvdec

WIDTH, HEIGHT, BITS = (int(os.environ[f"VIDEO_{name}"]) for name in ("WIDTH", "HEIGHT", "BITS"))
SAMPLE = np.dtype(np.uint8 if BITS == 8 else np.uint16)
FORMAT = "nv12" if BITS == 8 else "p010"


def plane(address: int, row_bytes: int, rows: int) -> Any:
    content = np.ctypeslib.as_array((ctypes.c_uint8 * (row_bytes * rows)).from_address(address))
    return content.reshape(rows, row_bytes).view(SAMPLE)[:, :WIDTH].copy()


def check(frame: DeviceFrame, number: int) -> None:
    """The frame holds the picture of the packet with that number."""
    assert (frame.format, frame.shape, frame.row_bytes) == (FORMAT, (HEIGHT, WIDTH, 3), WIDTH * SAMPLE.itemsize)
    for address, rows, first, right, down in (
        (frame.luma, HEIGHT, 7 * number, 1, 3),
        (frame.chroma, HEIGHT // 2, 11 * number, 5, 1),
    ):
        y, x = np.mgrid[:rows, :WIDTH]
        wanted = ((first + right * x + down * y) & 255).astype(SAMPLE)
        assert np.array_equal(plane(address, frame.row_bytes, rows), wanted if BITS == 8 else wanted << 8)


def packet(number: int) -> Any:
    data = PyNvVideoCodec.PacketData()
    content = ctypes.create_string_buffer(16)
    data.bsl_data, data.bsl, data.pts = ctypes.addressof(content), 16, number
    data_of[number] = content
    return data


def refusal(call: Callable[[], object]) -> str:
    """The cause that the call's exception tells."""
    try:
        call()
    except Exception as error:
        return nvdec._reason(error)
    raise AssertionError("this should have raised an exception")


# The source: all frames, with their times, none overwritten, and no memory kept.
nvdec.why_no_cuda = lambda: None
driver = ctypes.CDLL("libcuda.so.1")
source = NvdecVideo(sys.argv[1])
source.open()
raws = list(iter(source.read, None))
source.close()
assert [round(raw.time_s * 25) for raw in raws if raw.time_s is not None] == list(range(12)), raws
for number, raw in enumerate(raws):
    check(raw.rgb(), number)
assert driver.driver_allocated() == 12
del raws, raw
gc.collect()
assert driver.driver_allocated() == 0

# Frames as the package's decoder gives them, and what DeviceFrame relies on.
data_of: dict[int, Any] = {}
codec = PyNvVideoCodec.cudaVideoCodec.H264 if BITS == 8 else PyNvVideoCodec.cudaVideoCodec.HEVC
decoder = PyNvVideoCodec.CreateDecoder(gpuid=0, codec=codec, usedevicememory=True)
assert decoder.Decode(packet(0)) == []
(first,) = decoder.Decode(packet(1))
check(DeviceFrame.from_decoded(first, matrix="bt709"), 0)
first.__dlpack__(stream=32)  # Waits for the frame's event; 0 is refused.
assert refusal(lambda: first.__dlpack__(stream=0)).startswith("Invalid value for stream parameter")
(second,) = decoder.Decode(packet(2))
assert second.GetPtrToPlane(0) == first.GetPtrToPlane(0)  # The first one is overwritten.
on_host = PyNvVideoCodec.CreateDecoder(gpuid=0, codec=codec)
assert on_host.Decode(packet(0)) == []
(frame,) = on_host.Decode(packet(1))
assert "usedevicememory=True" in refusal(lambda: DeviceFrame.from_decoded(frame, matrix="bt709"))
print("ok", PyNvVideoCodec.__version__)
