"""`build_engine`: builds a TensorRT engine from an ONNX file that ends at its raw heads."""

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
from retinasdk._util.files import finish_killed_write, write_atomically, write_together
from retinasdk._util.onnx_files import model_sha256
from retinasdk._util.progress import ProgressCallback
from retinasdk.cuda.device import GpuIdentity, gpu_identity, usable_kernels
from retinasdk.errors import ModelError
from retinasdk.images import ImageInput
from retinasdk.models import find_model
from retinasdk.onnx_graph.model_file import read_model
from retinasdk.pipeline.preprocess import Transform
from retinasdk.spec import ModelSpec
from retinasdk.tensorrt.builder import BuildOptions, Built, build_plan
from retinasdk.tensorrt.engine_info import ENGINE_SUFFIX, PRECISIONS, EngineInfo, Fingerprint, Profile
from retinasdk.tensorrt.float16 import half_tensors, to_float16
from retinasdk.tensorrt.installed import gpu_here, import_tensorrt, installed_tensorrts
from retinasdk.tensorrt.versions import is_strongly_typed, needs_gpu_to_build, product

_log = logging.getLogger("retinasdk")

# If no sizes are given: the image size to optimize for, that of a camera, and the longest side to allow for models
# whose resize rule makes no image smaller.
_USUAL_SIZE = (1080, 1920)
_LARGEST_NATIVE_SIDE = 1920

