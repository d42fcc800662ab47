"""Fuzzes ROS 2 messages of images: serialized bytes, and the fields of messages in all encodings."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import harness
import numpy as np

with harness.instrumented(__name__ == "__main__"):
    from retinasdk.errors import ImageError
    from retinasdk.live.ros import PICTURE_TYPES, picture_of, typestore

ENCODINGS = ("rgb8", "bgr8", "rgba8", "bgra8", "mono8", "mono16", "bayer_rggb8", "yuv422", "32FC1", "", "\0", "é" * 99)
SIZES = (0, 1, 2, 3, 4, 12, 255, 65536, 2**31 - 1, 2**31, 2**32 - 1)


@functools.cache
def types() -> Any:
    """The message types of ROS 2 Humble."""
    return typestore()


def one_input(data: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with harness.documented(ImageError):
            _check(picture_of(_message(data)))
        for kind in PICTURE_TYPES:
            try:
                message = types().deserialize_cdr(data, kind)
            except Exception:  # That of rosbags, which a source counts as a damaged frame: fuzz_bag.py.
                continue
            with harness.documented(ImageError):
                _check(picture_of(message))


def _message(data: bytes) -> Any:
    encoding, height, width, step = (*data[:4], 0, 0, 0, 0)[:4]
    header = types().types["std_msgs/msg/Header"](types().types["builtin_interfaces/msg/Time"](0, 0), "camera")
    numbers = [SIZES[value % len(SIZES)] for value in (height, width, step)]
    content = np.frombuffer(data[4:], np.uint8)
    return types().types[PICTURE_TYPES[0]](
        header, numbers[0], numbers[1], ENCODINGS[encoding % len(ENCODINGS)], 0, numbers[2], content
    )


def _check(pixels: Any) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise harness.FindingError(f"an image is {pixels.shape} {pixels.dtype}")


if __name__ == "__main__":
    harness.fuzz(one_input)
