"""Loads a TensorRT engine: checks its file, deserializes it and finds its tensors by name."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retinasdk.cuda.device import CudaDevice, GpuIdentity, gpu_identity
from retinasdk.cuda.memory import DeviceBuffer, Layout
from retinasdk.errors import DeviceError, ModelError
from retinasdk.pipeline.rules import base_anchors
from retinasdk.spec import ModelSpec
from retinasdk.tensorrt.engine_info import EngineInfo, Fingerprint, Profile
from retinasdk.tensorrt.head_layout import OutputMemory, StoredOutput, head_memory, other_memory
from retinasdk.tensorrt.installed import InstalledTensorRt, import_tensorrt, installed_tensorrts
from retinasdk.tensorrt.supported_chips import how_to_install, runs_on
from retinasdk.tensorrt.versions import (
    collected_errors,
    dtype_of,
    plan_header,
    product,
    reason,
    shared_logger,
)

_log = logging.getLogger("retinasdk")

_BUILD = "retinasdk build model.onnx -o model.engine"
_HEAD_DTYPES = (np.dtype(np.float32), np.dtype(np.float16))  # The types that the kernels support.


class Engine:
    """Holds what all lanes share: the engine, its spec, and the anchors on the GPU.

    The device's context must be current in the calling thread.

    Attributes:
        device: The GPU.
        path: Path of the engine file.
        spec: The spec of the model.
        profile: The input shapes that the engine accepts.
        input_dtype: Type of the network's input.
        output_dtypes: Type of each output of the network, by name.
        tensorrt: Name and version of the TensorRT module that runs the engine.
        base_anchors: GPU address of the base anchors of each feature level.
    """

    def __init__(self, device: CudaDevice, path: Path, spec: ModelSpec | None) -> None:
        """Loads the engine.

        Args:
            device: The GPU.
            path: Path of the engine file. Its JSON file must lie beside it.
            spec: The spec of the model. None: the one in the JSON file.

        Raises:
            ModelError: If the file is not an engine for this machine, or does not fit the spec.
            DeviceError: If the GPU fails, has too little memory, or is not supported by the TensorRT of the engine.
            MissingDependencyError: If TensorRT cannot be imported.
        """
        self.device = device
        self.path = path
        # TensorRT's objects hold pointers to each other and to the logger, which lives as long as the process.
        # Resources are released in this order: contexts, engine, runtime.
        self._runtime: Any = None
        self._engine: Any = None
        self._anchors = DeviceBuffer(device, "anchors")
        try:
            self._open(spec)
        except BaseException:
            self.close()
            raise

    def _open(self, spec: ModelSpec | None) -> None:
        info, gpu = EngineInfo.load(self.path), gpu_identity(self.device.native)
        trt = _import_tensorrt_of(self.path, info, gpu)
        plan = _read_checked(self.path, info, trt, self.device)
        self.tensorrt: str = f"{trt.__name__} {trt.__version__}"
        self.spec: ModelSpec = spec or info.spec
        self.profile: Profile = info.profile
        with collected_errors() as errors:
            try:
                self._runtime = trt.Runtime(shared_logger(trt))
            except TypeError as error:  # of the bindings, for an object that was not made
                raise DeviceError(
                    f"{product(trt)} {trt.__version__} cannot start: {reason(errors, str(error))}. To check the "
                    "machine, run: retinasdk doctor"
                ) from error
            self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise ModelError(
                f"{self.path}: {product(trt)} {trt.__version__} cannot load this engine: "
                f"{reason(errors, 'it gives no reason')}. By its header, {plan_header(plan)}. {_advice(trt, gpu)}"
            )
        self.input_dtype, self.output_dtypes = self._checked_tensors(trt)
        self.base_anchors: list[int] = self._upload_anchors()

    def _checked_tensors(self, trt: Any) -> tuple[np.dtype[Any], dict[str, np.dtype[Any]]]:
        """The types of the input and of each output by name. Raises `ModelError` if they do not fit the spec."""
        spec, path = self.spec, self.path
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        dtypes = {name: np.dtype(dtype_of(self._engine.get_tensor_dtype(name))) for name in names}
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        if inputs != [spec.input]:
            raise ModelError(
                f"{path} must have one input, named {spec.input!r} as in the spec, but its inputs are: "
                f"{', '.join(inputs) or 'none'}. Check that it is a RetinaNet with raw heads and that the spec belongs "
                "to it."
            )
        outputs = {name: dtype for name, dtype in dtypes.items() if name not in inputs}
        heads = [name for level in spec.levels for name in (level.logits, level.deltas)]
        missing = [name for name in heads if name not in outputs]
        if missing:
            raise ModelError(
                f"{path} has no output named {missing[0]!r}, which the spec lists. Its outputs are: "
                f"{', '.join(outputs)}. Check that the spec belongs to it."
            )
        kinds = {outputs[name] for name in heads}
        if len(kinds) > 1 or not {dtypes[spec.input], *kinds} <= set(_HEAD_DTYPES):
            raise ModelError(
                f"{path} has an input of type {dtypes[spec.input]} and heads of type "
                f"{', '.join(sorted(map(str, kinds)))}. The input must be float32 or float16, and all heads must be "
                "one of the two. Export the network in float32 and build the engine again."
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
            # The copy may still run when the call returns, and the lanes' streams do not wait for the default stream.
            self.device.driver.Context.synchronize()
        return [self._anchors.address + field.offset for field in fields]

    def new_context(self) -> Any:
        """Creates an execution context. Each context has its own memory for activations.

        Raises:
            DeviceError: If TensorRT cannot create it, usually for lack of GPU memory.
        """
        with collected_errors() as errors:
            context = self._engine.create_execution_context()
        if context is None:
            raise DeviceError(
                f"{self.path}: TensorRT cannot create an execution context: {reason(errors, 'it gives no reason')}. "
                "The usual cause is too little GPU memory: end other programs on the GPU, or build the engine for "
                "smaller sizes."
            )
        return context

    def stored_outputs(self, context: Any) -> list[StoredOutput]:
        """Asks a context how it stores each output of the network. The shape of its input must be set."""
        return [StoredOutput.ask(self._engine, context, name, dtype) for name, dtype in self.output_dtypes.items()]

    def output_memory(self, stored: Sequence[StoredOutput]) -> dict[str, OutputMemory]:
        """Returns the layout of each output by name.

        Raises:
            ModelError: If the size of an output depends on the image, or if the kernels cannot read a head output.
        """
        unknown = [output.name for output in stored if min(output.shape, default=1) < 0]
        if unknown:
            raise ModelError(
                f"{self.path}: the size of the output {', '.join(unknown)} depends on the content of the image. "
                "Export the network with raw heads, without NMS."
            )
        heads = {name for level in self.spec.levels for name in (level.logits, level.deltas)}
        return {
            output.name: head_memory(output, self.path) if output.name in heads else other_memory(output)
            for output in stored
        }

    def close(self) -> None:
        """Releases the engine and its memory. All execution contexts must be released before."""
        self._anchors.free()
        self._engine = None
        self._runtime = None


def _import_tensorrt_of(path: Path, info: EngineInfo, gpu: GpuIdentity) -> Any:
    """Imports the product that built the engine: neither product can load the engines of the other.

    Raises:
        ModelError: If only the other product is installed.
        DeviceError: If the product does not run on the GPU.
        MissingDependencyError: If it cannot be imported.
    """
    built, here = info.fingerprint, installed_tensorrts()
    same = [item for item in here if built.tensorrt in (None, item.product)]
    others = [item for item in here if item not in same]
    if others and not same:
        raise ModelError(
            f"{path} was built by {built.tensorrt} {built.tensorrt_version}, but {others[0].product} "
            f"{others[0].version} is installed here. {_other_way(others, gpu)}"
        )
    if _any_runs(others, gpu) and not _any_runs(same, gpu):
        raise DeviceError(
            f"{path} is an engine of {same[0]}, which does not support compute capability {_dotted(gpu)} ({gpu.name}). "
            f"Build the engine again for {others[0]} with: {_BUILD}"
        )
    return import_tensorrt(
        f"running {path.name}",
        gpu=gpu,
        only=built.tensorrt,
        otherwise="run the ONNX file of the model with device='cpu'",
    )


def _any_runs(found: Sequence[InstalledTensorRt], gpu: GpuIdentity) -> bool:
    return any(item.runs_on(gpu) is not False for item in found)


def _other_way(here: Sequence[InstalledTensorRt], gpu: GpuIdentity) -> str:
    """What to do if the product that built an engine is missing. Building again helps only if it runs then."""
    if _any_runs(here, gpu):
        return f"Build the engine again on this machine with: {_BUILD}"
    return (
        f"That one does not support this GPU, a {gpu.name}: {how_to_install(gpu.compute_capability, gpu.cuda)}, and "
        f"build the engine again with: {_BUILD}"
    )


def _advice(trt: Any, gpu: GpuIdentity) -> str:
    """What to do about an engine that TensorRT refuses."""
    if runs_on(product(trt), trt.__version__, gpu.compute_capability):
        return f"Build it again on this machine with: {_BUILD}"
    return (
        f"It is unknown whether this version supports compute capability {_dotted(gpu)}. If the engine was built on "
        f"this machine, building it again does not help: {how_to_install(gpu.compute_capability, gpu.cuda)}, or run "
        f"the ONNX file with device='cpu'. Otherwise, build it again with: {_BUILD}"
    )


def _dotted(gpu: GpuIdentity) -> str:
    return ".".join(map(str, gpu.compute_capability))


def _read_checked(path: Path, info: EngineInfo, trt: Any, device: CudaDevice) -> bytes:
    """Reads the plan.

    The info decides whether the plan may fit this machine, and TensorRT whether it does.

    Raises:
        ModelError: If they do not belong together or do not fit this machine.
    """
    plan = path.read_bytes()
    info.check_belongs(plan, path)
    built = info.fingerprint
    # The package's version may have a fifth number. The first three are always there.
    versions = [text and text.split(".")[:3] for text in (built.tensorrt_version, trt.__version__)]
    if versions[0] is not None and versions[0] != versions[1]:
        raise ModelError(
            f"{path} was built by {built.tensorrt} {built.tensorrt_version}, but {product(trt)} {trt.__version__} is "
            f"installed here. Build the engine again on this machine with: {_BUILD}"
        )
    if product(trt) == "tensorrt":
        mismatch = info.mismatch(Fingerprint(compute_capability=device.compute_capability))
        if mismatch is not None:
            raise ModelError(
                f"{path} does not fit this machine: {mismatch}. Use the ONNX file, or build the engine again with: "
                f"{_BUILD}"
            )
        other_gpu = info.mismatch(Fingerprint(gpu=device.name))
        if other_gpu is not None:
            _log.warning("%s: %s. It works, but it is optimized for the other GPU.", path, other_gpu)
    return plan
