"""The `Backend` protocol, and the function that chooses and opens a backend."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from retinasdk.backends.convolution import CONVOLUTIONS, DEFAULT_CONVOLUTION, ConvolutionChoice
from retinasdk.pipeline.suppression import AS_FRAMEWORK, Suppression
from retinasdk.pipeline.types import HeadOutputs
from retinasdk.spec import ModelSpec
from retinasdk.tensorrt.engine_info import ENGINE_SUFFIX

if TYPE_CHECKING:
    import numpy.typing as npt

    from retinasdk.images import ImageInput
    from retinasdk.pipeline.call_options import Thresholds
    from retinasdk.pipeline.preprocess import Transform
    from retinasdk.pipeline.types import Kept

DEVICES = ("auto", "cpu", "cuda")

_log = logging.getLogger("retinasdk")


class Backend(Protocol):
    """A loaded network with its pre- and post-processing on one device. Several threads may call it at once."""

    @property
    def spec(self) -> ModelSpec:
        """The spec of the model: the one that was given, or the one of the model file."""

    @property
    def device(self) -> str:
        """The device that it runs on: "cpu" or "cuda"."""

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that the network accepts, or None. The backend pads smaller batches to it."""

    @property
    def max_batch(self) -> int | None:
        """The largest batch that the network accepts, or None if there is no limit."""

    @property
    def convolution(self) -> ConvolutionChoice | None:
        """Which convolutions the network uses on the CPU, and why. None on the GPU."""

    def read(self, image: ImageInput) -> Any:
        """Reads an image for `detect`.

        Args:
            image: Anything that `images.as_rgb` accepts, and images on the device if the backend supports them.

        Returns:
            The image for `detect`, with the attribute `shape`: (H, W, 3).

        Raises:
            ImageError: If it cannot be read.
            TypeError: If it is not an image.
            ValueError: If an array has an unsupported dtype or shape.
        """

    def detect(
        self,
        images: Sequence[Any],
        transforms: Sequence[Transform],
        *,
        score_threshold: Thresholds,
        class_ids: Sequence[int],
        ignore: npt.NDArray[np.float32] | None = None,
    ) -> list[Kept]:
        """Preprocesses images, runs the network, decodes its outputs and resolves overlapping boxes.

        Args:
            images: Images that `read` returned.
            transforms: One transform for each image, all with the same padded size.
            score_threshold: Lowest confidence score, for all classes or for each class index.
            class_ids: Indices of the classes to detect. Empty: all classes.
            ignore: (R, 4) float32 xyxy regions in pixels of the original images whose boxes are dropped, at most 64.

        Returns:
            The boxes of each image, in pixels of the network input.

        Raises:
            DeviceError: If the backend is closed, its process was forked, or the device fails.
            ModelError: If the network fails or its outputs do not fit the spec.
        """

    def infer(self, tensor: npt.NDArray[np.float32]) -> HeadOutputs:
        """Runs the network alone.

        Args:
            tensor: (N, 3, h, w) float32 in host memory: normalized images.

        Returns:
            The raw head outputs, in host memory.

        Raises:
            DeviceError: If the backend is closed, its process was forked, or the device fails.
            ModelError: If the network fails.
        """

    def for_workers(self) -> tuple[Backend, int]:
        """Returns a backend of the same network for calls from many threads, and how many threads to use.

        The returned backend is closed together with this one.

        Raises:
            DeviceError: If the backend is closed.
        """

    def close(self) -> None:
        """Releases the network. Later calls raise `DeviceError`. May be called more than once and from any thread."""


def open_backend(
    path: Path,
    *,
    device: str,
    spec: ModelSpec | None,
    threads: int | None,
    precision: str | None,
    suppression: Suppression = AS_FRAMEWORK,
    convolution: str = DEFAULT_CONVOLUTION,
) -> Backend:
    """Loads a model file on a device.

    Args:
        path: An ONNX file, or a TensorRT engine.
        device: "cpu", "cuda", or "auto" for the GPU if it can be used, else the CPU.
        spec: Spec of the model. None: the one that belongs to the file.
        threads: Number of CPU threads per call. None: one for each core. Ignored on the GPU.
        precision: Precision of an engine that is built for an ONNX file. None: "fp16". Ignored on the CPU.
        suppression: How overlapping boxes are resolved.
        convolution: On the CPU, "direct": the convolutions of ONNX Runtime; "blocked": those of retinasdk; "auto":
            what is faster on this machine. Ignored on the GPU.

    Returns:
        The backend.

    Raises:
        DeviceError: If the device cannot be used.
        ModelError: If the file cannot be loaded, has no spec, or does not fit its spec.
        MissingDependencyError: If a package that the device needs is not installed.
        ValueError: If `device` or `convolution` is unknown, or an engine is to run on the CPU.
    """
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}; got {device!r}")
    if convolution not in CONVOLUTIONS:
        raise ValueError(f"convolution must be one of {', '.join(CONVOLUTIONS)}; got {convolution!r}")
    is_engine = path.suffix == ENGINE_SUFFIX
    if device == "auto":
        device = "cuda" if is_engine else _device_here(path.name)
    if device == "cuda":
        from retinasdk.tensorrt.backend import TensorRtBackend

        return TensorRtBackend(path, spec=spec, precision=precision, suppression=suppression)
    if is_engine:
        raise ValueError(
            f"{path} is a TensorRT engine, which runs only on the GPU, but device is 'cpu'; give the ONNX file that it "
            "was built from, or device='cuda'"
        )
    from retinasdk.backends.onnx_cpu import OnnxCpuBackend

    return OnnxCpuBackend(path, spec=spec, threads=threads, suppression=suppression, convolution=convolution)


def _device_here(name: str) -> str:
    """Chooses the device for an ONNX file, and logs why."""
    from retinasdk.tensorrt.installed import choose_for_gpu

    choice = choose_for_gpu()
    device = "cpu" if choice.tensorrt is None else "cuda"
    # Whoever installed a TensorRT for this GPU expects that it is used.
    is_surprise = choice.tensorrt is None and bool(choice.refused)
    _log.log(logging.WARNING if is_surprise else logging.INFO, "%s runs on %s: %s", name, device, choice.why)
    return device
