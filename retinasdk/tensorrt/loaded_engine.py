"""A TensorRT engine in memory: its file checked, deserialised, its tensors known by name."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from retinasdk.cuda.device import CudaDevice
from retinasdk.cuda.memory import DeviceBuffer, Layout
from retinasdk.errors import DeviceError, ModelError
from retinasdk.pipeline.rules import base_anchors
from retinasdk.spec import ModelSpec
from retinasdk.tensorrt.engine_info import EngineInfo, Fingerprint, Profile
from retinasdk.tensorrt.versions import (
    check_plan_version,
    collected_errors,
    dtype_of,
    import_tensorrt,
    product,
    reason,
    shared_logger,
)

_log = logging.getLogger("retinasdk")

_HEAD_DTYPES = (np.dtype(np.float32), np.dtype(np.float16))  # what the kernels read and write


class Engine:
    """What all lanes of a network share: the engine, its spec, the anchors on the GPU.

    profile: the shapes that it takes. output_dtypes: by name. base_anchors: an address for each level.
    Every method wants the device's context to be current.

    Raises `ModelError` for files that are no engine, or not one for this machine, `DeviceError` for the GPU.
    """

    def __init__(self, device: CudaDevice, path: Path, spec: ModelSpec | None) -> None:
        self.device = device
        self.path = path
        # TensorRT's objects point at each other and at the logger, which outlives all engines of the process: contexts
        # have to go first, then the engine, then its runtime.
        self._runtime: Any = None
        self._engine: Any = None
        self._anchors = DeviceBuffer(device, "anchors")
        try:
            self._open(import_tensorrt("running engines"), spec)
        except BaseException:
            self.close()
            raise

    def _open(self, trt: Any, spec: ModelSpec | None) -> None:
        plan, info = _read_checked(self.path, trt, self.device)
        self.spec: ModelSpec = spec or info.spec
        self.profile: Profile = info.profile
        with collected_errors() as errors:
            self._runtime = trt.Runtime(shared_logger(trt))
            self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise ModelError(
                f"{self.path}: TensorRT cannot load it: {reason(errors, 'it gives no reason')}; "
                "build it again on this machine"
            )
        self.input_dtype, self.output_dtypes = self._checked_tensors(trt)
        self.base_anchors: list[int] = self._upload_anchors()

    def _checked_tensors(self, trt: Any) -> tuple[np.dtype[Any], dict[str, np.dtype[Any]]]:
        """(dtype of the input, dtype of each output by name). Raises `ModelError` unless they are the spec's."""
        spec, path = self.spec, self.path
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        dtypes = {name: np.dtype(dtype_of(self._engine.get_tensor_dtype(name))) for name in names}
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        if inputs != [spec.input]:
            raise ModelError(
                f"{path}: wanted one input named {spec.input!r}, got {', '.join(inputs) or 'none'}; "
                "is it a RetinaNet with raw heads, and does the spec belong to it?"
            )
        outputs = {name: dtype for name, dtype in dtypes.items() if name not in inputs}
        heads = [name for level in spec.levels for name in (level.logits, level.deltas)]
        missing = [name for name in heads if name not in outputs]
        if missing:
            raise ModelError(
                f"{path}: wanted an output named {missing[0]!r}, got {', '.join(outputs)}; does the spec belong to it?"
            )
        kinds = {outputs[name] for name in heads}
        if len(kinds) > 1 or not {dtypes[spec.input], *kinds} <= set(_HEAD_DTYPES):
            raise ModelError(
                f"{path}: wanted float32 or float16 for the input, and one of them for all heads; got "
                f"{dtypes[spec.input]} and {', '.join(sorted(map(str, kinds)))}; export it in float32"
            )
        return dtypes[spec.input], outputs

    def _upload_anchors(self) -> list[int]:
        arrays, layout = base_anchors(self.spec), Layout()
        fields = [layout.add(array.shape, array.dtype) for array in arrays]
        block = np.zeros(layout.size_bytes, np.uint8)
        for field, array in zip(fields, arrays, strict=True):
            field.view(block)[...] = array
        self._anchors.reserve(layout.size_bytes)
        with self.device.doing("copying anchors to the GPU"):
            self.device.driver.memcpy_htod(self._anchors.address, block)
            # It may return before the last of it has arrived, and lanes do not wait for the default stream.
            self.device.driver.Context.synchronize()
        return [self._anchors.address + field.offset for field in fields]

    def new_context(self) -> Any:
        """An execution context, with memory of its own for activations."""
        with collected_errors() as errors:
            context = self._engine.create_execution_context()
        if context is None:
            raise DeviceError(
                f"{self.path}: TensorRT makes no execution context: {reason(errors, 'it gives no reason')}; most often "
                "memory is short: end other programs on the GPU, or build the engine for smaller sizes"
            )
        return context

    def close(self) -> None:
        """Releases everything; the contexts must be gone."""
        self._anchors.free()
        self._engine = None
        self._runtime = None


def _read_checked(path: Path, trt: Any, device: CudaDevice) -> tuple[bytes, EngineInfo]:
    """The plan and its info, if they are one for the other and for this machine."""
    info = EngineInfo.load(path)
    plan = path.read_bytes()
    info.check_belongs(plan, path)
    check_plan_version(plan, trt, str(path))
    if product(trt) == "tensorrt":
        mismatch = info.mismatch(Fingerprint(compute_capability=device.compute_capability))
        if mismatch is not None:
            raise ModelError(f"{path}: {mismatch}; build it again on this machine, or give the ONNX file")
        other_gpu = info.mismatch(Fingerprint(gpu=device.name))
        if other_gpu is not None:
            _log.warning("%s: %s; it will work, but is tuned for the other", path, other_gpu)
    return plan, info
