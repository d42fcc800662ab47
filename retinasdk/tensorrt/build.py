"""`build_engine`: a heads-only ONNX file to a TensorRT engine file with its JSON."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retinasdk._util.cache_dir import cache_dir
from retinasdk._util.files import write_atomically, write_together
from retinasdk.cuda.device import GpuIdentity, gpu_identity, usable_kernels
from retinasdk.errors import ModelError
from retinasdk.images import ImageInput
from retinasdk.models import find_model
from retinasdk.onnx_graph.layers import layers_before
from retinasdk.onnx_graph.model_file import read_model
from retinasdk.pipeline.preprocess import Transform
from retinasdk.spec import ModelSpec
from retinasdk.tensorrt.builder import BuildOptions, Built, Progress, build_plan
from retinasdk.tensorrt.engine_info import ENGINE_SUFFIX, PRECISIONS, EngineInfo, Fingerprint, Profile
from retinasdk.tensorrt.float16 import to_float16
from retinasdk.tensorrt.versions import import_tensorrt, is_strongly_typed, needs_gpu_to_build, product

_log = logging.getLogger("retinasdk")

# Where no sizes are given: tuned for the picture of a camera; photos that no rule makes smaller, up to this side.
_USUAL_SIZE = (1080, 1920)
_LARGEST_NATIVE_SIDE = 1920

Batch = int | tuple[int, int, int]


def build_engine(
    onnx: str | os.PathLike[str],
    engine: str | os.PathLike[str],
    *,
    precision: str = "fp16",
    batch: Batch | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
    images: str | os.PathLike[str] | Sequence[ImageInput] | None = None,
    spec: ModelSpec | None = None,
    workspace_bytes: int | None = None,
    optimization_level: int | None = None,
    progress: Progress | None = None,
) -> EngineInfo:
    """Builds the TensorRT engine of a heads-only RetinaNet and writes it, with its `EngineInfo` in `<engine>.json`.

    onnx: a bundled name, or a path. engine: the file to write, `<name>.engine`.
    precision: "fp32"; "fp16"; or "int8", where what is not quantized is float16. The last convolution of each head,
        input and outputs are float32 in each.
    batch: images at a time: one number, or (smallest, tuned for, largest); None: 1, or the network's own. The GPU's
        memory is reserved for the largest.
    sizes: (height, width) of images to come, in pixels, the most frequent first; None: any size, tuned for 1080 x 1920
        (of rule "native": up to 1920 x 1920).
    images: for "int8": a folder, or paths, PIL images or arrays, like those to come; the scales come from them. Not
        wanted for a network that has scales already.
    spec: where it is neither beside the ONNX file nor in it. workspace_bytes: most scratch on the GPU while it runs.
    optimization_level: 0 (quick to build) to 5 (quick to run); from TensorRT 8.6 on.
    progress: called with (steps done, steps in all), from TensorRT 10 on, from another thread.

    The engine is for this TensorRT and this GPU; with TensorRT for RTX, for any of its GPUs.
    Raises `ModelError`, `DeviceError`, `MissingDependencyError`, `ImageError`, `ValueError` or `OSError`, and
    KeyboardInterrupt at Ctrl-C; nothing is written then.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")
    source, target = find_model(onnx), Path(engine)
    _check_target(target)
    trt = import_tensorrt("building engines")
    gpu = _gpu_to_build_for(trt)
    read = read_model(source, spec=spec, purpose="building engines")
    model, model_spec, fixed_batch = read.graph, read.spec, read.fixed_batch
    profile = _profile(model_spec, _batches(batch, fixed_batch), sizes)
    fingerprint = wanted_fingerprint(
        trt,
        source,
        gpu=gpu,
        spec=spec,
        precision=precision,
        batch=batch,
        sizes=sizes,
        workspace_bytes=workspace_bytes,
        optimization_level=optimization_level,
    )
    _check_scales(model, source)
    heads = [name for level in model_spec.levels for name in (level.logits, level.deltas)]
    if precision == "int8" and not _has_scales(model):
        from retinasdk.tensorrt.int8 import quantize

        calibration = _calibration_images(images)
        model = quantize(model, model_spec, calibration, batch=fixed_batch or 1, half_scales=is_strongly_typed(trt))
    if precision != "fp32" and is_strongly_typed(trt):
        model = to_float16(model, heads)
    options = BuildOptions(
        model_spec.input,
        profile,
        precision,
        [name for node in layers_before(model.graph, heads) for name in node.output],
        workspace_bytes,
        optimization_level,
    )
    began = time.monotonic()
    built = _build_with_cache(trt, model.SerializeToString(), source, options, gpu, progress)
    info = EngineInfo(
        spec=model_spec,
        fingerprint=fingerprint,
        profile=profile,
        precision=precision,
        build_seconds=round(time.monotonic() - began, 3),
        size_bytes=len(built.plan),
        engine_sha256=hashlib.sha256(built.plan).hexdigest(),
    )
    write_together({target: built.plan, EngineInfo.path_for(target): info.to_json().encode()})
    return info


