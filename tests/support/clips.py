"""Short video clips, encoded by FFmpeg."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pictures import blocks

from retinasdk import _native

COUNT = 12
SIZE = (96, 128)


def encode(
    path: Path,
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    colors: tuple[int, int] = (1, 1),
    size: tuple[int, int] = SIZE,
    reordered: bool = True,
    count: int = COUNT,
) -> Path:
    """Writes a clip of pictures at 25 per second. Their blocks survive coding.

    Args:
        path: The file. Its suffix chooses the container.
        codec: FFmpeg's name of the encoder.
        pixel_format: FFmpeg's name of the pixel format.
        colors: FFmpeg's numbers of the color space and range that the clip tells.
        size: (height, width) in pixels.
        reordered: Whether frames of H.264 and HEVC are stored in another order than shown.
        count: Number of pictures.
    """
    av = pytest.importorskip("av", reason="needs PyAV (retinasdk[video])")
    between = 2 if reordered else 0
    options = {
        "libx264": {"bf": str(between), "qp": "4"},
        "libx265": {"x265-params": f"log-level=none:qp=4:bframes={between}"},
    }
    with av.open(str(path), "w") as container:
        output = container.add_stream(codec, rate=25, options=options.get(codec, {}))
        output.height, output.width = size
        output.pix_fmt = pixel_format
        output.codec_context.colorspace, output.codec_context.color_range = colors
        for number in range(count):
            container.mux(output.encode(av.VideoFrame.from_ndarray(blocks(*size, seed=number), format="rgb24")))
        container.mux(output.encode(None))
    return path


def rgb_frames(path: Path, matrix: str, full_range: bool) -> list[npt.NDArray[np.uint8]]:
    """The frames as FFmpeg decodes them, converted with the arithmetic of the kernels."""
    av = pytest.importorskip("av", reason="needs PyAV (retinasdk[video])")
    with av.open(str(path)) as container:
        return [_converted(frame, matrix, full_range) for frame in container.decode(video=0)]


def _converted(frame: Any, matrix: str, full_range: bool) -> npt.NDArray[np.uint8]:
    is_wide = frame.format.name == "yuv420p10le"
    frame = frame.reformat(format="p010le" if is_wide else "nv12")
    dtype = np.uint16 if is_wide else np.uint8
    rows = [
        np.frombuffer(plane, dtype).reshape(-1, plane.line_size // np.dtype(dtype).itemsize) for plane in frame.planes
    ]
    luma = rows[0][: frame.height, : frame.width]
    pairs = rows[1][: frame.height // 2, : frame.width].reshape(frame.height // 2, frame.width // 2, 2)
    return _native.yuv_to_rgb(luma, pairs, matrix=matrix, full_range=full_range)
