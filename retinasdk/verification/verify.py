"""`verify`: compares one model on two backends, or two files of it, tensor by tensor and box by box."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from retinasdk._util.pictures import seeded_picture
from retinasdk._util.progress import ProgressCallback, tracked
from retinasdk.backends.base import Backend, open_backend
from retinasdk.detections import Detections
from retinasdk.errors import DeviceError, ModelError
from retinasdk.images import ImageInput, as_rgb
from retinasdk.models import find_model
from retinasdk.pipeline.postprocess import decode, sigmoid, suppress, to_detections
from retinasdk.pipeline.preprocess import Transform, preprocess
from retinasdk.pipeline.types import Candidates, HeadOutputs, Kept
from retinasdk.spec import ModelSpec
from retinasdk.tensorrt.engine_info import ENGINE_SUFFIX, PRECISIONS, EngineInfo
from retinasdk.tensorrt.installed import why_no_gpu
from retinasdk.verification.compare import TensorTally, are_among, pair_boxes
from retinasdk.verification.results import TOLERANCES, ImageDifference, TensorDifference, Tolerance, Verification

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["TOLERANCES", "ImageDifference", "TensorDifference", "Tolerance", "Verification", "verify"]

_HEADS = ("logits", "deltas")
_DEVICES = ("cpu", "cuda")
_BUILT_PRECISION = "fp16"  # of an engine that is built for the comparison

# (height, width) of the generated pictures: landscape, portrait, and sides that no stride divides.
_PICTURE_SIZES = ((480, 640), (640, 480), (427, 601))
_PICTURE_SCORE_THRESHOLD = 0.05  # they show no objects, so scores are low

# Fields in which two specs may differ: names, and the score threshold, for which the reference's is used.
_FREE_FIELDS = ("name", "flavour", "source", "input", "score_threshold")


def verify(
    model: str | os.PathLike[str],
    images: Sequence[ImageInput] | None = None,
    *,
    reference: str = "cpu",
    device: str = "cuda",
    against: str | os.PathLike[str] | Backend | None = None,
    precision: str | None = None,
    spec: ModelSpec | None = None,
    score_threshold: float | None = None,
    progress: ProgressCallback | None = None,
) -> Verification:
    """Runs a model on two backends and compares their head outputs and detections.

    Args:
        model: Name of a bundled model or path of an ONNX file. It runs on the device `reference`.
        images: Images as `Detector` accepts them. Defaults to three generated pictures.
        reference: Device of the reference, "cpu" or "cuda".
        device: Device of the tested model, "cpu" or "cuda".
        against: What is tested on `device`: another ONNX file, an engine, or an open backend. Defaults to `model`.
        precision: "fp32", "fp16" or "int8": selects the tolerance, and the precision of an engine that is built.
            Defaults to the precision of a given engine, "fp16" for an engine that is built, "fp32" on the CPU.
        spec: Spec of both, if it is neither beside the files nor in them.
        score_threshold: Boxes with scores above it are compared, 0 to 1. Defaults to the spec's, or 0.05 for the
            generated pictures.
        progress: Called with a `retinasdk.Progress` for each image.

    Raises:
        DeviceError: If the GPU is asked for and cannot be used.
        ModelError: If a model file cannot be used.
        ImageError: If an image cannot be read.
        ValueError: If the two cannot be compared.

    Example:
        ```python notest
        result = retinasdk.verify("people", against="people8.onnx", device="cpu", precision="int8")
        print(result.passed, result.failures)
        ```
    """
    _check_options(reference, device, precision, score_threshold)
    tested_file = model if against is None else against if isinstance(against, (str, os.PathLike)) else None
    if against is None and reference == device == "cpu":
        raise ValueError(
            f"{model}: nothing to compare, since it is one file on one device; give another file (against=, or "
            "--against on the command line), or test it on the GPU with device='cuda'"
        )
    if "cuda" in (reference, device if tested_file is not None else reference):
        _check_gpu(model)
    with ExitStack() as opened:

        def open_one(given: str | os.PathLike[str], device: str, precision: str) -> tuple[str, Backend]:
            path = find_model(given)
            backend = open_backend(path, device=device, spec=spec, threads=None, precision=precision)
            opened.callback(backend.close)
            return f"{path.name} on {device}", backend

        if tested_file is not None:
            precision = precision or _own_precision(find_model(tested_file), device)
            tested_name, tested = open_one(tested_file, device, precision)
        else:
            precision = precision or "fp32"
            tested = cast(Backend, against)
            tested_name = f"{tested.spec.name} on {tested.device}"
        reference_name, wanted = open_one(model, reference, "fp32")
        _check_comparable(wanted.spec, tested.spec)

        named = _named(images)
        if score_threshold is None:
            score_threshold = wanted.spec.score_threshold if images is not None else _PICTURE_SCORE_THRESHOLD
        comparison = _Comparison(wanted, tested, TOLERANCES[precision], score_threshold)
        found = tuple(comparison.add(name, image) for name, image in tracked(named, progress, "compare", "image"))
        return Verification(
            reference=reference_name,
            tested=tested_name,
            precision=precision,
            tolerance=TOLERANCES[precision],
            score_threshold=score_threshold,
            tensors=comparison.tensors,
            images=found,
        )


def _check_options(reference: str, device: str, precision: str | None, score_threshold: float | None) -> None:
    for name, value in (("reference", reference), ("device", device)):
        if value not in _DEVICES:
            raise ValueError(f"{name} must be one of {', '.join(_DEVICES)}; got {value!r}")
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")
    if score_threshold is not None and not 0.0 <= score_threshold <= 1.0:
        raise ValueError(f"score_threshold must be a number from 0 to 1, got {score_threshold!r}")


def _check_gpu(model: object) -> None:
    reason = why_no_gpu()
    if reason is not None:
        raise DeviceError(
            f"{model} cannot run on the GPU here: {reason}. `retinasdk doctor` says what to install. Two ONNX files "
            "can be compared without a GPU: retinasdk verify MODEL --against OTHER.onnx --device cpu"
        )


def _own_precision(path: Path, device: str) -> str:
    if path.suffix == ENGINE_SUFFIX:
        return EngineInfo.load(path).precision
    return _BUILT_PRECISION if device == "cuda" else "fp32"


def _check_comparable(wanted: ModelSpec, tested: ModelSpec) -> None:
    """Raises `ValueError` unless both specs preprocess images and make boxes in the same way."""
    if wanted.labels != tested.labels:
        raise ValueError(
            f"both models must have the same labels in the same order, got {', '.join(wanted.labels)} and "
            f"{', '.join(tested.labels)}"
        )
    different = [
        field.name
        for field in dataclasses.fields(ModelSpec)
        if field.name not in _FREE_FIELDS and _comparable(wanted, field.name) != _comparable(tested, field.name)
    ]
    if different:
        raise ValueError(
            f"both models must have the same preprocessing and post-processing, but their specs differ in "
            f"{', '.join(different)}; compare their accuracy with `retinasdk eval` instead"
        )


def _comparable(spec: ModelSpec, name: str) -> object:
    """Returns a field of the spec, without the names of outputs."""
    if name == "levels":
        return [(level.base_anchors, level.stride) for level in spec.levels]
    return getattr(spec, name)


# -- images ------------------------------------------------------------------------------------------------------------


def _named(images: Sequence[ImageInput] | None) -> list[tuple[str, ImageInput]]:
    if images is None:
        return [(f"picture {seed}", seeded_picture(*size, seed)) for seed, size in enumerate(_PICTURE_SIZES)]
    if len(images) == 0:
        raise ValueError("images must contain at least one image, got none; leave it out to use generated pictures")
    return [
        (os.fspath(image) if isinstance(image, (str, os.PathLike)) else f"image {index}", image)
        for index, image in enumerate(images)
    ]


# -- the comparison ----------------------------------------------------------------------------------------------------


class _Comparison:
    """Runs both backends on one image after the other and collects the differences."""

    def __init__(self, wanted: Backend, tested: Backend, tolerance: Tolerance, score_threshold: float) -> None:
        self._wanted, self._tested = wanted, tested
        self._spec = wanted.spec
        self._tolerance = tolerance
        self._score_threshold = score_threshold
        # A box just above the threshold may have its counterpart just below, by up to the tolerance.
        self._low_threshold = max(0.0, score_threshold - tolerance.score)
        ignored = set(self._spec.ignore_labels)
        reported = [index for index, label in enumerate(self._spec.labels) if label not in ignored]
        self._class_ids = reported if ignored else []
        self._tallies = {
            (level, head): TensorTally(tolerance.element) for head in _HEADS for level in range(len(self._spec.levels))
        }

    def add(self, name: str, image: ImageInput) -> ImageDifference:
        pixels = as_rgb(image)
        transform = Transform.plan(pixels.shape[:2], self._spec)
        tensor = preprocess([pixels], [transform], self._spec).tensor
        wanted_heads, tested_heads = self._wanted.infer(tensor), self._tested.infer(tensor)
        for (level, head), tally in self._tallies.items():
            mine, theirs = getattr(wanted_heads, head)[level], getattr(tested_heads, head)[level]
            if mine.shape != theirs.shape:
                raise ModelError(
                    f"level {level}, {head}: the reference gives {mine.shape}, the tested model {theirs.shape}; "
                    "do both files contain the same network?"
                )
            tally.add(mine, theirs)

        detected = self._tested.detect(
            [self._tested.read(pixels)],
            [transform],
            score_threshold=self._low_threshold,
            class_ids=self._class_ids,
        )[0]
        wanted = self._boxes(wanted_heads, self._spec, transform)
        tested = self._boxes(tested_heads, self._tested.spec, transform)
        if _are_equal(detected, tested.kept):
            postprocess = "equal"
        else:
            is_repeatable = _are_equal(self._tested.infer(tensor), tested_heads)
            postprocess = "different" if is_repeatable else "undecided"
        return self._compare_boxes(name, wanted, tested, postprocess)

    @property
    def tensors(self) -> tuple[TensorDifference, ...]:
        return tuple(
            TensorDifference(
                level=level,
                head=head,
                name=getattr(self._spec.levels[level], head),
                max_abs=tally.max_abs,
                max_relative=tally.max_relative,
                share_beyond=tally.share_beyond,
                not_finite=tally.not_finite,
            )
            for (level, head), tally in self._tallies.items()
        )

    def _boxes(self, heads: HeadOutputs, spec: ModelSpec, transform: Transform) -> _Boxes:
        found = self._decoded(heads, spec, transform)
        kept = suppress(found, spec)[0]
        # The last of the best `top_k` of one network may fall just outside them in the other.
        more = self._decoded(heads, spec.replace(top_k=min(2 * spec.top_k, 1 << 20)), transform)
        count = more.counts[0]
        known = Kept(more.boxes[0, :count], sigmoid(more.logits[0, :count]), more.class_ids[0, :count])
        return _Boxes(kept, *to_detections([kept, known], spec, [transform] * 2))

    def _decoded(self, heads: HeadOutputs, spec: ModelSpec, transform: Transform) -> Candidates:
        return decode(heads, spec, [transform], score_threshold=self._low_threshold, class_ids=self._class_ids)

    def _compare_boxes(self, name: str, wanted: _Boxes, tested: _Boxes, postprocess: str) -> ImageDifference:
        first, second, tolerance = wanted.found, tested.found, self._tolerance
        pairs = pair_boxes(first, second, tolerance.iou)
        counts = (first.scores[pairs[:, 0]] > self._score_threshold) | (
            second.scores[pairs[:, 1]] > self._score_threshold
        )
        left, right = first[pairs[counts, 0]], second[pairs[counts, 1]]
        missing, missing_suppressed = self._alone(first, pairs[:, 0], tested.known)
        extra, extra_suppressed = self._alone(second, pairs[:, 1], wanted.known)
        return ImageDifference(
            image=name,
            reference=int((first.scores > self._score_threshold).sum()),
            tested=int((second.scores > self._score_threshold).sum()),
            missing=missing,
            extra=extra,
            suppressed_in_one=missing_suppressed + extra_suppressed,
            max_score=float(np.abs(left.scores - right.scores).max(initial=0.0)),
            max_pixels=float(np.abs(left.xyxy - right.xyxy).max(initial=0.0)),
            postprocess=postprocess,
        )

    def _alone(self, boxes: Detections, paired: npt.NDArray[np.int64], known: Detections) -> tuple[int, int]:
        """Counts boxes without a pair that the other network does not score, and those that it does."""
        is_alone = boxes.scores > self._score_threshold
        is_alone[paired] = False
        is_known = are_among(boxes[is_alone], known, self._tolerance.iou, self._tolerance.score)
        return int((~is_known).sum()), int(is_known.sum())


@dataclass(frozen=True)
class _Boxes:
    """Boxes of one network: what NMS kept, the same in pixels of the image, and all boxes that it scores."""

    kept: Kept
    found: Detections
    known: Detections


def _are_equal(first: Kept | HeadOutputs, second: Kept | HeadOutputs) -> bool:
    """Compares bit for bit: NaN equals itself, and 0 differs from -0."""

    def content(value: Kept | HeadOutputs) -> list[bytes]:
        arrays: list[Any] = []
        for item in vars(value).values():
            arrays += item if isinstance(item, tuple) else [item]
        return [array.tobytes() for array in arrays]

    return content(first) == content(second)
