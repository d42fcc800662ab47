"""The stand-in for TensorRT's parser and builder: plans that hold the ONNX model they were built from.

Beliefs about the real TensorRT:

- Each version has the names and flag values that `add_builder` gives it. CONFIRMED with the Python bindings of 8.5,
  8.6, 10.3, 10.13, 10.16, 11.4 and TensorRT for RTX 1.7.
- The parser reports errors in a list, with the node from 10 on, and custom operators as missing plugins. CONFIRMED by
  TensorRT for RTX 1.7, whose texts are those here. UNCONFIRMED for others.
- Models with float16 and int8 types in the graph are built as they are. CONFIRMED by TensorRT for RTX 1.7, which builds
  all our models (tests/tensorrt/test_build_real.py). UNCONFIRMED for TensorRT 10 and 11.
- Up to 8.6, the flags FP16 and INT8 choose the precision, and a type can be set for inputs and outputs. CONFIRMED for
  the flag FP16 by TensorRT 8.5.3, which built `people` on the H200. UNCONFIRMED for INT8 and for float16 outputs: only
  the names were seen, in the Python bindings of 8.6.1. retinasdk runs an engine whose types differ from those it asked.
- Of the formats that are allowed for an output, it takes one with channels last. A build fails if it does not have one
  of the formats for the type of the tensor. CONFIRMED by TensorRT for RTX 1.7, which prefers HWC to LINEAR, also in
  float16, and fails with HWC8 or LINEAR in float32. UNCONFIRMED for others.
- From 10 on, inputs and outputs have their types in the graph, and setting another one is an error. CONFIRMED for the
  types by TensorRT for RTX 1.7. retinasdk sets none there.
- The progress monitor reports nested phases, and the build ends when a step returns False. CONFIRMED by TensorRT for
  RTX 1.7. UNCONFIRMED for 10 and 11.
- A timing cache that does not fit is rejected with None. UNCONFIRMED.
- A builder of TensorRT must not be made without a GPU; that of TensorRT for RTX may. CONFIRMED for 8.5, which raises
  TypeError, and for TensorRT for RTX.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

import onnx

from fakes.gpu import FakeGpu
from fakes.tensor_formats import TensorFormat, holds

_NAMES = {"FLOAT": "float32", "HALF": "float16"}
_STEPS = 6  # of the outermost phase, as TensorRT for RTX has


@dataclass
class BuildRecord:
    """The options of a build, as they arrived.

    Attributes:
        flags: Builder flags that were set.
        cleared: Builder flags that were cleared.
        network_flags: Flags of the network.
        dtypes: Types that were set for inputs and outputs, by name.
        formats: Bit masks of the formats allowed for inputs and outputs, by name.
        workspace_bytes: Limit of the scratch memory.
        optimization_level: Optimization level.
        timing_cache: Content of the timing cache.
        model: The ONNX model.
    """

    flags: set[str] = field(default_factory=set)
    cleared: set[str] = field(default_factory=set)
    network_flags: int = 0
    dtypes: dict[str, str] = field(default_factory=dict)
    formats: dict[str, int] = field(default_factory=dict)
    workspace_bytes: int | None = None
    optimization_level: int | None = None
    timing_cache: bytes | None = None
    model: Any = None


def add_builder(module: Any, gpu: FakeGpu, version: str, *, rtx: bool) -> None:
    """Adds the names of the parser and builder that a version has. Every build adds a `BuildRecord` to `gpu.built`."""
    major, minor = (int(number) for number in version.split(".")[:2])
    typed_only = rtx or major >= 11
    gpu.built = []  # type: ignore[attr-defined]
    # The values of each version: bit 0 changed its meaning.
    if typed_only:
        creation = {"STRONGLY_TYPED": 0}
    elif major >= 10:
        creation = {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}
    else:
        creation = {"EXPLICIT_BATCH": 0}
    flags = ["TF32", "DEBUG"] + ([] if typed_only else ["FP16", "INT8"])
    module.NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", creation)
    module.BuilderFlag = enum.Enum("BuilderFlag", flags)
    module.MemoryPoolType = enum.Enum("MemoryPoolType", ["WORKSPACE"])
    module.float16 = module.DataType.HALF
    if major >= 10 or rtx:
        module.IProgressMonitor = type("IProgressMonitor", (), {"__init__": lambda self: None})

    class Config:
        def __init__(self) -> None:
            self._record = BuildRecord()
            self._profiles: list[dict[str, Any]] = []
            if (major, minor) >= (8, 6) or rtx:
                self.builder_optimization_level = 3
            if major >= 10 or rtx:
                self.progress_monitor: Any = None
            if rtx:
                self.num_compute_capabilities = 0

        @property
        def num_optimization_profiles(self) -> int:
            return len(self._profiles)

        def set_flag(self, flag: Any) -> None:
            self._record.flags.add(flag.name)

        def clear_flag(self, flag: Any) -> None:
            self._record.cleared.add(flag.name)

        def set_memory_pool_limit(self, pool: Any, size: int) -> None:
            self._record.workspace_bytes = size

        def add_optimization_profile(self, profile: Any) -> int:
            if not profile._shapes:
                return -1
            self._profiles.append(profile._shapes)
            return len(self._profiles) - 1

        def create_timing_cache(self, content: bytes) -> Any:
            if content and not content.startswith(b"timings"):
                return None
            return TimingCache(content, version)

        def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
            self._record.timing_cache = cache._content
            return True

    class Builder:
        def __init__(self, logger: Any) -> None:
            if gpu.devices == 0 and not rtx:
                gpu.fault("a Builder was made without a GPU, which crashes some versions")
            self._logger = logger

        def create_network(self, network_flags: int) -> Network:
            return Network(network_flags)

        def create_builder_config(self) -> Config:
            return Config()

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
            record = config._record
            record.network_flags, record.model = network._flags, network._model
            record.dtypes = {tensor.name: _NAMES[tensor._given.name] for tensor in network._tensors if tensor._given}
            record.formats = {tensor.name: tensor.allowed_formats for tensor in network._tensors}
            record.optimization_level = getattr(config, "builder_optimization_level", None)
            gpu.built.append(record)  # type: ignore[attr-defined]
            if record.dtypes and "STRONGLY_TYPED" in creation:
                return self._fail("Error Code 3: the type of a tensor cannot be set in a strongly typed network")
            if not config._profiles:
                return self._fail("Network has dynamic or shape inputs, but no optimization profile has been defined")
            monitor = getattr(config, "progress_monitor", None)
            if monitor is not None and not _report(monitor):
                return self._fail("Error Code 7: BuildCanceled")
            unbuildable = {node.op_type for node in network._model.graph.node} & {"NonMaxSuppression"}
            if unbuildable:
                return self._fail("nms_0 has no runners that implement it")
            chosen = {tensor.name: _format(tensor, (major, minor), rtx=rtx) for tensor in network._tensors}
            if None in chosen.values():
                return self._fail("Error Code 10: Could not find any implementation for node")
            smallest, _, largest = config._profiles[0][network._model.graph.input[0].name]
            from fakes.tensorrt import make_plan

            try:
                content = network._model.SerializeToString()
            except Exception:  # protobuf's own error. TensorRT returns no plan if it cannot allocate (a belief).
                return self._fail("Error Code 2: OutOfMemory")
            numbers = ".".join((*version.split("."), "0", "0")[:4])
            return make_plan(content, smallest, largest, version=numbers, rtx=rtx, dtypes=record.dtypes, formats=chosen)

        def _fail(self, message: str) -> None:
            self._logger.log(self._logger.Severity.ERROR, message)

    class OnnxParser:
        def __init__(self, network: Network, logger: Any) -> None:
            self._network = network
            self._errors: list[Any] = []

        def parse(self, content: bytes) -> bool:
            try:
                model = onnx.load_model_from_string(content)
            except Exception:
                return self._fail("Failed to deserialize the ONNX model.", -1, "", "")
            for index, node in enumerate(model.graph.node):
                if node.domain not in ("", "ai.onnx"):
                    said = "Plugin not found, are the plugin name, version, and namespace correct?"
                    return self._fail(said, index, node.name, node.op_type)
                if node.op_type == "Det":
                    return self._fail("false", index, node.name, node.op_type)
            self._network._model = model
            self._network._inputs = [Tensor(item, module.DataType) for item in model.graph.input]
            self._network._outputs = [Tensor(item, module.DataType) for item in model.graph.output]
            return True

        def _fail(self, *facts: Any) -> bool:
            self._errors = [ParserError(*facts)]
            return False

        @property
        def num_errors(self) -> int:
            return len(self._errors)

        def get_error(self, index: int) -> ParserError:
            return self._errors[index]

    class ParserError:
        def __init__(self, said: str, node: int, name: str, operator: str) -> None:
            self.desc, self.node = lambda: said, lambda: node
            if major >= 10 or rtx:
                self.node_name, self.node_operator = lambda: name, lambda: operator

    module.Builder, module.OnnxParser = Builder, OnnxParser


class TimingCache:
    def __init__(self, content: bytes, version: str) -> None:
        self._content, self._version = content, version

    def serialize(self) -> bytes:
        return b"timings " + self._version.encode()


class Tensor:
    """An input or output of a network.

    Attributes:
        name: Its name.
        shape: Its shape. -1 for sides that are not fixed.
        allowed_formats: A bit mask of `TensorFormat`.
    """

    def __init__(self, described: onnx.ValueInfoProto, types: Any) -> None:
        kind = described.type.tensor_type
        self.name = described.name
        self.shape = tuple(side.dim_value or -1 for side in kind.shape.dim)
        self.allowed_formats = -1
        self._in_graph = types.HALF if kind.elem_type == onnx.TensorProto.FLOAT16 else types.FLOAT
        self._given: Any = None

    @property
    def dtype(self) -> Any:
        return self._given or self._in_graph

    @dtype.setter
    def dtype(self, dtype: Any) -> None:
        self._given = dtype


def _format(tensor: Tensor, version: tuple[int, ...], *, rtx: bool) -> str | None:
    """The name of the format that is chosen for an input or output. None: the build fails."""
    if tensor.allowed_formats == -1:  # what TensorRT begins with
        return TensorFormat.LINEAR.name
    allowed = [format for format in TensorFormat if tensor.allowed_formats >> format & 1]
    if not all(holds(format, _NAMES[tensor.dtype.name], version, rtx=rtx) for format in allowed):
        return None
    return max(allowed).name


class Network:
    def __init__(self, flags: int) -> None:
        self._flags = flags
        self._model: Any = onnx.ModelProto()
        self._inputs: list[Tensor] = []
        self._outputs: list[Tensor] = []

    @property
    def _tensors(self) -> list[Tensor]:
        return self._inputs + self._outputs

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    def get_input(self, index: int) -> Tensor:
        return self._inputs[index]

    def get_output(self, index: int) -> Tensor:
        return self._outputs[index]


class Profile:
    def __init__(self) -> None:
        self._shapes: dict[str, Any] = {}

    def set_shape(self, name: str, smallest: Any, usual: Any, largest: Any) -> None:
        if all(a <= b <= c for a, b, c in zip(smallest, usual, largest, strict=True)):
            self._shapes[name] = (smallest, usual, largest)


def _report(monitor: Any) -> bool:
    """Reports nested phases as TensorRT does. Returns False if the monitor asks for the end of the build."""
    monitor.phase_start("Building engine", None, _STEPS)
    for step in range(_STEPS):
        monitor.phase_start("Tactics", "Building engine", 2)
        goes_on = all(monitor.step_complete("Tactics", inner) for inner in range(2))
        monitor.phase_finish("Tactics")
        if not goes_on or not monitor.step_complete("Building engine", step):
            return False
    monitor.phase_finish("Building engine")
    return True
