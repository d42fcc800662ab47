"""`verify()`: one model on two backends, or two files of it, compared tensor by tensor and box by box."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from retinasdk._util.pictures import seeded_picture
from retinasdk.backends.base import Backend, open_backend
from retinasdk.cuda.device import why_no_gpu
from retinasdk.detections import Detections
from retinasdk.errors import DeviceError, ModelError
from retinasdk.images import ImageInput, as_rgb
from retinasdk.models import find_model
from retinasdk.pipeline.postprocess import decode, sigmoid, suppress, to_detections
from retinasdk.pipeline.preprocess import Transform, preprocess
from retinasdk.pipeline.types import Candidates, HeadOutputs, Kept
from retinasdk.spec import ModelSpec
from retinasdk.tensorrt.engine_info import ENGINE_SUFFIX, PRECISIONS, EngineInfo
from retinasdk.verification.compare import TensorTally, are_among, pair_boxes
from retinasdk.verification.results import TOLERANCES, ImageDifference, TensorDifference, Tolerance, Verification

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["TOLERANCES", "ImageDifference", "TensorDifference", "Tolerance", "Verification", "verify"]

_HEADS = ("logits", "deltas")
_DEVICES = ("cpu", "cuda")
_BUILT_PRECISION = "fp16"  # of an engine that is built here

# Where no images are given, pictures of these (height, width): landscape, portrait, and sides that no stride divides.
_PICTURE_SIZES = ((480, 640), (640, 480), (427, 601))
_PICTURE_SCORE_THRESHOLD = 0.05  # they show nothing, so scores are low

# What two specs may differ in and still be compared: names, and thresholds, of which the reference's are used.
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
    progress: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> Verification:
    """Runs `model` on two backends and compares their head outputs and detections.

    model: a bundled name or the path of an ONNX file, which runs on the device `reference`.
    images: as `Detector` takes them; None: three seeded pictures.
    against: what is tested on `device`: another ONNX file, an engine, or an open backend; None: `model` again.
    precision: "fp32", "fp16" or "int8": whose tolerance holds, and that of an engine which is built for it. None: what
        an engine says of itself, "fp16" for one that is built, "fp32" on the CPU.
    spec: of both, where it is neither beside the files nor in them.
    score_threshold: boxes above are compared; None: the spec's, or 0.05 for the seeded pictures.
    progress: wraps the sequence of images, e.g. `tqdm.tqdm`.

    Raises `DeviceError` where a GPU is wanted and cannot be used, `ModelError` and `ImageError` for files, `ValueError`
    for what cannot be compared.
    """
    _check_options(reference, device, precision, score_threshold)
    tested_file = model if against is None else against if isinstance(against, (str, os.PathLike)) else None
    if against is None and reference == device == "cpu":
        raise ValueError(
            f"{model}: wanted two things to compare, got one file on one device; name another file to compare it "
            "against, or use device 'cuda'"
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
        found = tuple(comparison.add(name, image) for name, image in progress(named))
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
            f"{model} was to run on the GPU, which cannot be used here: {reason}; `retinasdk doctor` tells what to "
            "install, and two ONNX files can be compared without a GPU: --against other.onnx --device cpu"
        )


def _own_precision(path: Path, device: str) -> str:
    if path.suffix == ENGINE_SUFFIX:
        return EngineInfo.load(path).precision
    return _BUILT_PRECISION if device == "cuda" else "fp32"


def _check_comparable(wanted: ModelSpec, tested: ModelSpec) -> None:
    """Raises `ValueError` unless both see images and make boxes in the same way."""
    if wanted.labels != tested.labels:
        raise ValueError(
            f"wanted two models with the same labels in the same order, got {', '.join(wanted.labels)} and "
            f"{', '.join(tested.labels)}"
        )
    different = [
        field.name
        for field in dataclasses.fields(ModelSpec)
        if field.name not in _FREE_FIELDS and _comparable(wanted, field.name) != _comparable(tested, field.name)
    ]
    if different:
        raise ValueError(
            f"wanted two models with the same pre- and post-processing, but their specs differ in "
            f"{', '.join(different)}; compare their accuracy with `retinasdk eval` instead"
        )


def _comparable(spec: ModelSpec, name: str) -> object:
    """A field of the spec, without names of outputs."""
    if name == "levels":
        return [(level.base_anchors, level.stride) for level in spec.levels]
    return getattr(spec, name)


# -- images ------------------------------------------------------------------------------------------------------------


def _named(images: Sequence[ImageInput] | None) -> list[tuple[str, ImageInput]]:
    if images is None:
        return [(f"picture {seed}", seeded_picture(*size, seed)) for seed, size in enumerate(_PICTURE_SIZES)]
    if len(images) == 0:
        raise ValueError("images must hold at least one image, got none; leave them out for seeded pictures")
    return [
        (os.fspath(image) if isinstance(image, (str, os.PathLike)) else f"image {index}", image)
        for index, image in enumerate(images)
    ]


# -- the comparison ----------------------------------------------------------------------------------------------------


class _Comparison:
    """Runs both backends on one image after the other, and collects."""

    def __init__(self, wanted: Backend, tested: Backend, tolerance: Tolerance, score_threshold: float) -> None:
        self._wanted, self._tested = wanted, tested
        self._spec = wanted.spec
        self._tolerance = tolerance
        self._score_threshold = score_threshold
        # Scores may differ by the tolerance: a box just above the threshold can have its counterpart just below.
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
                    f"level {level}, {head}: wanted {mine.shape}, which the reference gives, got {theirs.shape}; "
                    "do both files hold the same network?"
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
        # What is the last of the best `top_k` here may come just behind them there.
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
        missing, missing_rivals = self._alone(first, pairs[:, 0], tested.known)
        extra, extra_rivals = self._alone(second, pairs[:, 1], wanted.known)
        return ImageDifference(
            image=name,
            reference=int((first.scores > self._score_threshold).sum()),
            tested=int((second.scores > self._score_threshold).sum()),
            missing=missing,
            extra=extra,
            rivals=missing_rivals + extra_rivals,
            max_score=float(np.abs(left.scores - right.scores).max(initial=0.0)),
            max_pixels=float(np.abs(left.xyxy - right.xyxy).max(initial=0.0)),
            postprocess=postprocess,
        )

    def _alone(self, boxes: Detections, paired: npt.NDArray[np.int64], known: Detections) -> tuple[int, int]:
        """How many boxes without a pair the other network does not know, and how many it does."""
        is_alone = boxes.scores > self._score_threshold
        is_alone[paired] = False
        is_known = are_among(boxes[is_alone], known, self._tolerance.iou, self._tolerance.score)
        return int((~is_known).sum()), int(is_known.sum())


@dataclass(frozen=True)
class _Boxes:
    """kept: what NMS left; found: the same in pixels of the image; known: all that the network gives a score for."""

    kept: Kept
    found: Detections
    known: Detections


def _are_equal(first: Kept | HeadOutputs, second: Kept | HeadOutputs) -> bool:
    """To the last bit: NaN equals itself, and 0 is not -0."""

    def content(value: Kept | HeadOutputs) -> list[bytes]:
        arrays: list[Any] = []
        for item in vars(value).values():
            arrays += item if isinstance(item, tuple) else [item]
        return [array.tobytes() for array in arrays]

    return content(first) == content(second)
