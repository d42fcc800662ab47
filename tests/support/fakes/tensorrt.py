"""The stand-in for `tensorrt`'s runtime: engines that run their ONNX in ONNX Runtime, at the addresses they are given.

Only names that every version from 8.5 to 11 has are here, so that the use of any other name fails at once.

Beliefs about the real TensorRT, most of them UNCONFIRMED, because retinasdk has not run an engine on a GPU yet:

- A plan begins with "ptrt" (TensorRT 8.5), "ftrt" (later ones) or "vtrt" (TensorRT for RTX); the last two have the
  version in bytes 24 to 27. CONFIRMED for 8.5.3 and for TensorRT for RTX 1.7. UNCONFIRMED for TensorRT 8.6 to 11.
  retinasdk does not depend on it: a test writes plans that begin otherwise.
- Functions return None or False on failure, and the reason is only in the log. CONFIRMED by TensorRT for RTX.
- Constructors raise TypeError on failure. CONFIRMED for the runtime of 8.5 without a GPU.
- Without a GPU, a runtime must not be made: some versions crash. CONFIRMED for the lean runtime of 11.4, which ends the
  process, and for 8.5, which raises TypeError.
- Objects must be released in the order contexts, engine, runtime. UNCONFIRMED.
- Addresses of tensors must be aligned to 256 bytes. UNCONFIRMED.
- Up to 8.6, a profile serves one context at a time, if the profile is dynamic; further contexts have the profile -1.
  UNCONFIRMED. retinasdk does not depend on it: tests give None for further contexts, or no usable context.
- The first run of a context for a shape cannot be captured in a CUDA graph, and a graph is not valid any more when the
  shape or an address of its context has changed. UNCONFIRMED.
- An engine's inputs and outputs have the types of the graph or, up to 8.6, those that the builder was told. CONFIRMED
  for the graph by what TensorRT for RTX 1.7 says when it builds. UNCONFIRMED for the others.
- TensorRT for RTX alone can be asked whether a stream can be captured. CONFIRMED by its names, not by a run.
- TensorRT and TensorRT for RTX can be loaded by one process. CONFIRMED for the import of TensorRT 10.13.3 (with
  empty libraries) and TensorRT for RTX 1.7.1, which still makes its builder then. It does not if the libraries of the
  other one are loaded with RTLD_GLOBAL, which NVIDIA's packages do not do. UNCONFIRMED for engines of both.
- Not modeled: GPUs that a product does not support. The table in retinasdk/tensorrt/supported_chips.py lists them with
  sources; of its rows only 9.0 was seen on a GPU.
"""

from __future__ import annotations

import enum
import hashlib
import json
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from fakes.gpu import FakeGpu, RefusedError, memory_at
from fakes.tensor_formats import VECTOR_SIZES, TensorFormat, in_memory, strides
from fakes.tensorrt_builder import add_builder
from retinasdk import ModelSpec
from retinasdk.tensorrt.engine_info import EngineInfo, Fingerprint, Profile

Shape = tuple[int, int, int, int]


