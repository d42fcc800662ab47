"""The first part of a frame on the GPU: images are copied there, resized, and written into the network's input."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk.cuda.device import CudaDevice, CudaStream
from retinasdk.cuda.device_image import DeviceImage, DevicePixels, borrow
from retinasdk.cuda.memory import ALIGNMENT, DeviceBuffer, Field, Layout, SharedBuffer
from retinasdk.pipeline.preprocess import Transform
from retinasdk.spec import ModelSpec

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True)
class PreparedImages:
    """The images of one call, ready to be launched.

    Attributes:
        key: Identifies what `LaneImages.launch` launches: sizes, formats and addresses, but no pixels.
        upload_bytes: Size of the images to copy to the GPU.
        arguments: Arguments of `_native_cuda.preprocess` for each image.
        pixels: Keep the memory of images on the GPU alive.
    """

    key: Hashable
    upload_bytes: int
    arguments: tuple[dict[str, Any], ...]
    pixels: tuple[DevicePixels, ...]


class LaneImages:
    """Holds the memory for the images of a lane: a pinned block, its twin on the GPU, and scratch for the resize.

    The device's context must be current in the calling thread.
    """

    def __init__(self, device: CudaDevice, spec: ModelSpec, stream: CudaStream) -> None:
        """Allocates nothing yet.

        Args:
            device: The GPU.
            spec: The spec of the model.
            stream: Stream of the lane.
        """
        self._device = device
        self._native = device.native
        self._spec = spec
        self._stream = stream
        # If the GPU shares the CPU's memory, data that is read once is not copied.
        self._block = SharedBuffer(device, "images", mapped=device.integrated)
        self._scratch = DeviceBuffer(device, "resizing")
        # How often a block has grown. Graphs of before would use memory that was freed, also where only one address of
        # a block changed, so this is a part of their keys.
        self._moves = 0
        resize, normalise = spec.resize, spec.normalise
        self._constant: dict[str, Any] = {
            "eight_bit": resize.eight_bit,
            "mean": normalise.mean,
            "std": normalise.std,
            "reverse_channels": normalise.channels == "BGR",
        }

    def prepare(
        self,
        images: Sequence[npt.NDArray[np.uint8] | DeviceImage],
        transforms: Sequence[Transform],
        target: Field,
        address: int,
    ) -> PreparedImages:
        """Copies images of the host into the pinned block, and makes the stream wait for those on the GPU.

        No launched work may still use the memory of an earlier call.

        Args:
            images: The images.
            transforms: How each of them is resized.
            target: The network's input.
            address: Address of the network's input.

        Returns:
            What to launch. Keep it until that work is done.

        Raises:
            DeviceError: If the GPU has too little memory.
            ValueError: If an image on the GPU has another type or layout than expected.
        """
        sizes = [
            {
                "size": image.shape[:2],
                "resized": transform.resized,
                "padded": transform.padded,
                "antialias": self._spec.resize.antialias,
            }
            for image, transform in zip(images, transforms, strict=True)
        ]
        scratch_bytes = max(self._native.preprocess_scratch_bytes(**size) for size in sizes)
        self._moves += self._scratch.reserve(max(scratch_bytes, ALIGNMENT))
        uploads = Layout()
        # Each image once: a batch may be padded with copies of one image.
        on_host = {id(image): image for image in images if not isinstance(image, DeviceImage)}
        places = {name: uploads.add(image.shape, np.uint8) for name, image in on_host.items()}
        if places:
            self._moves += self._block.reserve(uploads.size_bytes)
        pixels: dict[int, DevicePixels] = {}
        for image in images:
            if id(image) not in pixels:
                pixels[id(image)] = self._pixels(image, places)
        bytes_of_one = math.prod(target.shape[1:]) * target.dtype.itemsize
        described = [
            {**pixels[id(image)].source_arguments(), **size, "source_step": transform.source_step}
            for image, transform, size in zip(images, transforms, sizes, strict=True)
        ]
        shared = {
            **self._constant,
            "dtype": target.dtype.name,
            "scratch": self._scratch.address,
            "scratch_bytes": scratch_bytes,
        }
        return PreparedImages(
            key=(self._moves, tuple(tuple(one.items()) for one in described)),
            upload_bytes=max((place.offset + math.prod(place.shape) for place in places.values()), default=0),
            arguments=tuple(
                {**one, **shared, "output": address + index * bytes_of_one} for index, one in enumerate(described)
            ),
            pixels=tuple(pixels.values()),
        )

    def _pixels(self, image: npt.NDArray[np.uint8] | DeviceImage, places: dict[int, Field]) -> DevicePixels:
        if isinstance(image, DeviceImage):
            return borrow(image, self._stream.handle, self._native)
        place = places[id(image)]
        place.view(self._block.host)[...] = image
        return DevicePixels(self._block.address + place.offset, image.shape[1] * 3, None)

    def launch(self, prepared: PreparedImages) -> None:
        """Launches one copy for all images of the host, and the resize of each image.

        Raises:
            DeviceError: If a launch fails.
        """
        if prepared.upload_bytes:
            with self._device.doing("copying images to the GPU"):
                self._block.upload(0, prepared.upload_bytes, self._stream)
        for arguments in prepared.arguments:
            self._native.preprocess(**arguments, stream=self._stream.handle)

    def free(self) -> None:
        """Frees the memory."""
        try:
            self._block.free()
        finally:
            self._scratch.free()
