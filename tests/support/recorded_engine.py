"""Writes engines for the stand-in of TensorRT's C++ library (tests/support/tensorrt_on_cpu): recorded heads.

An engine holds the network's inputs for given images and the heads that ONNX Runtime computes for them, so that the C++
library needs no network. Its JSON is written by the package's own `EngineInfo`.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retinasdk import ModelSpec
from retinasdk.pipeline.preprocess import Transform, preprocess
from retinasdk.pipeline.types import HeadOutputs
from retinasdk.tensorrt.engine_info import EngineInfo, Fingerprint, Profile

Shape = tuple[int, int, int, int]
Image = npt.NDArray[np.uint8]

# What the emulated CUDA runtime reports (tests/support/cuda_on_cpu/runtime.cpp).
GPU, COMPUTE_CAPABILITY = "emulated on the CPU", (8, 7)


class Recorder:
    """Collects inputs and heads of a network.

    Attributes:
        heads: The heads of each recorded batch, as float32, in the order of the calls of `add`.
    """

    def __init__(self, backend: Any, *, input_dtype: str = "float32", head_dtype: str = "float32") -> None:
        """Creates an empty table.

        Args:
            backend: A CPU backend, whose `infer` computes the heads.
            input_dtype: Type of the engine's input. The network gets the values that this type can hold.
            head_dtype: Type of the engine's heads. Heads are rounded to it.
        """
        self._backend, self._input, self._head = backend, np.dtype(input_dtype), np.dtype(head_dtype)
        self.spec: ModelSpec = backend.spec
        self.heads: list[HeadOutputs] = []
        self._entries: list[dict[str, Any]] = []
        self._values = bytearray()

    def add(self, images: Sequence[Image]) -> None:
        """Records one batch, whose images have one padded size."""
        transforms = [Transform.plan(image.shape[:2], self.spec) for image in images]
        tensor = preprocess(images, transforms, self.spec).tensor.astype(self._input).astype(np.float32)
        heads = self._backend.infer(tensor)
        rounded = [
            [item.astype(self._head).astype(np.float32) for item in kind] for kind in (heads.logits, heads.deltas)
        ]
        self.heads.append(HeadOutputs(tuple(rounded[0]), tuple(rounded[1])))
        outputs = []
        for array in (*rounded[0], *rounded[1]):
            outputs.append({"shape": array.shape, "offset": len(self._values)})
            self._values += array.tobytes()
        digest = hashlib.sha256(tensor.tobytes()).hexdigest()
        self._entries.append({"shape": tensor.shape, "sha256": digest, "outputs": outputs})

    def save(
        self,
        path: Path,
        *,
        version: str,
        smallest: Shape = (1, 3, 1, 1),
        largest: Shape = (8, 3, 2048, 2048),
        formats: Mapping[str, str] | None = None,
        gap: int = 0,
        **fingerprint: Any,
    ) -> Path:
        """Writes the engine and its `EngineInfo`.

        Args:
            path: The engine file.
            version: Version of TensorRT, in three numbers.
            smallest: Smallest input shape.
            largest: Largest input shape.
            formats: Formats of tensors that are not row-major, by name. "heads" means all heads.
            gap: Number of values between the cells of a head with the format HWC.
            **fingerprint: Fields of the fingerprint that differ from those of this machine.

        Returns:
            `path`.
        """
        levels = self.spec.levels
        described = json.dumps(
            {
                "smallest": smallest,
                "largest": largest,
                "dtypes": {"inputs": self._input.name, "heads": self._head.name},
                "formats": dict(formats or {}),
                "gap": gap,
                "inputs": [self.spec.input],
                "outputs": [*(level.logits for level in levels), *(level.deltas for level in levels)],
                "entries": self._entries,
            }
        ).encode()
        magic = b"ptrt" if version.startswith("8.5") else b"ftrt"
        header = magic + bytes(20) + bytes([*map(int, version.split(".")), 0])
        plan = header + struct.pack("<I", len(described)) + described + self._values
        path.write_bytes(plan)
        facts: dict[str, Any] = {
            "tensorrt": "tensorrt",
            "tensorrt_version": version,
            "gpu": GPU,
            "compute_capability": COMPUTE_CAPABILITY,
            **fingerprint,
        }
        EngineInfo(
            spec=self.spec,
            fingerprint=Fingerprint(**facts),
            profile=Profile(smallest, smallest, largest),
            precision="fp32",
            build_seconds=0.0,
            size_bytes=len(plan),
            engine_sha256=hashlib.sha256(plan).hexdigest(),
            input_dtype=self._input.name,
            head_dtype=self._head.name,
        ).save(path)
        return path