class Severity(enum.IntEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class ILogger:
    Severity = Severity


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class DataType(enum.Enum):
    FLOAT, HALF, INT8, INT32, BOOL = range(5)


_ONNX_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16"}
_DTYPES = {np.dtype(np.float32): DataType.FLOAT, np.dtype(np.float16): DataType.HALF, np.dtype(np.int8): DataType.INT8}


def save_engine(
    path: Path,
    onnx: Path,
    spec: ModelSpec,
    *,
    smallest: Shape = (1, 3, 1, 1),
    largest: Shape = (16, 3, 2048, 2048),
    version: str = "10.3.0.30",
    rtx: bool = False,
    dtypes: dict[str, str] | None = None,
    formats: dict[str, str] | None = None,
    gap: int = 0,
    **fingerprint: Any,
) -> Path:
    """Writes a plan that the stand-in for the runtime can load, and its `EngineInfo` beside it.

    Args:
        path: The engine file.
        onnx: The ONNX model that the engine runs.
        spec: The spec of the model.
        smallest: Smallest input shape.
        largest: Largest input shape.
        version: Version of TensorRT, in four numbers.
        rtx: Whether TensorRT for RTX wrote it.
        dtypes: Types of tensors that differ from those in the graph, by name. "heads" means all outputs.
        formats: Formats of outputs that are not row-major, by name. "heads" means all outputs.
        gap: Number of values between the cells of an output with the format HWC.
        **fingerprint: Fields of the fingerprint.

    Returns:
        `path`.
    """
    plan = make_plan(
        onnx.read_bytes(), smallest, largest, version=version, rtx=rtx, dtypes=dtypes, formats=formats, gap=gap
    )
    path.write_bytes(plan)
    made_by = "tensorrt_rtx" if rtx else "tensorrt"
    made_for = {} if rtx else {"compute_capability": (8, 7), "gpu": "Fake GPU"}
    facts: dict[str, Any] = {"tensorrt": made_by, **made_for, **fingerprint}
    info = EngineInfo(
        spec=spec,
        fingerprint=Fingerprint(**facts),
        profile=Profile(smallest, smallest, largest),
        precision="fp32",
        build_seconds=0.0,
        size_bytes=len(plan),
        engine_sha256=hashlib.sha256(plan).hexdigest(),
    )
    info.save(path)
    return path


def magic_of(version: str, *, rtx: bool) -> str:
    """Returns the first four bytes of the plans of a version."""
    return "vtrt" if rtx else "ptrt" if version.startswith("8.5") else "ftrt"


def make_plan(
    onnx: bytes,
    smallest: Sequence[int],
    largest: Sequence[int],
    *,
    version: str,
    rtx: bool,
    dtypes: dict[str, str] | None = None,
    formats: dict[str, str] | None = None,
    gap: int = 0,
) -> bytes:
    """Returns a plan with a header like that of a real one, followed by the ONNX model that its engine runs."""
    shapes = {"smallest": smallest, "largest": largest}
    described = json.dumps({**shapes, "dtypes": dtypes or {}, "formats": formats or {}, "gap": gap}).encode()
    header = magic_of(version, rtx=rtx).encode() + bytes(20) + bytes(map(int, version.split(".")))
    return header + struct.pack("<I", len(described)) + described + onnx


def tensorrt_module(gpu: FakeGpu, version: str, *, rtx: bool) -> ModuleType:
    """Returns the module for a GPU."""
    module: Any = ModuleType("tensorrt_rtx" if rtx else "tensorrt")
    module.__version__ = version
    module.ILogger, module.TensorIOMode, module.DataType = ILogger, TensorIOMode, DataType
    module.TensorFormat = TensorFormat
    if rtx:
        module.ComputeCapability = enum.Enum("ComputeCapability", ["CURRENT"])
    add_builder(module, gpu, version, rtx=rtx)

    class BoundRuntime(Runtime):
        def __init__(self, logger: ILogger) -> None:
            try:
                gpu.call("createInferRuntime")
            except RefusedError as refusal:
                logger.log(Severity.ERROR, str(refusal))
                raise TypeError("pybind11::init(): factory function returned nullptr") from None
            super().__init__(gpu, logger, version, magic_of(version, rtx=rtx))

    module.Runtime = BoundRuntime
    return module


class _Counted:
    """Reports its creation and its end to the GPU. It is a fault if it ends before what was made from it."""

    def __init__(self, gpu: FakeGpu, made_from: _Counted | None = None) -> None:
        self._gpu = gpu
        self._kind = type(self).__name__.removeprefix("Bound")
        self._children = [0]
        self._siblings = made_from._children if made_from else [0]
        self._siblings[0] += 1
        if gpu.devices == 0:
            gpu.fault(f"a {self._kind} was made without a GPU, which crashes some versions")
        gpu.born(self._kind)

    def __del__(self) -> None:
        if not hasattr(self, "_siblings"):
            return  # Its constructor failed.
        if self._children[0]:
            self._gpu.fault(f"the {self._kind} went before what was made from it")
        if not self._gpu.primary_context_users:
            self._gpu.fault(f"the {self._kind} went after the CUDA context")
        self._siblings[0] -= 1
        self._gpu.gone(self._kind)


class Runtime(_Counted):
    def __init__(self, gpu: FakeGpu, logger: Any, version: str, magic: str) -> None:
        super().__init__(gpu)
        self._logger, self._version, self._magic = logger, version, magic

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        if plan[:4].decode("latin1") != self._magic:
            return self._fail("deserializeCudaEngine: Error Code 1: header.magicTag == kEXPECTED_MAGIC_TAG failed")
        if list(map(str, plan[24:27])) != self._version.split(".")[:3]:
            return self._fail("deserializeCudaEngine: Error Code 6: the plan file is of another version")
        end = 32 + struct.unpack("<I", plan[28:32])[0]
        try:
            self._gpu.step("deserialize")
            return Engine(self, json.loads(plan[32:end]), plan[end:])
        except Exception as error:  # TensorRT logs, and gives None
            return self._fail(str(error).splitlines()[0])

    def _fail(self, message: str) -> None:
        self._logger.log(Severity.ERROR, message)


class Network:
    """What an engine computes; its contexts use it too, and do not keep the engine alive."""

    def __init__(self, described: dict[str, Any], onnx: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        # Q/DQ as it is written: ONNX Runtime's int8 kernels saturate on processors without VNNI.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        self._session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        self.smallest, self.largest = tuple(described["smallest"]), tuple(described["largest"])
        self.inputs = [item.name for item in self._session.get_inputs()]
        self.outputs = [item.name for item in self._session.get_outputs()]
        self.names = self.inputs + self.outputs
        tensors = (*self._session.get_inputs(), *self._session.get_outputs())
        self._in_graph = {item.name: _ONNX_DTYPES[item.type] for item in tensors}
        self._dtypes = {**self._in_graph, **described["dtypes"]}
        if "heads" in self._dtypes:
            self._dtypes |= dict.fromkeys(self.outputs, self._dtypes.pop("heads"))
        self._formats, self.gap = described["formats"], described["gap"]
        self._shapes: dict[tuple[int, ...], dict[str, tuple[int, ...]]] = {}

    def dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(self._dtypes[name])

    def format(self, name: str) -> TensorFormat:
        of_all = "LINEAR" if name in self.inputs else self._formats.get("heads", "LINEAR")
        return TensorFormat[self._formats.get(name, of_all)]

    def run(self, pixels: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        outputs = self._session.run(self.outputs, {self.inputs[0]: pixels.astype(self._in_graph[self.inputs[0]])})
        return {name: output.astype(self.dtype(name)) for name, output in zip(self.outputs, outputs, strict=True)}

    def output_shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        if shape not in self._shapes:
            self._shapes[shape] = {name: output.shape for name, output in self.run(np.zeros(shape)).items()}
        return self._shapes[shape][name]


class Engine(_Counted):
    def __init__(self, runtime: Runtime, described: dict[str, Any], onnx: bytes) -> None:
        self._network = Network(described, onnx)
        self._runtime_facts = (runtime._logger, runtime._version, runtime._magic)
        super().__init__(runtime._gpu, runtime)

    @property
    def num_io_tensors(self) -> int:
        return len(self._network.names)

    def get_tensor_name(self, index: int) -> str:
        return self._network.names[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._network.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return _DTYPES[self._network.dtype(name)]

    def get_tensor_format(self, name: str) -> TensorFormat:
        return self._network.format(name)

    def get_tensor_vectorized_dim(self, name: str) -> int:
        return 1 if self._network.format(name) in VECTOR_SIZES else -1

    def get_tensor_components_per_element(self, name: str) -> int:
        return VECTOR_SIZES.get(self._network.format(name), -1)

    def create_execution_context(self) -> Any:
        logger, version, magic = self._runtime_facts
        try:
            self._gpu.step("create_execution_context")
        except RefusedError as refusal:
            logger.log(Severity.ERROR, str(refusal))
            return None
        # Up to 8.6 a profile belongs to one context at a time.
        is_shared = int(version.split(".", maxsplit=1)[0]) >= 10 or self._network.smallest == self._network.largest
        profile = 0 if is_shared or not self._children[0] else -1
        context = ExecutionContext(self, self._network, logger, profile)
        if magic == "vtrt":  # Only TensorRT for RTX has this function.
            context.is_stream_capturable = lambda stream: self._gpu.refuse != "ask"
        return context


class ExecutionContext(_Counted):
    is_stream_capturable: Any

    def __init__(self, engine: Engine, network: Network, logger: Any, profile: int) -> None:
        super().__init__(engine._gpu, engine)
        self._network, self._logger = network, logger
        self.active_optimization_profile = profile
        self._shape: tuple[int, ...] | None = None
        self._addresses: dict[str, int] = {}
        self._is_prepared = False
        self._version = 0  # A captured graph is valid for the version that it was captured with.

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        bounds = zip(self._network.smallest, shape, self._network.largest, strict=True)
        if self.active_optimization_profile < 0 or not all(low <= side <= high for low, side, high in bounds):
            return self._fail("IExecutionContext::setInputShape: Error Code 3: set dimensions violate the profile")
        if not self._is_done("setInputShape"):
            return False
        if tuple(shape) != self._shape:
            self._shape, self._is_prepared = tuple(shape), False
            self._version += 1
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert self._shape is not None
        return self._network.output_shape(name, self._shape)

    def get_tensor_strides(self, name: str) -> tuple[int, ...]:
        return strides(self._network.format(name), self.get_tensor_shape(name), self._network.gap)

    def set_tensor_address(self, name: str, address: int) -> bool:
        if address % 256:
            return self._fail("IExecutionContext::setTensorAddress: Error Code 3: the address is not aligned")
        if not self._is_done("setTensorAddress"):
            return False
        self._addresses[name] = address
        self._version += 1
        return True

    def execute_async_v3(self, stream: int) -> bool:
        missing = [name for name in self._network.names if name not in self._addresses]
        if self._shape is None or missing:
            return self._fail(f"IExecutionContext::enqueueV3: Error Code 3: no shape, or no address of {missing}")
        try:
            self._gpu.step("enqueueV3")
        except RefusedError as refusal:
            return self._fail(str(refusal))
        if self._gpu.is_capturing(stream):
            if not self._is_prepared:
                self._gpu.fault("the first run for a shape was captured")
            if self._gpu.refuse == "execute":
                return self._fail("IExecutionContext::enqueueV3: Error Code 1: operation not permitted when capturing")
        self._is_prepared = True
        shape, addresses, version = self._shape, dict(self._addresses), self._version

        def work() -> None:
            if self._version != version:
                self._gpu.fault("a graph ran whose context has changed since")
            name = self._network.inputs[0]
            pixels = self._memory(addresses[name], shape, self._network.dtype(name))
            for name, values in self._network.run(pixels).items():
                output = in_memory(self._network.format(name), values, self._network.gap)
                self._memory(addresses[name], output.shape, output.dtype)[...] = output

        self._gpu.enqueue(stream, "network", work)
        return True

    def _is_done(self, call: str) -> bool:
        try:
            self._gpu.call(call)
        except RefusedError as refusal:
            return self._fail(str(refusal))
        return True

    def _memory(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        self._gpu.check_range(address, math.prod(shape) * dtype.itemsize, "the network")
        return memory_at(address, shape, dtype)

    def _fail(self, message: str) -> bool:
        self._logger.log(Severity.ERROR, message)
        return False
