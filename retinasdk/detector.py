"""`Detector`: images in, detections out. What happens between on either device is one method: `detect` in backends/."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from retinasdk._util.labels import class_ids_of
from retinasdk.backends.base import DEFAULT_CONVOLUTION, open_backend
from retinasdk.detections import Detections
from retinasdk.images import ImageInput
from retinasdk.models import DEFAULT_MODEL, find_model
from retinasdk.pipeline.call_options import ScoreThreshold, Thresholds, checked_regions, checked_thresholds
from retinasdk.pipeline.postprocess import to_detections
from retinasdk.pipeline.preprocess import Transform
from retinasdk.pipeline.stage_timing import stage
from retinasdk.pipeline.suppression import AS_FRAMEWORK, Suppression
from retinasdk.pipeline.throughput import Prediction, predict
from retinasdk.spec import ModelSpec
from retinasdk.tiling.grid import TilesOption, check_tiles, resolve
from retinasdk.tiling.tiled_detection import detect_tiled
from retinasdk.tiling.windows import open_windows

if TYPE_CHECKING:
    import numpy.typing as npt

# Of a list, so many images are in memory at a time, and so many pixels go through the network together: activations
# take far more memory than pixels.
_MAX_IMAGES = 16
_MAX_BATCH_PIXELS = 1 << 23


class Detector:
    """A RetinaNet, loaded once and called often.

    model: a bundled name (`retinasdk.list_models()`), the path of a heads-only ONNX file, or None for "people"; or, for
        the GPU, the path of an engine that `retinasdk build` made of one.
    device: "auto", "cpu" or "cuda"; "auto" is the GPU where one can be used, else the CPU.
    score_threshold: scores strictly above are reported; None: the spec's. Any call may give its own. A mapping gives
        one to each label it names: {"person": 0.6}; the others have the spec's.
    spec: the model's spec, where it is neither beside the file nor in it.
    threads: of the CPU inside one call; None: one for each core. The GPU path does not need it.
    precision: "fp32", "fp16" or "int8" of the engine that is built where the GPU is given an ONNX file; None: "fp16".
        The CPU always computes in float32.
    suppression: what becomes of boxes that overlap; None: what the model's framework does.
    convolution: of the CPU, "auto" or "direct"; "auto" computes 3x3 ones by Winograd's algorithm where that is faster,
        which rounds otherwise than "direct" (heads agree within 1e-3 of their range) and takes more memory (a ResNet-50
        at 800 x 1088: 1.2 GB in place of 0.75).

    One detector may be called from many threads at once: a call keeps everything it needs to itself.

    Raises `ModelError` for model files, `DeviceError` for devices, `ValueError` for the rest.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        device: str = "auto",
        score_threshold: ScoreThreshold | None = None,
        spec: ModelSpec | None = None,
        threads: int | None = None,
        precision: str | None = None,
        suppression: Suppression | None = None,
        convolution: str = DEFAULT_CONVOLUTION,
    ) -> None:
        if threads is not None and (not isinstance(threads, int) or threads < 1):
            raise ValueError(f"threads must be an integer of at least 1, got {threads!r}; leave it out for one a core")
        if spec is not None and not isinstance(spec, ModelSpec):
            raise TypeError(f"spec must be a ModelSpec, got {type(spec).__name__}; read one with ModelSpec.load(path)")
        if not isinstance(suppression, (Suppression, type(None))):
            raise TypeError(f"suppression must be a Suppression, got {suppression!r}; give retinasdk.Suppression(...)")
        path = find_model(DEFAULT_MODEL if model is None else model)
        self.suppression: Suppression = suppression or AS_FRAMEWORK
        self._backend = open_backend(
            path,
            device=device,
            spec=spec,
            threads=threads,
            precision=precision,
            suppression=self.suppression,
            convolution=convolution,
        )
        self.model_path: Path = path
        self.spec: ModelSpec = self._backend.spec
        # One for all classes, or one for each class index.
        self.score_threshold: Thresholds = self.spec.score_threshold
        if score_threshold is not None:
            self.score_threshold = checked_thresholds(score_threshold, self.labels, self.spec.score_threshold)
        ignored = set(self.spec.ignore_labels)
        reported = [index for index, label in enumerate(self.spec.labels) if label not in ignored]
        self._default_class_ids = reported if ignored else []

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names by class index."""
        return self.spec.labels

    @property
    def device(self) -> str:
        """Where the network runs: "cpu" or "cuda"."""
        return self._backend.device

    @overload
    def __call__(
        self,
        image: ImageInput,
        *,
        score_threshold: ScoreThreshold | None = ...,
        classes: Sequence[str | int] | None = ...,
        ignore: Sequence[Sequence[float]] = ...,
        tiles: TilesOption = ...,
    ) -> Detections: ...

    @overload
    def __call__(
        self,
        image: list[ImageInput] | tuple[ImageInput, ...],
        *,
        score_threshold: ScoreThreshold | None = ...,
        classes: Sequence[str | int] | None = ...,
        ignore: Sequence[Sequence[float]] = ...,
        tiles: TilesOption = ...,
    ) -> list[Detections]: ...

    def __call__(
        self,
        image: ImageInput | list[ImageInput] | tuple[ImageInput, ...],
        *,
        score_threshold: ScoreThreshold | None = None,
        classes: Sequence[str | int] | None = None,
        ignore: Sequence[Sequence[float]] = (),
        tiles: TilesOption = None,
    ) -> Detections | list[Detections]:
        """Detects in one image, or in each of a list.

        image: a path, a PIL image or RGB uint8 (H, W, 3); or a list of them, of any sizes. Images of a list whose
            network inputs are of one size go through the network together; the result is that of single calls.
            device="cuda" also takes arrays that lie on the GPU (CuPy, PyTorch, ...), and does not copy them.
        score_threshold: as for the detector, whose own holds for labels that a mapping does not name.
        classes: only these (names or indices), as if the model knew no others.
        ignore: regions (x1, y1, x2, y2) in pixels of each image, at most 64. A box of which more than half of the area
            lies in one of them is left out before any is suppressed.
        tiles: a large image is cut, and each part goes through the network on its own: see `Tiles`. "auto": where the
            network would else see it much smaller than it is (`Tiles.auto`). On the CPU all cores work on tiles at
            once. What is not decoded before is read band by band where it can be (windows.py), so that memory does
            not grow with the image.

        Returns one `Detections` for an image, a list of them for a list.
        Raises `ImageError`, `TypeError` or `ValueError` for images, `ValueError` for options.
        """
        threshold = self.score_threshold
        if score_threshold is not None:
            threshold = checked_thresholds(score_threshold, self.labels, self.score_threshold)
        class_ids = self._default_class_ids if classes is None else class_ids_of(classes, self.labels)
        regions = checked_regions(ignore)
        check_tiles(tiles)
        if tiles is not None:
            images = image if isinstance(image, (list, tuple)) else [image]
            found = [self._detect_tiled(item, tiles, threshold, class_ids, regions) for item in images]
            return found if isinstance(image, (list, tuple)) else found[0]
        if not isinstance(image, (list, tuple)):
            return self._detect([self._backend.read(image)], threshold, class_ids, regions)[0]
        results: list[Detections] = []
        for start in range(0, len(image), _MAX_IMAGES):
            images = [self._backend.read(item) for item in image[start : start + _MAX_IMAGES]]
            results += self._detect(images, threshold, class_ids, regions)
        return results

    def predict(self, images: Iterable[ImageInput], *, batch: int = 1, **options: Any) -> Iterator[Prediction]:
        """Detects in many images, for throughput: several are worked on at once, from file to boxes.

        images: any iterable of what a call takes, a generator too; it is asked for the next ones as results are taken,
            so memory stays bounded: 2 * `batch` images for each core (on the GPU: for each of two threads).
        batch: so many go through the network together, where their network inputs are of one size. On the CPU 1 is
            best; on the GPU larger ones may be.
        options: as in a call.

        Yields a `Prediction` for each image, in order; an image that cannot be read or detected in gives one with its
        `error`, and the next ones follow. The first use loads the network once more, for one thread a worker.
        Raises `TypeError` and `ValueError` for options at once, `DeviceError` once closed, and what `images` raises.
        """
        if not isinstance(batch, int) or not 1 <= batch <= _MAX_IMAGES:
            raise ValueError(f"batch must be an integer from 1 to {_MAX_IMAGES}, got {batch!r}")
        if isinstance(images, (str, os.PathLike, np.ndarray)):
            raise TypeError(
                f"images must be an iterable of images, got one {type(images).__name__}; for one image call the "
                "detector, for a folder give retinasdk.list_images(folder)"
            )
        source = iter(images)
        backend, workers = self._backend.for_workers()
        worker = copy.copy(self)
        worker._backend = backend
        worker([], **options)  # wrong options are told here, not by the first image
        return predict(source, lambda members: worker(members, **options), batch=batch, workers=workers)

    def _detect(
        self, images: list[Any], score_threshold: Thresholds, class_ids: list[int], ignore: npt.NDArray[np.float32]
    ) -> list[Detections]:
        transforms = [Transform.plan(image.shape[:2], self.spec) for image in images]
        results: dict[int, Detections] = {}
        for members in self._batches(transforms):
            batch, plans = [images[i] for i in members], [transforms[i] for i in members]
            kept = self._backend.detect(
                batch, plans, score_threshold=score_threshold, class_ids=class_ids, ignore=ignore
            )
            with stage("postprocess"):
                results.update(zip(members, to_detections(kept, self.spec, plans), strict=True))
        return [results[i] for i in range(len(images))]

    def _detect_tiled(
        self,
        image: ImageInput,
        tiles: TilesOption,
        score_threshold: Thresholds,
        class_ids: list[int],
        ignore: npt.NDArray[np.float32],
    ) -> Detections:
        with open_windows(image, self._backend.read) as windows:
            resolved = resolve(tiles, self.spec, *windows.size)
            if resolved is None:
                whole = self._backend.read(windows.whole(windows.size))
                return self._detect([whole], score_threshold, class_ids, ignore)[0]
            # On the CPU a worker for each core is best off with one tile at a time.
            # So it is where there are regions: they lie elsewhere in each tile.
            size = (
                1
                if self.device == "cpu" or len(ignore)
                else self._batch_size(Transform.plan(resolved.sides, self.spec).padded)
            )
            return detect_tiled(
                windows,
                resolved,
                self._backend,
                batch=self._backend.fixed_batch or size,
                score_threshold=score_threshold,
                class_ids=class_ids,
                ignore=ignore,
                suppression=self.suppression,
            )

    def _batch_size(self, padded: tuple[int, int]) -> int:
        """How many images of that padded size go through the network together."""
        fits = min(max(1, _MAX_BATCH_PIXELS // (padded[0] * padded[1])), self._backend.max_batch or _MAX_IMAGES)
        return self._backend.fixed_batch or fits

    def _batches(self, transforms: list[Transform]) -> Iterable[list[int]]:
        """Indices of the images that go through the network together: those of one padded size."""
        groups: dict[tuple[int, int], list[int]] = {}
        for index, transform in enumerate(transforms):
            groups.setdefault(transform.padded, []).append(index)
        for padded, members in groups.items():
            size = self._batch_size(padded)
            for start in range(0, len(members), size):
                yield members[start : start + size]

    def __repr__(self) -> str:
        return f"Detector({self.spec.name!r}, {len(self.labels)} classes, device={self.device!r})"

    def close(self) -> None:
        """Releases the network; later calls raise `DeviceError`. May be called twice."""
        self._backend.close()

    def __enter__(self) -> Detector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
