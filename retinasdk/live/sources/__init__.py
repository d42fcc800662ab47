"""The sources of frames, and `as_source`, which chooses one of them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from retinasdk._util.addresses import shown
from retinasdk.errors import ImageError
from retinasdk.images import SUFFIXES
from retinasdk.live.sources.base import RawFrame, Source
from retinasdk.live.sources.nvdec import NvdecVideo
from retinasdk.live.sources.opencv import Camera, Pipeline
from retinasdk.live.sources.pictures import Animation, Arrays, Folder
from retinasdk.live.sources.rosbag import RosBag
from retinasdk.live.sources.video import Video

__all__ = [
    "DECODERS",
    "Animation",
    "Arrays",
    "Camera",
    "Folder",
    "NvdecVideo",
    "Pipeline",
    "RawFrame",
    "RosBag",
    "Source",
    "Video",
    "as_source",
]

DECODERS = ("ffmpeg", "nvdec")
_BAG_PARTS = (".mcap", ".db3")


def as_source(source: Any, decoder: str = DECODERS[0]) -> Source:
    """Returns the source that a path, URL, camera number, GStreamer pipeline or iterator stands for.

    Args:
        source: What `stream` accepts. A `Source` is returned unchanged.
        decoder: What decodes video files and network streams: "ffmpeg" on the CPU, or "nvdec" on the GPU.

    Raises:
        DeviceError: If the decoder is "nvdec" and there is no GPU that can decode video.
        ImageError: If a file or folder does not exist or cannot be used.
        MissingDependencyError: If a package for this kind of source is not installed.
        TypeError: If it is none of these.
        ValueError: If the decoder is unknown, or "nvdec" for something else than a video file or a URL.
    """
    if decoder not in DECODERS:
        raise ValueError(f"decoder must be one of {', '.join(DECODERS)}; got {decoder!r}")
    if decoder == "nvdec":
        return _on_gpu(source)
    if all(hasattr(source, name) for name in ("open", "read", "close", "name", "live", "on_demand")):
        return source  # type: ignore[no-any-return]
    if isinstance(source, int) and not isinstance(source, bool):
        return Camera(source)
    if isinstance(source, (str, os.PathLike)):
        return _from_text(os.fspath(source))
    if isinstance(source, Iterable) and not isinstance(source, (np.ndarray, bytes, list, tuple, dict)):
        return Arrays(source)
    raise TypeError(
        "source must be a path, a URL, a camera number, a GStreamer pipeline, an iterator of RGB arrays (H, W, 3) or "
        f"a Source, got {type(source).__name__}; for one array or a list of arrays, pass iter([...])"
    )


def _on_gpu(source: Any) -> Source:
    text = os.fspath(source) if isinstance(source, (str, os.PathLike)) else ""
    is_url = "://" in text and " ! " not in text
    if is_url or (os.path.isfile(text) and not text.lower().endswith((*SUFFIXES, *_BAG_PARTS))):
        return NvdecVideo(text)
    other = _from_text(text) if text else source  # Says so if there is no such file.
    raise ValueError(
        "decoder must be left out, or be 'nvdec' for a video file or a URL such as rtsp://camera/live only; got the "
        f"source {getattr(other, 'name', type(other).__name__)}"
    )


def _from_text(text: str) -> Source:
    if " ! " in text:
        return Pipeline(text)
    if "://" in text:
        return Video(text)
    if text.startswith("/dev/"):
        return Camera(text)
    if os.path.isdir(text):
        return RosBag(text) if os.path.isfile(os.path.join(text, "metadata.yaml")) else Folder(text)
    if os.path.isfile(text):
        if text.lower().endswith(_BAG_PARTS):
            raise ImageError(
                f"{text} is one file of a ROS 2 bag; pass the folder of the bag, which contains metadata.yaml"
            )
        return Animation(text) if text.lower().endswith(SUFFIXES) else Video(text)
    if text.isdecimal():
        return Camera(int(text))
    raise ImageError(
        f"{shown(text)}: no such file or folder; a source is a video file, an image folder, a GIF, a ROS 2 bag folder, "
        "a URL such as rtsp://camera/live, a camera such as 0 or /dev/video0, or a GStreamer pipeline with ' ! '"
    )
