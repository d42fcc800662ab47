"""`quantize_onnx`: calibrates, measures, writes and checks an INT8 network, a line for each step."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk._util.progress import ProgressCallback, begin, tracked
from retinasdk._util.temporary import temporary_folder
from retinasdk.backends.onnx_cpu import OnnxCpuBackend
from retinasdk.errors import ModelError
from retinasdk.images import ImageInput
from retinasdk.models import find_model
from retinasdk.onnx_graph.calibration import calibration_images, network_inputs
from retinasdk.onnx_graph.model_file import read_model
from retinasdk.onnx_graph.model_pair import write_model
from retinasdk.onnx_graph.network import Network, prepared
from retinasdk.onnx_graph.ranges import Observed, observe
from retinasdk.quantization.checks import Checks, agreement_of, why_refused
from retinasdk.quantization.report import QuantizationReport, QuantizedLayer
from retinasdk.quantization.sensitivity import HeadLoss, layers_to_keep, sweep, worthwhile
from retinasdk.quantization.writing import quantized
from retinasdk.spec import METADATA_KEY, ModelSpec

if TYPE_CHECKING:
    import numpy.typing as npt

DEFAULT_MAX_AP_DROP = 0.3
DEFAULT_MIN_AGREEMENT = 0.9
DEFAULT_SWEEP_IMAGES = 4

_MOST_IMAGES = 64  # used for calibration, of those given
_COMPARED_IMAGES = 32  # of these, the ones whose detections are compared
# Fraction of the summed squared losses that remains, at each attempt. On the bundled networks the first tenths are in
# layers of so little work that keeping them in float32 costs no time; below a half it does.
_ATTEMPTS = (0.7, 0.5, 0.25, 0.12, 0.06, 0.03)
_TIMED_ROUNDS = 5


def quantize_onnx(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    images: str | os.PathLike[str] | Sequence[ImageInput],
    *,
    annotations: str | os.PathLike[str] | None = None,
    max_ap_drop: float = DEFAULT_MAX_AP_DROP,
    min_agreement: float = DEFAULT_MIN_AGREEMENT,
    sweep_images: int = DEFAULT_SWEEP_IMAGES,
    spec: ModelSpec | None = None,
    progress: ProgressCallback | None = None,
) -> QuantizationReport:
    """Quantizes a heads-only RetinaNet to 8 bits for ONNX Runtime on the CPU, if it stays accurate enough.

    The last layer of each head stays in float32: it is little work, and nothing after it corrects its errors. Layers
    that lose most relative to their work stay in float32 too, more at each attempt, until the network is accurate
    enough. So do layers for which 8 bits would not save time.

    Args:
        path: Name of a bundled model, or an ONNX file in float32.
        output: The ONNX file to write. The spec is written beside it, as `.json`.
        images: A folder, or paths, PIL images or arrays, like those of the application. Up to 64 of them, evenly
            chosen, are used for calibration.
        annotations: Annotation file in COCO format for images in that folder. If given, average precision is measured
            before and after.
        max_ap_drop: Points of AP that may be lost (0.3 is a drop from 0.400 to 0.397). Only with annotations.
        min_agreement: Fraction of the detections of either network that must have a counterpart of the same class in
            the other's, on up to 32 images, 0 to 1. Only without annotations.
        sweep_images: Number of images on which each layer is quantized alone, to measure its loss. This takes
            (layers + 8) * sweep_images runs of the network, and loads it once per layer.
        spec: The model's spec, if it is neither beside the file nor in it.
        progress: Called with a `retinasdk.Progress` for each image and each layer. The steps are comparing,
            calibrating, sweeping over the layers, and comparing again for each attempt.

    Returns:
        Which layers are quantized, the loss in accuracy, and the speed on this machine.

    Raises:
        ModelError: If the network cannot be quantized, or loses too much accuracy at every attempt. Nothing is written.
        ImageError: If an image cannot be read.
        ValueError: If an option is not valid.
        OSError: If a file cannot be written.
        MissingDependencyError: If the onnx package is not installed.
    """
    source, target = find_model(path), Path(output)
    _check_options(source, target, images, annotations, max_ap_drop, min_agreement, sweep_images)
    found = calibration_images(images)
    read = read_model(source, spec=spec, purpose="quantizing a model")
    batch = read.fixed_batch or 1
    network = _network(read.graph, source)

    chosen = _evenly(found, _MOST_IMAGES)
    with temporary_folder() as folder:
        checks = Checks(
            Path(folder) / "model.onnx", read.spec, _evenly(chosen, _COMPARED_IMAGES), images, annotations, progress
        )
        exact = checks.of(network.model, "float32")
        if exact.AP is None and not any(map(len, exact.detections)):
            raise ValueError(
                f"{source.name} detects nothing above {read.spec.score_threshold:g} in the {len(checks.images)} images "
                "that are compared, so its accuracy in 8 bits cannot be checked; give images that contain objects, or "
                "annotations"
            )
        calibrated = tracked(chosen, progress, "calibrate", "image")
        observed = observe(network, network_inputs(calibrated, read.spec, batch=batch))
        swept = list(network_inputs(_evenly(chosen, sweep_images), read.spec, batch=batch))
        loss = HeadLoss(network, read.spec, swept)
        losses = sweep(network, observed, loss, progress)
        inner = {name: value for name, value in losses.items() if name not in network.last}
        for attempt, share in enumerate(_ATTEMPTS, start=1):
            layers = worthwhile(network, inner.keys() - layers_to_keep(inner, observed.work, share), observed)
            model = quantized(network, layers, observed.ranges, observed.means)
            outcome = checks.of(model, f"attempt {attempt}")
            agreement = agreement_of(exact.detections, outcome.detections)
            why = why_refused(exact.AP, outcome.AP, agreement, max_ap_drop=max_ap_drop, min_agreement=min_agreement)
            if why is None:
                break
        else:
            raise ModelError(
                f"{source}: in 8 bits {why}, even with {len(losses) - len(layers)} of {len(losses)} layers in float32. "
                "Nothing was written. Give more images like those of the application, or allow a larger loss"
            )
        begin(progress, "time")
        speed = _speed(source, checks.path, read.spec, swept[0])
    if not layers:
        raise ModelError(
            f"{source}: none of the {len(losses)} layers is faster in 8 bits without losing too much accuracy. Nothing "
            "was written. Use the network as it is"
        )

    changed = _described(read.spec, len(layers), len(losses), len(chosen))
    _embed_spec(model, changed)
    report = QuantizationReport(
        output=target,
        spec=changed,
        layers=_layers(losses, observed, layers),
        images=len(chosen),
        head_loss=loss.of(model),
        agreement=agreement,
        AP_before=exact.AP,
        AP_after=outcome.AP,
        speed=speed,
    )
    write_model(target, model.SerializeToString(), changed)
    return report


def _check_options(
    source: Path,
    target: Path,
    images: Any,
    annotations: object,
    max_ap_drop: float,
    min_agreement: float,
    sweep_images: int,
) -> None:
    """Checks options before the work starts."""
    if target.suffix.lower() != ".onnx":
        raise ValueError(f"output must be a file name that ends in .onnx, got {str(target)!r}")
    if target.is_dir() or not target.parent.is_dir() or not os.access(target.parent, os.W_OK):
        raise ValueError(f"{target} cannot be written; create its folder, or choose another file")
    if target.resolve() == source.resolve():
        raise ValueError(f"{target} is the network that is being quantized; choose another output file")
    if not 0 <= max_ap_drop <= 100:
        raise ValueError(f"max_ap_drop must be from 0 to 100 points of AP, got {max_ap_drop!r}")
    if not 0 <= min_agreement <= 1:
        raise ValueError(f"min_agreement must be from 0 to 1, got {min_agreement!r}")
    if isinstance(sweep_images, bool) or not isinstance(sweep_images, int) or sweep_images < 1:
        raise ValueError(f"sweep_images must be an integer of at least 1, got {sweep_images!r}")
    if annotations is not None:
        from retinasdk.evaluation.coco import check_pycocotools

        check_pycocotools()
        if not isinstance(images, (str, os.PathLike)):
            raise ValueError("with annotations, images must be the folder of the annotated images, got single images")
        if not os.path.isfile(os.fspath(annotations)):  # type: ignore[call-overload]
            raise ValueError(f"{annotations} does not exist; give an annotation file in COCO format")


def _network(model: Any, source: Path) -> Network:
    try:
        network = Network(prepared(model))
    except ModelError as error:
        raise ModelError(f"{source}: {error}") from error
    if not network.layers:
        raise ModelError(f"{source} has no convolution with constant weights, so there is nothing to quantize")
    return network


def _evenly(items: Sequence[Any], most: int) -> list[Any]:
    """Returns at most `most` items, evenly spaced, starting with the first."""
    count = min(most, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def _described(spec: ModelSpec, quantized: int, layers: int, images: int) -> ModelSpec:
    note = f"8 bits for ONNX Runtime on the CPU: {quantized} of {layers} layers, ranges from {images} images"
    return spec.replace(source={**spec.source, "quantized": note})


def _embed_spec(model: Any, spec: ModelSpec) -> None:
    """Embeds the spec in the model's metadata."""
    others = [item for item in model.metadata_props if item.key != METADATA_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(others)
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, spec.to_json()
    model.producer_name = "retinasdk"


def _layers(losses: dict[str, float], observed: Observed, quantized: set[str]) -> tuple[QuantizedLayer, ...]:
    everything = max(1, sum(observed.work.values()))
    return tuple(
        QuantizedLayer(name, observed.work[name] / everything, loss, name in quantized) for name, loss in losses.items()
    )


def _speed(exact: Path, quantized: Path, spec: ModelSpec, tensor: npt.NDArray[np.float32]) -> float:
    """Returns the time of one run of the first file divided by that of the second, as a `Detector` runs them.

    Both run alternately, after one run each to warm up; the shortest times count.
    """
    backends = [OnnxCpuBackend(path, spec=spec, threads=None) for path in (exact, quantized)]
    times: list[list[float]] = [[], []]
    for _ in range(1 + _TIMED_ROUNDS):
        for backend, taken in zip(backends, times, strict=True):
            began = time.perf_counter()
            backend.infer(tensor)
            taken.append(time.perf_counter() - began)
    for backend in backends:
        backend.close()
    before, after = (min(taken[1:]) for taken in times)
    return before / after
