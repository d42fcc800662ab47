"""Drives TensorRT's ONNX parser and builder, in every version that `versions.py` supports."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from retinasdk._util.progress import Progress, ProgressCallback, begin
from retinasdk.errors import ModelError
from retinasdk.tensorrt.engine_info import Profile
from retinasdk.tensorrt.head_layout import ROW_MAJOR, formats_to_allow
from retinasdk.tensorrt.versions import collected_errors, is_strongly_typed, product, reason, shared_logger

_log = logging.getLogger("retinasdk")

_STEP = "build"
_POLL_S = 0.1


@dataclass(frozen=True)
class BuildOptions:
    """Options of one build.

    Attributes:
        input: Name of the network's input.
        profile: Input shapes that the engine has to accept.
        precision: "fp32", "fp16" or "int8".
        half_tensors: Names of the inputs and outputs that are float16. Used up to TensorRT 8.6, where the builder
            chooses the types; from 10 on, the types in the graph decide.
        channels_last: Names of the outputs whose channels may come last, if this TensorRT has a format for it.
        workspace_bytes: Limit of the scratch memory on the GPU, in bytes. None: TensorRT's own.
        optimization_level: 0 (fastest build) to 5 (fastest engine). None: TensorRT's own.
    """

    input: str
    profile: Profile
    precision: str
    half_tensors: Collection[str] = ()
    channels_last: Collection[str] = ()
    workspace_bytes: int | None = None
    optimization_level: int | None = None


@dataclass(frozen=True)
class Built:
    """The result of a build.

    Attributes:
        plan: The serialized engine.
        timing_cache: TensorRT's measurements for the next build. None if this TensorRT has no timing cache.
        head_formats: The formats that were allowed for the outputs in `BuildOptions.channels_last`.
    """

    plan: bytes
    timing_cache: bytes | None
    head_formats: tuple[str, ...]


def build_plan(
    trt: Any,
    onnx: bytes,
    origin: str,
    options: BuildOptions,
    *,
    timing_cache: bytes = b"",
    progress: ProgressCallback | None,
) -> Built:
    """Builds an engine from an ONNX model in memory.

    Ctrl-C stops the build from TensorRT 10 on; earlier versions finish it first.

    Note [Two threads]. Python handles Ctrl-C in the main thread. That thread must not be inside TensorRT at that
    moment, because a Python exception cannot pass through TensorRT's code. So a second thread builds, while this one
    waits and tells the progress monitor to stop.

    Args:
        trt: The TensorRT module.
        onnx: The serialized ONNX model.
        origin: Name of the model, for messages.
        options: What to build.
        timing_cache: Measurements of an earlier build.
        progress: Called with a `Progress` for each step of the build, in this thread. TensorRT counts steps from
            version 10 on.

    Returns:
        The engine and the new timing cache.

    Raises:
        ModelError: If TensorRT cannot read or build the model. The message names the node and says what to do.
        ValueError: If this TensorRT does not have one of the options.
        KeyboardInterrupt: If Ctrl-C was pressed.
    """
    cancel, finished = threading.Event(), threading.Event()
    steps: queue.SimpleQueue[Progress | None] = queue.SimpleQueue()  # None: the build has ended
    outcome: list[Built | BaseException] = []

    def build() -> None:
        try:
            outcome.append(_build(trt, onnx, origin, options, timing_cache, steps.put, cancel))
        except BaseException as error:
            outcome.append(error)
        finally:
            finished.set()
            steps.put(None)

    try:
        threading.Thread(target=build, name="retinasdk-build", daemon=True).start()
        # Not join(): in Python 3.10 and 3.11, an interrupt during join() marks the thread as ended although it runs.
        begin(progress, _STEP)
        while (step := _next(steps)) is not None:
            if progress is not None:
                progress(step)
    except BaseException:  # Ctrl-C, or an error of `progress`.
        cancel.set()
        if not _has_monitor(trt):
            _log.warning("%s: this version of TensorRT cannot stop a build. Waiting until it is finished.", origin)
        while not finished.is_set():
            with contextlib.suppress(KeyboardInterrupt):  # Pressing Ctrl-C again cannot speed this up.
                finished.wait()
        raise
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _next(steps: queue.SimpleQueue[Progress | None]) -> Progress | None:
    while True:
        with contextlib.suppress(queue.Empty):
            return steps.get(timeout=_POLL_S)  # Windows does not interrupt a longer wait for Ctrl-C.


def _has_monitor(trt: Any) -> bool:
    return hasattr(trt, "IProgressMonitor")


def _build(
    trt: Any,
    onnx: bytes,
    origin: str,
    options: BuildOptions,
    timing_cache: bytes,
    progress: Callable[[Progress], object],
    cancel: threading.Event,
) -> Built:
    with collected_errors() as errors:
        builder = trt.Builder(shared_logger(trt))
        # The variable keeps the network alive; the parser does not.
        network = builder.create_network(_network_flags(trt))
        parser = trt.OnnxParser(network, shared_logger(trt))
        _parse(parser, network, onnx, origin, errors)
        config = builder.create_builder_config()
        _configure(trt, config, options, origin)
        if not is_strongly_typed(trt):
            _choose_types(trt, config, network, options)
        head_formats = _allow_formats(trt, network, options)
        _add_profile(builder, config, options, origin, errors)
        cache = _open_timing_cache(config, timing_cache)
        # The variable keeps the monitor alive: TensorRT only keeps a pointer to it.
        monitor = _make_monitor(trt, progress, cancel) if _has_monitor(trt) else None
        if monitor is not None:
            config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
        if cancel.is_set():
            raise KeyboardInterrupt
        if plan is None:
            cause = reason(errors, "it gives no reason")
            raise ModelError(f"{origin}: TensorRT cannot build the network: {cause}. {_build_advice(errors)}")
        return Built(bytes(plan), None if cache is None else bytes(cache.serialize()), head_formats)


def _network_flags(trt: Any) -> int:
    flags = trt.NetworkDefinitionCreationFlag
    # Looked up by name, because the values differ: bit 0 is EXPLICIT_BATCH in 8 and 10, but STRONGLY_TYPED in 11.
    name = "STRONGLY_TYPED" if is_strongly_typed(trt) else "EXPLICIT_BATCH"
    return 1 << int(getattr(flags, name))


def _parse(parser: Any, network: Any, onnx: bytes, origin: str, errors: list[str]) -> None:
    if parser.parse(onnx) and network.num_inputs > 0 and network.num_outputs > 0:
        return
    found = [parser.get_error(index) for index in range(parser.num_errors)]
    # On machines without a GPU, the list also has errors that only say that there is none.
    useful = [error for error in found if reason([error.desc()], "")] or found
    if not useful:
        raise ModelError(
            f"{origin}: TensorRT finds no network in the file: {reason(errors, 'it has no inputs or no outputs')}. "
            "Export the network again."
        )
    error = useful[0]
    operator = getattr(error, "node_operator", str)()  # TensorRT has it from 10 on.
    node = getattr(error, "node_name", str)() or (f"number {error.node()}" if error.node() >= 0 else "")
    where = f"node {node} ({operator}): " if node and operator else f"node {node}: " if node else ""
    cause = reason([error.desc()], "")
    told = cause if cause not in ("", "false") else "not supported"
    raise ModelError(f"{origin}: TensorRT cannot read the network: {where}{told}. {_parse_advice(cause, operator)}")


def _parse_advice(cause: str, operator: str) -> str:
    if "lugin" in cause or operator in ("NonMaxSuppression", "NonZero"):
        return "Export the network with raw heads, without NMS and without custom operators."
    if "eserialize" in cause or "Failed to parse the ONNX model" in cause:
        return "Check that it is a complete ONNX file."
    return "Export the network with standard operators of opset 17, in float32."


def _configure(trt: Any, config: Any, options: BuildOptions, origin: str) -> None:
    # TF32 is on by default. It rounds the factors of float32 products to 10 bits, so "fp32" would not be float32.
    config.clear_flag(trt.BuilderFlag.TF32)
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.optimization_level is not None:
        if not hasattr(config, "builder_optimization_level"):
            raise ValueError(
                f"optimization_level needs TensorRT 8.6 or newer, but {trt.__version__} is installed. Leave it out."
            )
        config.builder_optimization_level = options.optimization_level


def _choose_types(trt: Any, config: Any, network: Any, options: BuildOptions) -> None:
    """Tells the builder which types it may use, and those of the inputs and outputs. Only up to TensorRT 8.6."""
    if options.precision == "fp32":
        return
    config.set_flag(trt.BuilderFlag.FP16)
    if options.precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)  # The scales are in the graph.
    for tensor in _inputs_and_outputs(network):
        if tensor.name in options.half_tensors:
            tensor.dtype = trt.float16


def _allow_formats(trt: Any, network: Any, options: BuildOptions) -> tuple[str, ...]:
    """Sets the formats of inputs and outputs, and returns those of heads. See Note [Channels last]."""
    allowed_for_heads: dict[str, None] = {}
    for tensor in _inputs_and_outputs(network):
        names: tuple[str, ...] = (ROW_MAJOR,)
        if tensor.name in options.channels_last:
            names = formats_to_allow(product(trt), trt.__version__, tensor.dtype.name, tensor.shape[1])
            allowed_for_heads.update(dict.fromkeys(names))
        tensor.allowed_formats = sum(1 << int(getattr(trt.TensorFormat, name)) for name in names)
    return tuple(allowed_for_heads) or (ROW_MAJOR,)


def _inputs_and_outputs(network: Any) -> list[Any]:
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    return inputs + [network.get_output(index) for index in range(network.num_outputs)]


def _add_profile(builder: Any, config: Any, options: BuildOptions, origin: str, errors: list[str]) -> None:
    profile, shapes = builder.create_optimization_profile(), options.profile
    profile.set_shape(options.input, shapes.min, shapes.opt, shapes.max)
    if config.add_optimization_profile(profile) < 0:
        raise ModelError(
            f"{origin}: TensorRT rejects the input shapes {shapes.min}, {shapes.opt}, {shapes.max} (smallest, "
            f"optimized for, largest; each is images, channels, height, width): "
            f"{reason(errors, 'it gives no reason')}. Choose other sizes or another batch."
        )


def _open_timing_cache(config: Any, content: bytes) -> Any:
    """Sets a timing cache in `config`, filled from `content` if that fits. None: this TensorRT has no timing cache.

    TensorRT for RTX still has the names, but they have no effect, because it does not measure during the build.
    """
    if config.num_optimization_profiles < 1 or not _measures(config):
        return None
    with collected_errors():  # It is no failure if the cache is out of date.
        cache = config.create_timing_cache(content) or config.create_timing_cache(b"")
    if cache is None or not config.set_timing_cache(cache, False):
        return None
    return cache


def _measures(config: Any) -> bool:
    return hasattr(config, "create_timing_cache") and not hasattr(config, "num_compute_capabilities")


def _make_monitor(trt: Any, progress: Callable[[Progress], object], cancel: threading.Event) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the base is only known at run time
        """Counts the steps of the outermost phase. Its name and number of steps differ between versions."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._root: str | None = None
            self._steps = 0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._root, self._steps = phase_name, num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name == self._root:
                progress(Progress(_STEP, step + 1, self._steps))
            return not cancel.is_set()

        def phase_finish(self, phase_name: str) -> None:
            if phase_name == self._root:
                progress(Progress(_STEP, self._steps, self._steps))

    return Monitor()


# What to do about an error, by a part of its text.
_BUILD_ADVICE = (
    ("emory", "End other programs on the GPU, or build the engine for smaller sizes or batches."),
    ("NMS", "Export the network with raw heads, without NMS."),
    ("no runners that implement it", "Export the network with raw heads, without NMS."),
    ("rofile", "Choose sizes and a batch that the network accepts."),
)


def _build_advice(errors: list[str]) -> str:
    text = " ".join(errors)
    return next(
        (advice for sign, advice in _BUILD_ADVICE if sign in text), "Export the network in float32 with opset 17."
    )
