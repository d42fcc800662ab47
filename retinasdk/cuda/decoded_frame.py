"""Frames that NVIDIA's decoder package pynvvideocodec hands out, read in place.

Their memory belongs to the decoder. Facts about the package, which its versions 2.0.0 to 2.2.4 showed over a driver
without a GPU (tests/live/test_pynvvideocodec.py):

- `cuda()` gives both planes of a frame in NV12 or P016, without gaps between rows. Strides are counted in samples, also
  where samples have two bytes.
- The stream that the planes name is not the decoder's. `__dlpack__(stream=...)` makes that stream wait for the frame.
- P016 is P010 for video of 10 bits, by NVIDIA's documentation.
- `usedevicememory=False`, the default of `CreateDecoder`, gives frames in host memory that look the same.
- Frames know neither the color matrix nor the range of their video.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

from retinasdk.cuda.arrays import check_ordinal
from retinasdk.cuda.device_frame import ColorMatrix, DeviceFrame, PlaneFormat

_log = logging.getLogger("retinasdk")
_FORMATS: dict[str, tuple[PlaneFormat, int]] = {"NV12": ("nv12", 1), "P016": ("p010", 2)}
_ON_CPU = 1  # kDLCPU
# Broadcast video of up to 576 lines is standard definition.
_MAX_SD_LINES = 576


def is_decoded_frame(image: object) -> bool:
    """Returns whether the object is a frame of pynvvideocodec that is not in RGB."""
    return all(hasattr(image, name) for name in ("GetPtrToPlane", "cuda", "format")) and _format(image) != "RGB"


def from_decoded(frame: Any, *, matrix: ColorMatrix, full_range: bool = False) -> DeviceFrame:
    """Returns a frame of pynvvideocodec as a `DeviceFrame`. See `DeviceFrame.from_decoded`."""
    name = _format(frame)
    if name not in _FORMATS:
        raise ValueError(
            f"The decoded frame is in {name}, but must be in NV12 or P016. Make the decoder with "
            "outputColorType=PyNvVideoCodec.OutputColorType.RGB to let it convert frames."
        )
    kind, ordinal = frame.__dlpack_device__()
    if kind == _ON_CPU:
        raise ValueError("The decoded frame is in host memory. Make the decoder with usedevicememory=True.")
    check_ordinal(ordinal)
    pixel_format, sample_bytes = _FORMATS[name]
    luma, chroma = (view.__cuda_array_interface__ for view in frame.cuda())
    height, width = luma["shape"][:2]
    return _DecodedFrame(
        luma=luma["data"][0],
        chroma=chroma["data"][0],
        height=height,
        width=width,
        row_bytes=width * sample_bytes,
        format=pixel_format,
        matrix=matrix,
        full_range=full_range,
        owner=frame,
    )


def as_device_frame(frame: Any) -> DeviceFrame:
    """Returns a frame of pynvvideocodec as a `DeviceFrame`, with the colors that video of its size usually has."""
    rows = frame.cuda()[0].__cuda_array_interface__["shape"][0]
    matrix: ColorMatrix = "bt601" if rows <= _MAX_SD_LINES else "bt709"
    _tell_assumption(matrix)
    return from_decoded(frame, matrix=matrix)


@functools.cache
def _tell_assumption(matrix: ColorMatrix) -> None:
    _log.warning(
        "Frames of pynvvideocodec do not tell their colors: %s with video range is assumed from the number of lines. "
        "To set them, pass retinasdk.DeviceFrame.from_decoded(frame, matrix=..., full_range=...).",
        matrix,
    )


def _format(frame: Any) -> str:
    return str(getattr(frame.format, "name", frame.format))


class _DecodedFrame(DeviceFrame):
    """A frame whose decoder knows when it is complete."""

    def order_before(self, stream: int, native: Any) -> None:
        """Makes a stream wait for the decoder. See `DeviceFrame.order_before`."""
        self.owner.__dlpack__(stream=stream)
