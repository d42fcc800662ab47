"""Fuzzes the arrays that a Detector is given: dtypes, shapes, strides, byte order, read-only and empty ones."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import harness
import numpy as np
import numpy.typing as npt

with harness.instrumented(__name__ == "__main__"):
    from retinasdk import Detector
    from retinasdk.errors import ImageError
    from retinasdk.images import as_rgb

DTYPES = ("u1", "<u2", ">u2", "i1", "<i4", "<f2", "<f4", ">f8", "?", "c8", "O", "S3", "U2", "M8[s]", "V3")
SIDES = (0, 1, 2, 3, 4, 5, 7, 16, 33, 64, 65536, 65537)


@functools.cache
def detector() -> Detector:
    """A Detector of a tiny random network."""
    import tempfile

    import onnx
    from random_retinanet import random_retinanet

    from retinasdk import Resize

    network, spec = random_retinanet()
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(network, f"{folder}/tiny.onnx")
        return Detector(f"{folder}/tiny.onnx", spec=spec.replace(resize=Resize("longest", (64,))), threads=1)


def array(data: bytes) -> npt.NDArray[Any]:
    """Makes an array of any kind. Each byte is one choice; no byte is the first choice."""
    source = iter(data)

    def choose(count: int) -> int:
        return next(source, 0) % count

    dtype = np.dtype(DTYPES[choose(len(DTYPES))])
    shape = tuple(SIDES[choose(len(SIDES))] for _ in range((3, 2, 1, 0, 4, 5)[choose(6)]))
    if np.prod(shape, dtype=float) > 1 << 20:  # Repeats one value, so that large ones take no memory.
        values: npt.NDArray[Any] = np.broadcast_to(np.zeros((), dtype), shape)
    else:
        count = int(np.prod(shape, dtype=int))
        content = np.resize(np.frombuffer(data or b"\0", np.uint8), max(count, 1))[:count]
        values = content.astype(dtype).reshape(shape) if dtype.kind not in "VM" else np.zeros(shape, dtype)
    for _ in range(choose(3)):
        kind = choose(5)
        if kind == 0 and values.ndim:
            values = np.flip(values, choose(values.ndim))
        elif kind == 1 and values.ndim > 1:
            values = values.swapaxes(0, choose(values.ndim))
        elif kind == 2 and values.ndim:
            values = values[:: choose(3) + 1]
        elif kind == 3:
            values.flags.writeable = False
        elif kind == 4:
            values = np.broadcast_to(values, (*((1, 3)[choose(2)],), *values.shape))
    return values


def one_input(data: bytes) -> None:
    try:
        image = array(data)
    except ValueError:
        return  # NumPy makes no array of that size.
    order = "bgr" if sum(data) % 2 else "rgb"
    with warnings.catch_warnings(), harness.documented(ImageError, ValueError, TypeError):
        warnings.simplefilter("error")
        pixels = as_rgb(image, channel_order=order)  # type: ignore[arg-type]
        if pixels.strides[1:] != (3, 1) or pixels.dtype != np.uint8:
            raise harness.FindingError(f"an image has the strides {pixels.strides}")
        if pixels.size <= 1 << 18:
            detector()(image, channel_order=order)  # type: ignore[call-overload]


if __name__ == "__main__":
    harness.fuzz(one_input)
