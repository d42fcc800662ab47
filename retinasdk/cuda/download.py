"""Copies planes of a frame from GPU memory to the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk.cuda.device import CudaDevice, CudaStream

if TYPE_CHECKING:
    import numpy.typing as npt

    from retinasdk.cuda.device_frame import DeviceFrame


def download(places: Sequence[tuple[int, int]], frame: DeviceFrame) -> list[npt.NDArray[np.uint8]]:
    """Copies memory of the GPU.

    Args:
        places: (address, number of bytes) of each part.
        frame: The frame whose pixels are there. They are waited for.

    Returns:
        The bytes of each part.

    Raises:
        DeviceError: If there is no usable GPU, or the copy fails.
        MissingDependencyError: If pycuda cannot be imported.
    """
    gpu = CudaDevice()
    try:
        with gpu.current():
            stream = CudaStream(gpu)
            try:
                return _copied(gpu, stream, places, frame)
            finally:
                stream.close()
    finally:
        gpu.close()


def _copied(
    gpu: CudaDevice, stream: CudaStream, places: Sequence[tuple[int, int]], frame: Any
) -> list[npt.NDArray[np.uint8]]:
    frame.order_before(stream.handle, gpu.native)
    parts = [np.empty(size, np.uint8) for _, size in places]
    with gpu.doing("copying a frame to the CPU"):
        for part, (address, _) in zip(parts, places, strict=True):
            gpu.driver.memcpy_dtoh_async(part, address, stream.driver_stream)
    stream.wait()
    return parts
