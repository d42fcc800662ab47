"""Tests video that the hardware decoder of a GPU decodes, with the real pynvvideocodec."""

from __future__ import annotations

import gc
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from clips import COUNT, SIZE, encode, rgb_frames
from gpu_device import Gpu

from retinasdk import Detector, DeviceFrame, stream
from retinasdk.live import NvdecVideo

pytestmark = pytest.mark.skipif(importlib.util.find_spec("PyNvVideoCodec") is None, reason="needs pynvvideocodec")


@pytest.mark.parametrize(
    ("codec", "pixel_format", "colors", "matrix", "full_range"),
    [
        ("libx264", "yuv420p", (1, 1), "bt709", False),
        ("libx264", "yuv420p", (5, 2), "bt601", True),
        ("libx265", "yuv420p10le", (9, 1), "bt2020", False),
    ],
)
def test_frames_are_those_of_ffmpeg(
    gpu: Gpu,
    tmp_path: Path,
    codec: str,
    pixel_format: str,
    colors: tuple[int, int],
    matrix: str,
    full_range: bool,
) -> None:
    """Decoders of H.264 and HEVC give the same bits."""
    if not gpu.is_real:
        pytest.skip("needs a real GPU; stand-ins cannot show it")
    # Hardware decoders take HEVC from 144 x 144 on.
    clip = encode(tmp_path / "clip.mp4", codec=codec, pixel_format=pixel_format, colors=colors, size=(192, 256))
    source = NvdecVideo(clip)
    source.open()
    raws = list(iter(source.read, None))
    source.close()
    assert [raw.time_s for raw in raws] == pytest.approx([number / 25 for number in range(COUNT)])
    for raw, wanted in zip(raws, rgb_frames(clip, matrix, full_range), strict=True):
        frame = raw.rgb()
        assert isinstance(frame, DeviceFrame)
        assert np.array_equal(frame.to_rgb(), wanted)
    del raws, raw, frame
    gc.collect()


def test_detections(chip: Gpu, on_gpu: Detector, tmp_path: Path) -> None:
    clip = encode(tmp_path / "clip.mp4")
    wanted = [on_gpu(image) for image in rgb_frames(clip, "bt709", False)]
    with stream(clip, on_gpu, decoder="nvdec", policy="all") as frames:
        found = [(frame.detections, frame.image_size) for frame in frames]
    assert found == [(detections, SIZE) for detections in wanted]