HEAD_LAYOUTS = ("channels_first",)
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
    head_layout: str | None = None,
    workspace_bytes: int | None = None,
    optimization_level: int | None = None,
    progress: ProgressCallback | None = None,
) -> EngineInfo:
    """Builds a TensorRT engine from an ONNX model and writes it, with its `EngineInfo` beside it as JSON.

    An engine runs with the version of TensorRT and on the type of GPU that it was built with. An engine of TensorRT for
    RTX runs on every GPU that TensorRT for RTX supports, and can be built without one. If both are installed, the one
    that runs on the GPU of this machine builds the engine, or TensorRT for RTX on a machine without a GPU. If the build
    fails or is interrupted with Ctrl-C, no file is written.

    Args:
        onnx: The name of a bundled model, or the path of an ONNX file whose outputs are the raw heads.
        engine: The file to write. Its name must end in `.engine`; the `EngineInfo` goes to `<engine>.json`.
        precision: "fp32", "fp16" or "int8". With "int8", layers that are not quantized run in float16. The head
            outputs are float16 unless it is "fp32", and so is the network's input where its first layers read float16.
        batch: Number of images per call: one number, or (smallest, optimized for, largest). GPU memory is reserved for
            the largest. Defaults to the network's own batch size if it is fixed, else to 1.
        sizes: Sizes (height, width) of the images to come, in pixels, the most frequent first. Defaults to images of
            any size, optimized for 1080 x 1920. For models with the resize rule "native" any size means at most
            1920 x 1920.
        images: Calibration images for "int8": a folder, or a sequence of paths, PIL images or arrays. They should be
            like the images to come; a few hundred are enough. Required for "int8", unless the network has int8 scales
            already. Ignored otherwise.
        spec: The spec of the model. Defaults to the one beside the ONNX file or in it.
        head_layout: "channels_first" makes TensorRT store head outputs as (N, C, H, W), for which it adds a kernel that
            reorders each of them. Only needed if retinasdk cannot read another layout, which it says then. By default,
            TensorRT chooses.
        workspace_bytes: Limit of the engine's scratch memory on the GPU, in bytes. Defaults to TensorRT's own.
        optimization_level: 0 (fastest build) to 5 (fastest engine), from TensorRT 8.6 on. Defaults to TensorRT's own.
        progress: Called with a `retinasdk.Progress`: images of the calibration, then steps of the build, which
            TensorRT counts from version 10 on.

    Returns:
        The info that was written beside the engine.

    Raises:
        ValueError: If an option has a value that is not allowed or does not fit the network, or if "int8" gets no
            calibration images.
        ModelError: If the model or its spec cannot be read, or TensorRT cannot build it. The message names the node.
        DeviceError: If TensorRT needs a GPU to build and there is none, or does not support the GPU of this machine.
        MissingDependencyError: If TensorRT or the package onnx cannot be imported.
        ImageError: If a calibration image cannot be read.
        OSError: If a file cannot be read or written.
        KeyboardInterrupt: If Ctrl-C is pressed. The build stops before this is raised.

    Example:
        Build an engine for a camera that delivers 1080 x 1920 images, and run it:

        >>> import retinasdk
        >>> info = retinasdk.build_engine("people", "people.engine", sizes=[(1080, 1920)])  # doctest: +SKIP
        >>> info.precision  # doctest: +SKIP
        'fp16'
        >>> detector = retinasdk.Detector("people.engine")  # doctest: +SKIP
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, but got {precision!r}.")
    if head_layout not in (None, *HEAD_LAYOUTS):
        raise ValueError(f"head_layout must be {' or '.join(HEAD_LAYOUTS)}, or None, but got {head_layout!r}.")
    source, target = find_model(onnx), Path(engine)
    _check_target(target)
    trt, gpu = _tensorrt_to_build_with()
    read = read_model(source, spec=spec, purpose="building engines")
    model, model_spec, fixed_batch = read.graph, read.spec, read.fixed_batch
    profile = _profile(model_spec, _batches(batch, fixed_batch), sizes)
    fingerprint = expected_fingerprint(
        trt,
        source,
        gpu=gpu,
        spec=spec,
        precision=precision,
        batch=batch,
        sizes=sizes,
        head_layout=head_layout,
        workspace_bytes=workspace_bytes,
        optimization_level=optimization_level,
    )
    _check_scales(model, source)
    heads = [name for level in model_spec.levels for name in (level.logits, level.deltas)]
    if precision == "int8" and not _has_scales(model):
        from retinasdk.tensorrt.int8 import quantize

        calibration = _calibration_images(images)
        model = quantize(
            model,
            model_spec,
            calibration,
            batch=fixed_batch or 1,
            half_scales=is_strongly_typed(trt),
            progress=progress,
        )
    if precision != "fp32" and is_strongly_typed(trt):
        model = to_float16(model)
    half = half_tensors(model)
    if precision != "fp32" and not is_strongly_typed(trt):
        # In "int8", the first layer may quantize its input: float16 would round it twice.
        half |= {*heads, model_spec.input} if precision == "fp16" else set(heads)
    options = BuildOptions(
        model_spec.input,
        profile,
        precision,
        half,
        () if head_layout == "channels_first" else heads,
        workspace_bytes,
        optimization_level,
    )
    began = time.monotonic()
    built = _build_with_cache(trt, _serialized(model, source), source, options, gpu, progress)
    info = EngineInfo(
        spec=model_spec,
        fingerprint=fingerprint,
        profile=profile,
        precision=precision,
        build_seconds=round(time.monotonic() - began, 3),
        size_bytes=len(built.plan),
        engine_sha256=hashlib.sha256(built.plan).hexdigest(),
        input_dtype="float16" if model_spec.input in half else "float32",
        head_dtype="float16" if half.issuperset(heads) else "float32",
        head_formats=built.head_formats,
    )
    write_together({target: built.plan, EngineInfo.path_for(target): info.to_json().encode()})
    return info


def expected_fingerprint(
    trt: Any, onnx: Path, *, gpu: GpuIdentity | None, spec: ModelSpec | None, **options: Any
) -> Fingerprint:
    """Returns the fingerprint that an engine built now would have, without parsing the ONNX graph.

    Args:
        trt: The TensorRT module.
        onnx: The ONNX file.
        gpu: The GPU to build for. None if the engine runs on any GPU.
        spec: The spec given by the caller. None: the one beside the file or in it.
        **options: Options of `build_engine`. Those that are None are left out.

    Returns:
        The fingerprint.

    Raises:
        OSError: If a file cannot be read.
    """
    beside = onnx.with_suffix(".json")
    rules = spec.to_json().encode() if spec else beside.read_bytes() if beside.is_file() else b""
    described = {name: str(value) for name, value in options.items() if value is not None}
    return Fingerprint(
        onnx_sha256=model_sha256(onnx),
        tensorrt=product(trt),
        tensorrt_version=trt.__version__,
        gpu=gpu.name if gpu else None,
        compute_capability=gpu.compute_capability if gpu else None,
        cuda=gpu.cuda if gpu else None,
        options={**described, "spec": hashlib.sha256(rules).hexdigest()[:12]},
    )


def _check_target(target: Path) -> None:
    """Checks the name and the folder of the engine file before the build, which takes minutes."""
    if target.suffix != ENGINE_SUFFIX:
        raise ValueError(f"engine must be a file name that ends in {ENGINE_SUFFIX}, but got {target.name!r}.")
    if target.is_dir() or not target.parent.is_dir() or not os.access(target.parent, os.W_OK):
        raise ValueError(
            f"The engine cannot be written to {target}: its folder does not exist or is not a folder that can be "
            "written to. Create the folder or choose another one."
        )


def _tensorrt_to_build_with() -> tuple[Any, GpuIdentity | None]:
    """The TensorRT module, and the GPU to build for: None if the engine runs on any GPU.

    The GPU must be found before any TensorRT object is created.
    """
    gpu = gpu_here()
    needs_none = any(item.product == "tensorrt_rtx" for item in installed_tensorrts())
    trt = import_tensorrt(
        "building engines",
        gpu=gpu,
        only="tensorrt_rtx" if gpu is None and needs_none else None,
        otherwise="build for other GPUs with this one hidden: CUDA_VISIBLE_DEVICES= retinasdk build ..."
        if needs_none
        else "run the ONNX file with device='cpu'",
    )
    if not needs_gpu_to_build(trt):
        return trt, None
    return trt, gpu or gpu_identity(usable_kernels("building an engine"))


def _batches(batch: Batch | None, fixed: int | None) -> tuple[int, int, int]:
    """The batch sizes as (smallest, optimized for, largest)."""
    given: Any = (fixed or 1) if batch is None else batch
    sizes = (given,) * 3 if isinstance(given, int) else tuple(given)
    if len(sizes) != 3 or not all(isinstance(size, int) for size in sizes) or not 1 <= sizes[0] <= sizes[1] <= sizes[2]:
        raise ValueError(
            "batch must be one number of at least 1, or three in ascending order (smallest, optimized for, largest), "
            f"but got {batch!r}."
        )
    if fixed is not None and sizes != (fixed,) * 3:
        raise ValueError(
            f"The network has a fixed batch size of {fixed}, but got batch={batch!r}. Leave the option batch out."
        )
    return sizes[0], sizes[1], sizes[2]


def _profile(spec: ModelSpec, batch: tuple[int, int, int], sizes: Sequence[tuple[int, int]] | None) -> Profile:
    """The range of network inputs that images of these sizes result in."""
    if sizes is None:
        usual = Transform.plan(_USUAL_SIZE, spec).padded
        low, high = (usual, usual) if spec.resize.rule == "squash" else _bounds(spec)
        usual = min(usual[0], high[0]), min(usual[1], high[1])
    else:
        for size in sizes:
            if len(size) != 2 or not all(isinstance(side, int) and side >= 1 for side in size):
                raise ValueError(f"sizes must be pairs (height, width) in pixels, but got {size!r}.")
        inputs = [Transform.plan((height, width), spec).padded for height, width in sizes]
        if not inputs:
            raise ValueError(
                "sizes must have at least one pair (height, width), but it is empty. To allow any size, leave it out."
            )
        usual = inputs[0]
        low = min(height for height, _ in inputs), min(width for _, width in inputs)
        high = max(height for height, _ in inputs), max(width for _, width in inputs)
    return Profile((batch[0], 3, *low), (batch[1], 3, *usual), (batch[2], 3, *high))


def _bounds(spec: ModelSpec) -> tuple[tuple[int, int], tuple[int, int]]:
    """The smallest and the largest network input (height, width) that images of any size result in."""
    longest = spec.resize.size[-1]
    if spec.resize.rule == "native":
        longest = min(longest, _LARGEST_NATIVE_SIDE)
    return spec.padded(1, 1), spec.padded(longest, longest)


def _has_scales(model: Any) -> bool:
    return any(node.op_type == "DequantizeLinear" for node in model.graph.node)


def _check_scales(model: Any, source: Path) -> None:
    """Raises `ModelError` for uint8 scales, which `retinasdk quantize` writes and TensorRT does not support."""
    if any(tensor.data_type == tensor.UINT8 for tensor in model.graph.initializer) and _has_scales(model):
        raise ModelError(
            f"{source} is quantized for the CPU (uint8), which TensorRT does not support. Run it with device='cpu', or "
            "build the engine from the float32 model that it was made from, with precision='int8'."
        )


def _calibration_images(images: str | os.PathLike[str] | Sequence[ImageInput] | None) -> Sequence[ImageInput]:
    if images is None:
        raise ValueError(
            "Precision 'int8' needs calibration images, but got none. Pass a folder of images like those to come "
            "(images= in Python, --images on the command line), or use the precision 'fp16'."
        )
    from retinasdk.onnx_graph.calibration import calibration_images

    return calibration_images(images)


def _serialized(model: Any, source: Path) -> bytes:
    try:
        content: bytes = model.SerializeToString()
    except Exception as error:  # protobuf has one type of its own for both causes, which depends on its version.
        raise ModelError(
            f"{source}: the network cannot be serialized ({error}): there is not enough memory, or it has more than "
            "2 GiB. Free memory, or use a smaller network"
        ) from error
    return content


def _build_with_cache(
    trt: Any,
    model: bytes,
    source: Path,
    options: BuildOptions,
    gpu: GpuIdentity | None,
    progress: ProgressCallback | None,
) -> Built:
    """Builds with TensorRT's timing cache, which keeps its measurements on this GPU from one build to the next."""
    who = f"{product(trt)}-{trt.__version__}-{gpu.name if gpu else 'any'}"
    kept = cache_dir() / f"timing-{re.sub('[^A-Za-z0-9.]+', '-', who)}.cache"
    finish_killed_write(kept)
    timings = kept.read_bytes() if kept.is_file() else b""
    built = build_plan(trt, model, source.name, options, timing_cache=timings, progress=progress)
    if built.timing_cache is not None and built.timing_cache != timings:
        try:
            write_atomically(kept, built.timing_cache)
        except OSError as error:  # Only the time of the next build depends on it.
            _log.info("TensorRT's timing cache could not be written (%s). The next build will take longer.", error)
    return built