def wanted_fingerprint(
    trt: Any, onnx: Path, *, gpu: GpuIdentity | None, spec: ModelSpec | None, **options: Any
) -> Fingerprint:
    """What an engine made now would be made of and for, without reading the graph.

    gpu: None where the engine fits any. spec: the one given; None: the one beside the file, or in it. options: of
    `build_engine`; those left at None do not count.
    """
    weights = onnx.with_name(onnx.name + ".data")  # as PyTorch writes large models
    beside = onnx.with_suffix(".json")
    content = hashlib.sha256(onnx.read_bytes() + (weights.read_bytes() if weights.is_file() else b""))
    rules = spec.to_json().encode() if spec else beside.read_bytes() if beside.is_file() else b""
    described = {name: str(value) for name, value in options.items() if value is not None}
    return Fingerprint(
        onnx_sha256=content.hexdigest(),
        tensorrt=product(trt),
        tensorrt_version=trt.__version__,
        gpu=gpu.name if gpu else None,
        compute_capability=gpu.compute_capability if gpu else None,
        cuda=gpu.cuda if gpu else None,
        options={**described, "spec": hashlib.sha256(rules).hexdigest()[:12]},
    )


def _check_target(target: Path) -> None:
    """Found out before the work, not after it."""
    if target.suffix != ENGINE_SUFFIX:
        raise ValueError(f"engine must be a file name that ends in {ENGINE_SUFFIX}, got {target.name!r}")
    if target.is_dir() or not target.parent.is_dir() or not os.access(target.parent, os.W_OK):
        raise ValueError(f"{target}: wanted a file in a folder that can be written to; make it, or choose another")


def _gpu_to_build_for(trt: Any) -> GpuIdentity | None:
    """The GPU here, which has to be there before anything of TensorRT is made; None: none is needed."""
    if not needs_gpu_to_build(trt):
        return None
    return gpu_identity(usable_kernels("building an engine"))


def _batches(batch: Batch | None, fixed: int | None) -> tuple[int, int, int]:
    """(smallest, tuned for, largest)."""
    given: Any = (fixed or 1) if batch is None else batch
    sizes = (given,) * 3 if isinstance(given, int) else tuple(given)
    if len(sizes) != 3 or not all(isinstance(size, int) for size in sizes) or not 1 <= sizes[0] <= sizes[1] <= sizes[2]:
        raise ValueError(
            f"batch must be one number, or (smallest, tuned for, largest), of at least 1 and rising; got {batch!r}"
        )
    if fixed is not None and sizes != (fixed,) * 3:
        raise ValueError(f"the network takes {fixed} images at a time and no others, got batch={batch!r}; leave it out")
    return sizes[0], sizes[1], sizes[2]


def _profile(spec: ModelSpec, batch: tuple[int, int, int], sizes: Sequence[tuple[int, int]] | None) -> Profile:
    """The network inputs of all images of those sizes."""
    if sizes is None:
        usual = Transform.plan(_USUAL_SIZE, spec).padded
        low, high = (usual, usual) if spec.resize.rule == "squash" else _bounds(spec)
        usual = min(usual[0], high[0]), min(usual[1], high[1])
    else:
        for size in sizes:
            if len(size) != 2 or not all(isinstance(side, int) and side >= 1 for side in size):
                raise ValueError(f"sizes must be (height, width) pairs in pixels, got {size!r}")
        inputs = [Transform.plan((height, width), spec).padded for height, width in sizes]
        if not inputs:
            raise ValueError("sizes must have at least one (height, width), got none; leave it out for any size")
        usual = inputs[0]
        low = min(height for height, _ in inputs), min(width for _, width in inputs)
        high = max(height for height, _ in inputs), max(width for _, width in inputs)
    return Profile((batch[0], 3, *low), (batch[1], 3, *usual), (batch[2], 3, *high))


def _bounds(spec: ModelSpec) -> tuple[tuple[int, int], tuple[int, int]]:
    """The smallest and the largest network input, as (height, width), of images of any size."""
    longest = spec.resize.size[-1]
    if spec.resize.rule == "native":
        longest = min(longest, _LARGEST_NATIVE_SIDE)
    return spec.padded(1, 1), spec.padded(longest, longest)


def _has_scales(model: Any) -> bool:
    return any(node.op_type == "DequantizeLinear" for node in model.graph.node)


def _check_scales(model: Any, source: Path) -> None:
    """Raises `ModelError` for scales that TensorRT does not take: what `retinasdk quantize` writes for the CPU."""
    if any(tensor.data_type == tensor.UINT8 for tensor in model.graph.initializer) and _has_scales(model):
        raise ModelError(
            f"{source}: wanted a network in float32, or one with symmetric int8 scales, got one quantized for the CPU "
            "(uint8); run it with device='cpu', or build from the file that it was made of with precision='int8'"
        )


def _calibration_images(images: str | os.PathLike[str] | Sequence[ImageInput] | None) -> Sequence[ImageInput]:
    if images is None:
        raise ValueError(
            "precision 'int8' takes its scales from images, got none; give images=<folder of images like those to "
            "come> to build_engine, or use 'fp16'"
        )
    from retinasdk.onnx_graph.calibration import calibration_images

    return calibration_images(images)


def _build_with_cache(
    trt: Any, model: bytes, source: Path, options: BuildOptions, gpu: GpuIdentity | None, progress: Progress | None
) -> Built:
    """Builds with what TensorRT measured earlier on this GPU, and keeps what it measured now."""
    who = f"{product(trt)}-{trt.__version__}-{gpu.name if gpu else 'any'}"
    kept = cache_dir() / f"timing-{re.sub('[^A-Za-z0-9.]+', '-', who)}.cache"
    timings = kept.read_bytes() if kept.is_file() else b""
    built = build_plan(trt, model, source.name, options, timing_cache=timings, progress=progress)
    if built.timing_cache is not None and built.timing_cache != timings:
        try:
            write_atomically(kept, built.timing_cache)
        except OSError as error:  # the next build takes longer, and that is all
            _log.info("TensorRT's measurements are not kept: %s", error)
    return built
