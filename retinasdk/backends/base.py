"""Where a network runs: the protocol, and the one place that picks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

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
CONVOLUTIONS = ("auto", "direct")
DEFAULT_CONVOLUTION = CONVOLUTIONS[0]

_log = logging.getLogger("retinasdk")


class Backend(Protocol):
    """One loaded network, and what belongs around it on its device. May be used from several threads at once."""

    @property
    def spec(self) -> ModelSpec:
        """The spec that came with the model file, or the one given."""

    @property
    def device(self) -> str:
        """Where it runs: "cpu" or "cuda"."""

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that the network takes; None: any up to `max_batch`. Smaller ones are filled up here."""

    @property
    def max_batch(self) -> int | None:
        """The largest batch that the network takes; None: any."""

    def read(self, image: ImageInput) -> Any:
        """The image as `detect` takes it, with its `shape`: (H, W, 3). Raises as `images.as_rgb`."""

    def detect(
        self,
        images: Sequence[Any],
        transforms: Sequence[Transform],
        *,
        score_threshold: Thresholds,
        class_ids: Sequence[int],
        ignore: npt.NDArray[np.float32] | None = None,
    ) -> list[Kept]:
        """Preprocess, network, decode and NMS for images that were `read`, of one padded size: what is left of each.

        ignore: (R, 4) float32, regions as `postprocess.decode` takes them, at most 64.
        """

    def infer(self, tensor: npt.NDArray[np.float32]) -> HeadOutputs:
        """The network alone: raw heads of a normalised (N, 3, h, w) float32 batch, both on the host."""

    def for_workers(self) -> tuple[Backend, int]:
        """The same network for work from many threads at once, and how many keep the device busy. Closed with this."""

    def close(self) -> None:
        """Releases the network; the backend is of no use afterwards. May be called twice, and from any thread."""


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
    """Loads the model file on the device. Raises `DeviceError`, `ModelError` or `ValueError`."""
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}; got {device!r}")
    if convolution not in CONVOLUTIONS:
        raise ValueError(f"convolution must be one of {', '.join(CONVOLUTIONS)}; got {convolution!r}")
    is_engine = path.suffix == ENGINE_SUFFIX
    if device == "auto":
        from retinasdk.cuda.device import why_no_gpu

        reason = None if is_engine else why_no_gpu()
        device = "cpu" if reason else "cuda"
        _log.info("%s runs on %s%s", path.name, device, f": {reason}" if reason else "")
    if device == "cuda":
        from retinasdk.tensorrt.backend import TensorRtBackend

        return TensorRtBackend(path, spec=spec, precision=precision, suppression=suppression)
    if is_engine:
        raise ValueError(
            f"{path}: a TensorRT engine runs on the GPU, got device='cpu'; give the ONNX file it was built of"
        )
    from retinasdk.backends.onnx_cpu import OnnxCpuBackend

    return OnnxCpuBackend(path, spec=spec, threads=threads, suppression=suppression, convolution=convolution)
