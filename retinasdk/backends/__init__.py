"""Where a network runs: the protocol, and the one place that picks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from retinasdk.errors import DeviceError
from retinasdk.spec import ModelSpec

if TYPE_CHECKING:
    import numpy.typing as npt

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class HeadOutputs:
    """Raw outputs of both heads for N images, one entry for each level, C-contiguous, on the backend's device.

    logits: (N, A * K, h, w) float32, before the sigmoid; deltas: (N, A * 4, h, w) float32.
    """

    logits: tuple[npt.NDArray[np.float32], ...]
    deltas: tuple[npt.NDArray[np.float32], ...]


class Backend(Protocol):
    """One loaded network. `infer` may be called from several threads at once."""

    @property
    def spec(self) -> ModelSpec:
        """The spec that came with the model file, or the one given."""

    @property
    def device(self) -> str:
        """Where it runs: "cpu" or "cuda"."""

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that the network takes; None: any."""

    def infer(self, tensor: npt.NDArray[np.float32]) -> HeadOutputs:
        """Runs a normalised (N, 3, h, w) float32 batch."""

    def close(self) -> None:
        """Releases the network; the backend is of no use afterwards. May be called twice."""


def open_backend(path: Path, *, device: str, spec: ModelSpec | None, threads: int | None) -> Backend:
    """Loads the model file on the device. Raises `DeviceError`, `ModelError` or `ValueError`."""
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}; got {device!r}")
    if device == "cuda":
        raise DeviceError(
            f"{path}: device 'cuda' was asked for, but this version of retinasdk has no GPU backend; use device='cpu'"
        )
    from retinasdk.backends.onnx_cpu import OnnxCpuBackend

    return OnnxCpuBackend(path, spec=spec, threads=threads)
