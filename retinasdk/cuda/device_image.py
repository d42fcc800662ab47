"""Images in GPU memory as the preprocessing kernel reads them, without a copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from retinasdk.cuda.arrays import is_gpu_array, read_array
from retinasdk.cuda.decoded_frame import as_device_frame, is_decoded_frame
from retinasdk.cuda.device_frame import ColorMatrix, DeviceFrame, PixelFormat

_EXPECTED = "An image on the GPU must be a (height, width, 3) uint8 array with channels last"


@dataclass(frozen=True)
class DeviceImage:
    """An image on the GPU whose pixels may still be in the making: only its shape has been read.

    Attributes:
        owner: The caller's array, or a `DeviceFrame`.
        shape: (height, width, 3).
    """

    owner: Any
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class DevicePixels:
    """The pixels of one image in GPU memory, as the preprocessing kernel reads them.

    Attributes:
        address: Address of the first pixel, or of the luma plane.
        row_bytes: Distance between the starts of two rows, in bytes.
        owner: An object that keeps the memory alive.
        format: "rgb" for interleaved uint8; "nv12" or "p010" for a luma plane and a plane of chroma pairs.
        chroma: Address of the chroma plane. 0 for "rgb".
        chroma_row_bytes: Distance between the starts of two rows of the chroma plane, in bytes. 0 for "rgb".
        matrix: "bt601", "bt709" or "bt2020". Not used for "rgb".
        full_range: Whether luma and chroma use all values. False: video range. Not used for "rgb".
    """

    address: int
    row_bytes: int
    owner: Any
    format: PixelFormat = "rgb"
    chroma: int = 0
    chroma_row_bytes: int = 0
    matrix: ColorMatrix = "bt601"
    full_range: bool = False

    def source_arguments(self) -> dict[str, Any]:
        """Returns the arguments of `_native_cuda.preprocess` that describe the source, except its size."""
        arguments: dict[str, Any] = {"format": self.format, "pixels": self.address, "row_bytes": self.row_bytes}
        if self.format != "rgb":
            arguments["chroma"], arguments["chroma_row_bytes"] = self.chroma, self.chroma_row_bytes
            arguments["matrix"], arguments["full_range"] = self.matrix, self.full_range
        return arguments


def as_device_image(image: Any) -> DeviceImage | None:
    """Returns the image if it is in GPU memory, or None if it is not.

    Raises:
        ValueError: If its shape is not (height, width, 3), or a decoded frame cannot be read.
    """
    if isinstance(image, DeviceFrame):
        return DeviceImage(image, image.shape)
    if is_decoded_frame(image):
        frame = as_device_frame(image)
        return DeviceImage(frame, frame.shape)
    if not is_gpu_array(image):
        return None
    shape = tuple(int(side) for side in getattr(image, "shape", ()))
    if len(shape) != 3 or shape[2] != 3 or min(shape) < 1:
        raise ValueError(
            f"{_EXPECTED}, but its shape is {shape}. If it is an NV12 or P010 frame, pass its planes: "
            "retinasdk.DeviceFrame.from_arrays(luma, chroma, matrix=...)."
        )
    return DeviceImage(image, (shape[0], shape[1], shape[2]))


def borrow(image: DeviceImage, stream: int, native: Any) -> DevicePixels:
    """Gives access to the pixels of an image on the GPU.

    Args:
        image: The image.
        stream: Handle of the stream on which the pixels will be read. It waits for pending work of the image's owner.
        native: The module `_native_cuda`.

    Returns:
        The pixels. The memory is valid as long as this object is kept.

    Raises:
        ValueError: If the array has another type or is not stored with channels last.
    """
    if isinstance(image.owner, DeviceFrame):
        return _of_frame(image.owner, stream, native)
    array = read_array(image.owner, stream)
    if array.dtype != "uint8":
        raise ValueError(f"{_EXPECTED}, but its type is {array.dtype}. Convert it to uint8.")
    row_bytes = _row_bytes(image, array.strides)
    if array.stream is not None:
        native.wait_for_stream(stream, array.stream)
    return DevicePixels(array.address, row_bytes, array.owner)


def _of_frame(frame: DeviceFrame, stream: int, native: Any) -> DevicePixels:
    frame.order_before(stream, native)
    return DevicePixels(
        frame.luma,
        frame.row_bytes,
        frame,
        frame.format,
        frame.chroma,
        frame.chroma_row_bytes,
        frame.matrix,
        frame.full_range,
    )


def _row_bytes(image: DeviceImage, strides: tuple[int, ...]) -> int:
    """The distance between two rows in bytes. The strides of axes of length 1 have no meaning."""
    height, width, _ = image.shape
    row = strides[0] if height > 1 else width * 3
    if strides[2] != 1 or (width > 1 and strides[1] != 3):
        raise ValueError(f"{_EXPECTED}, but its strides are {strides}. Make it contiguous.")
    return row
