"""From ONNX in memory to a plan: TensorRT's builder, parser and profile, for every version that _tensorrt.py knows."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from retinasdk.errors import ModelError
from retinasdk.tensorrt.engine_info import Profile
from retinasdk.tensorrt.versions import collected_errors, is_strongly_typed, reason, shared_logger

_log = logging.getLogger("retinasdk")

Progress = Callable[[int, int], None]
_POLL_S = 0.1


@dataclass(frozen=True)
class BuildOptions:
    """What to build.

    input: the network's, by name. keep_float: outputs of nodes that stay float32; only used where the builder chooses
    types, up to TensorRT 8.6: later the graph itself says them.
    workspace_bytes: at most so much scratch on the GPU; None: TensorRT's own limit.
    optimization_level: 0 (quick to build) to 5 (quick to run); None: TensorRT's own.
    """

    input: str
    profile: Profile
    precision: str
    keep_float: Collection[str] = ()
    workspace_bytes: int | None = None
    optimization_level: int | None = None


@dataclass(frozen=True)
class Built:
    """The plan, and what TensorRT measured on the way; None: it keeps no such cache."""

    plan: bytes
    timing_cache: bytes | None


def build_plan(
    trt: Any, onnx: bytes, origin: str, options: BuildOptions, *, timing_cache: bytes = b"", progress: Progress | None
) -> Built:
    """Builds; `origin` names the model in errors. Ctrl-C ends it where TensorRT can be stopped, from 10 on.

    progress: called with (steps done, steps in all) from another thread.
    Raises `ModelError` that names the node and the cure, `ValueError` for options that this version does not have.

    Note [Two threads]. Python runs the handler of Ctrl-C in the main thread only, which must not be inside TensorRT
    then: an exception cannot cross it. So another thread builds, and this one waits and tells the monitor to stop.
    """
    cancel, finished = threading.Event(), threading.Event()
    outcome: list[Built | BaseException] = []

    def build() -> None:
        try:
            outcome.append(_build(trt, onnx, origin, options, timing_cache, progress, cancel))
        except BaseException as error:
            outcome.append(error)
        finally:
            finished.set()

    try:
        threading.Thread(target=build, name="retinasdk-build", daemon=True).start()
        # Not join(): in Python 3.10 and 3.11 a thread counts as ended when an interrupt hits who waits for it.
        while not finished.wait(_POLL_S):
            pass
    except KeyboardInterrupt:
        cancel.set()
        if not _has_monitor(trt):
            _log.warning("%s: this TensorRT cannot be stopped in the middle; waiting for its end", origin)
        while not finished.is_set():
            with contextlib.suppress(KeyboardInterrupt):  # pressing it again does not help
                finished.wait()
        raise
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _has_monitor(trt: Any) -> bool:
    return hasattr(trt, "IProgressMonitor")


def _build(
    trt: Any,
    onnx: bytes,
    origin: str,
    options: BuildOptions,
    timing_cache: bytes,
    progress: Progress | None,
    cancel: threading.Event,
) -> Built:
    with collected_errors() as errors:
        builder = trt.Builder(shared_logger(trt))
        # Held by name to the end: a parser does not keep its network alive.
        network = builder.create_network(_network_flags(trt))
        parser = trt.OnnxParser(network, shared_logger(trt))
        _parse(parser, network, onnx, origin, errors)
        config = builder.create_builder_config()
        _configure(trt, config, options, origin)
        if not is_strongly_typed(trt):
            _choose_types(trt, config, network, options)
        _add_profile(builder, config, options, origin, errors)
        cache = _open_timing_cache(config, timing_cache)
        # TensorRT keeps a plain pointer to the monitor.
        monitor = _make_monitor(trt, progress, cancel) if _has_monitor(trt) else None
        if monitor is not None:
            config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
        if cancel.is_set():
            raise KeyboardInterrupt
        if plan is None:
            raise ModelError(f"{origin}: TensorRT cannot build it: {_cause(errors)}; {_cure(errors)}")
        return Built(bytes(plan), None if cache is None else bytes(cache.serialize()))


def _network_flags(trt: Any) -> int:
    flags = trt.NetworkDefinitionCreationFlag
    # The values differ between versions: bit 0 is the one in 8 and 10, the other in 11.
    name = "STRONGLY_TYPED" if is_strongly_typed(trt) else "EXPLICIT_BATCH"
    return 1 << int(getattr(flags, name))


def _parse(parser: Any, network: Any, onnx: bytes, origin: str, errors: list[str]) -> None:
    if parser.parse(onnx) and network.num_inputs > 0 and network.num_outputs > 0:
        return
    found = [parser.get_error(index) for index in range(parser.num_errors)]
    # What only the missing GPU causes is said in the same place, and says nothing.
    told = [error for error in found if reason([error.desc()], "")] or found
    if not told:
        raise ModelError(
            f"{origin}: TensorRT reads no network in it: {reason(errors, 'no inputs or no outputs')}; export it again"
        )
    error = told[0]
    operator = getattr(error, "node_operator", str)()  # from 10 on
    node = getattr(error, "node_name", str)() or (f"number {error.node()}" if error.node() >= 0 else "")
    where = f"node {node} ({operator}): " if node and operator else f"node {node}: " if node else ""
    says = reason([error.desc()], "")
    raise ModelError(
        f"{origin}: TensorRT cannot read it: {where}{says if says not in ('', 'false') else 'not supported'}; "
        + _parse_cure(says, operator)
    )


def _parse_cure(says: str, operator: str) -> str:
    if "lugin" in says or operator in ("NonMaxSuppression", "NonZero"):
        return "export the network with raw heads, without NMS and without operators of your own"
    if "eserialize" in says or "Failed to parse the ONNX model" in says:
        return "is it a complete ONNX file?"
    return "export the network with standard operators of opset 17, in float32"


def _configure(trt: Any, config: Any, options: BuildOptions, origin: str) -> None:
    # On by default, and rounds the factors of float32 products to 10 bits: that is not what float32 means here.
    config.clear_flag(trt.BuilderFlag.TF32)
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.optimization_level is not None:
        if not hasattr(config, "builder_optimization_level"):
            raise ValueError(
                f"{origin}: TensorRT {trt.__version__} has no optimization levels (from 8.6 on); leave it out"
            )
        config.builder_optimization_level = options.optimization_level


def _choose_types(trt: Any, config: Any, network: Any, options: BuildOptions) -> None:
    """Up to 8.6 the builder chooses types: what it may use, and where it may not."""
    if options.precision == "fp32":
        return
    config.set_flag(trt.BuilderFlag.FP16)
    if options.precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)  # the graph has its own scales
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    keep = frozenset(options.keep_float)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.num_outputs == 1 and layer.get_output(0).name in keep:
            layer.precision = trt.float32
            layer.set_output_type(0, trt.float32)


def _add_profile(builder: Any, config: Any, options: BuildOptions, origin: str, errors: list[str]) -> None:
    profile, shapes = builder.create_optimization_profile(), options.profile
    profile.set_shape(options.input, shapes.min, shapes.opt, shapes.max)
    if config.add_optimization_profile(profile) < 0:
        raise ModelError(
            f"{origin}: TensorRT refuses the sizes {shapes.min}, {shapes.opt}, {shapes.max} (images, channels, height, "
            f"width; smallest, tuned for, largest): {reason(errors, 'it gives no reason')}; give other sizes"
        )


def _open_timing_cache(config: Any, content: bytes) -> Any:
    """The cache in `config`, with the measurements in `content` if they are of use; None: this TensorRT measures none.

    TensorRT for RTX has the names, deprecated and without effect: it does not measure here.
    """
    if config.num_optimization_profiles < 1 or not _measures(config):
        return None
    with collected_errors():  # an outdated cache is no failure
        cache = config.create_timing_cache(content) or config.create_timing_cache(b"")
    if cache is None or not config.set_timing_cache(cache, False):
        return None
    return cache


def _measures(config: Any) -> bool:
    return hasattr(config, "create_timing_cache") and not hasattr(config, "num_compute_capabilities")


def _make_monitor(trt: Any, progress: Progress | None, cancel: threading.Event) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the base is only known at run time
        """Counts the outermost phase, whose name and steps differ between versions."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._root: str | None = None
            self._steps = 0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._root, self._steps = phase_name, num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            if progress is not None and phase_name == self._root:
                progress(step + 1, self._steps)
            return not cancel.is_set()

        def phase_finish(self, phase_name: str) -> None:
            if progress is not None and phase_name == self._root:
                progress(self._steps, self._steps)

    return Monitor()


def _cause(errors: list[str]) -> str:
    return reason(errors, "it gives no reason")


_CURES = (
    ("emory", "end other programs on the GPU, or build it for smaller sizes or batches"),
    ("NMS", "export the network with raw heads, without NMS"),
    ("no runners that implement it", "export the network with raw heads, without NMS"),
    ("rofile", "give sizes and a batch that the network takes"),
)


def _cure(errors: list[str]) -> str:
    said = " ".join(errors)
    return next((cure for sign, cure in _CURES if sign in said), "export the network in float32 with opset 17")
