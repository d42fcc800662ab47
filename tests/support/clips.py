"""Short video clips, encoded by FFmpeg."""

from __future__ import annotations

from pathlib import Path

import pytest
from pictures import blocks

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
) -> Path:
    """Writes a clip of `COUNT` pictures at 25 per second. Their blocks survive coding.

    Args:
        path: The file. Its suffix chooses the container.
        codec: FFmpeg's name of the encoder.
        pixel_format: FFmpeg's name of the pixel format.
        colors: FFmpeg's numbers of the color space and range that the clip tells.
        size: (height, width) in pixels.
        reordered: Whether frames of H.264 and HEVC are stored in another order than shown.
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
        for number in range(COUNT):
            container.mux(output.encode(av.VideoFrame.from_ndarray(blocks(*size, seed=number), format="rgb24")))
        container.mux(output.encode(None))
    return path
