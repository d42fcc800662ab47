"""`Detector`: images in, detections out. The work on each device is done by `detect` of its backend."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from retinasdk._util.labels import Classes, class_ids_of
from retinasdk._util.progress import Progress, ProgressCallback
from retinasdk.backends.base import open_backend
from retinasdk.backends.convolution import DEFAULT_CONVOLUTION, ConvolutionChoice
from retinasdk.cuda.decoded_frame import is_decoded_frame
from retinasdk.cuda.device_frame import DeviceFrame
from retinasdk.detections import Detections
from retinasdk.images import ChannelOrder, ImageInput, as_rgb, check_channel_order, list_images
from retinasdk.models import DEFAULT_MODEL, find_model
from retinasdk.pipeline.call_options import (
    ScoreThreshold,
    Thresholds,
    checked_regions,
    checked_thresholds,
    explains_keywords,
)
from retinasdk.pipeline.postprocess import to_detections
from retinasdk.pipeline.preprocess import Transform
from retinasdk.pipeline.rules import check_suppression
from retinasdk.pipeline.stage_timing import collect, stage
from retinasdk.pipeline.suppression import AS_FRAMEWORK, Suppression
from retinasdk.pipeline.throughput import Prediction, predict
from retinasdk.spec import ModelSpec
from retinasdk.tiling.grid import TilesOption, check_tiles, resolve, why_pointless
from retinasdk.tiling.tiled_detection import detect_tiled
from retinasdk.tiling.windows import open_windows

if TYPE_CHECKING:
    import numpy.typing as npt

# Of a list, so many images are in memory at a time, and so many pixels go through the network together: activations
# take far more memory than pixels.
_MAX_IMAGES = 16
_MAX_THREADS = 1024
_CALLER = 4  # frames from a warning in `_detect_tiled` to the line that called the detector
_MAX_BATCH_PIXELS = 1 << 23


class Detector:
    """Runs a RetinaNet model on images. Load it once and call it often.

    One detector may be called from several threads at once.

    Example:
        >>> import retinasdk
        >>> detector = retinasdk.Detector()
        >>> found = detector("examples/photos/people/astronaut.jpg", classes="person")
        >>> found[0].label
        'person'
        >>> found.save("marked.jpg")

        An image that OpenCV read has its channels in the order BGR:

        >>> import cv2  # doctest: +SKIP
        >>> found = detector(cv2.imread("examples/photos/people/astronaut.jpg"), channel_order="bgr")  # doctest: +SKIP

    Args:
        model: Name of a bundled model (`retinasdk.list_models()`), path of a heads-only ONNX file, or path of an
            engine that `retinasdk build` wrote, for the GPU. Defaults to "people".
        device: "auto", "cpu", "cuda" or "cuda:0". "auto" uses the GPU if there is one that works, else the CPU.
        score_threshold: Only scores strictly above it are reported; 0 to 1. A mapping such as {"person": 0.6} sets
            it for some labels. Defaults to the spec's. Calls may override it.
        spec: The model's spec. Defaults to the one beside the file or in its metadata.
        threads: Number of CPU threads per call. Defaults to the number of cores. Ignored on the GPU.
        precision: "fp32", "fp16" or "int8": precision of the engine that is built if the GPU is given an ONNX file.
            Defaults to "fp16". The CPU always computes in float32.
        suppression: How overlapping boxes are resolved. Defaults to the rule of the model's framework.
        convolution: Which convolutions the CPU uses. "direct": those of ONNX Runtime. "blocked": those of retinasdk.
            "auto": what is faster on this machine. To find out, a model is measured for two to five seconds when it is
            first opened, and the result is kept in the cache folder; the environment variable RETINASDK_TUNE=0 turns
            that off. The rounding of "blocked" differs from "direct": head outputs agree within 1e-3 of their range.
        channel_order: Channel order of NumPy arrays: "rgb" (default), or "bgr" for arrays from OpenCV. It does not
            apply to files, Pillow images and arrays on the GPU. Calls may override it.

    Attributes:
        model_path: Path of the model file.
        spec: The model's `ModelSpec`.
        suppression: How overlapping boxes are resolved.
        score_threshold: One threshold for all classes, or a tuple with one for each class index.
        channel_order: Channel order of NumPy arrays, "rgb" or "bgr".

    Raises:
        ModelError: If the model file or its spec cannot be used.
        DeviceError: If the device is not available.
        ValueError: If another argument is out of range.
        TypeError: If an argument has the wrong type or an unknown name.
    """

    @explains_keywords
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
        channel_order: ChannelOrder = "rgb",
    ) -> None:
        check_channel_order(channel_order)
        if threads is not None and (not isinstance(threads, int) or not 1 <= threads <= _MAX_THREADS):
            raise ValueError(
                f"threads must be an integer from 1 to {_MAX_THREADS}, got {threads!r}; leave it out for one a core"
            )
        if spec is not None and not isinstance(spec, ModelSpec):
            raise TypeError(f"spec must be a ModelSpec, got {type(spec).__name__}; read one with ModelSpec.load(path)")
        if not isinstance(suppression, (Suppression, type(None))):
            raise TypeError(f"suppression must be a Suppression, got {suppression!r}; give retinasdk.Suppression(...)")
        path = find_model(DEFAULT_MODEL if model is None else model)
        self.suppression: Suppression = suppression or AS_FRAMEWORK
        self._backend = open_backend(
            path,
            device=_device_kind(device),
            spec=spec,
            threads=threads,
            precision=precision,
            suppression=self.suppression,
            convolution=convolution,
        )
        try:
            check_suppression(self.suppression, self._backend.spec)
        except ValueError:
            self._backend.close()
            raise
        self.channel_order: ChannelOrder = channel_order
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
        """Class names, in the order of the class indices."""
        return self.spec.labels

    @property
    def names(self) -> dict[int, str]:
        """Class names as {class index: name}."""
        return dict(enumerate(self.spec.labels))

    @property
    def device(self) -> str:
        """Where the network runs: "cpu" or "cuda"."""
        return self._backend.device

    @property
    def convolution(self) -> ConvolutionChoice | None:
        """Which convolutions the network uses on the CPU, and why, with the measured times. None on the GPU."""
        return self._backend.convolution

    @property
    def calls_at_once(self) -> int:
        """How many calls at a time, from separate threads, keep the device busy.

        1 on the CPU, where one call uses all cores. 2 on the GPU: the host's part of one call runs during the GPU's
        part of the other. More calls are possible, but hardly faster.
        """
        return 2 if self.device == "cuda" else 1

    @overload
    def __call__(
        self,
        image: ImageInput,
        *,
        score_threshold: ScoreThreshold | None = ...,
        classes: Classes | None = ...,
        ignore: Sequence[Sequence[float]] = ...,
        tiles: TilesOption = ...,
        channel_order: ChannelOrder | None = ...,
        progress: ProgressCallback | None = ...,
    ) -> Detections: ...

    @overload
    def __call__(
        self,
        image: list[ImageInput] | tuple[ImageInput, ...],
        *,
        score_threshold: ScoreThreshold | None = ...,
        classes: Classes | None = ...,
        ignore: Sequence[Sequence[float]] = ...,
        tiles: TilesOption = ...,
        channel_order: ChannelOrder | None = ...,
        progress: ProgressCallback | None = ...,
    ) -> list[Detections]: ...

    @explains_keywords
    def __call__(
        self,
        image: ImageInput | list[ImageInput] | tuple[ImageInput, ...],
        *,
        score_threshold: ScoreThreshold | None = None,
        classes: Classes | None = None,
        ignore: Sequence[Sequence[float]] = (),
        tiles: TilesOption = None,
        channel_order: ChannelOrder | None = None,
        progress: ProgressCallback | None = None,
    ) -> Detections | list[Detections]:
        """Detects objects in one image, or in each image of a list.

        Example:
            >>> import retinasdk
            >>> detector = retinasdk.Detector("people")
            >>> found = detector("examples/photos/people/astronaut.jpg", score_threshold=0.6)
            >>> for item in found:
            ...     print(item.label, round(item.score, 2), [round(edge) for edge in item.xyxy])
            person 0.77 [44, 23, 354, 473]

        Args:
            image: A path; bytes or a binary, seekable file object of an image file; a Pillow image; or an array, RGB
                uint8 (H, W, 3) or grey (H, W). Or a list of them, of any sizes: images whose network inputs have the
                same size are run as one batch, with the results of single calls. device="cuda" also takes images in
                GPU memory and does not copy them: RGB arrays (CuPy, PyTorch), a `DeviceFrame` of a camera or decoder,
                and the frames of pynvvideocodec.
            score_threshold: Overrides the detector's threshold. Labels that a mapping does not name keep theirs.
            classes: A class name, or a sequence of names or indices. The model then runs as if it knew no others.
            ignore: At most 64 regions (x1, y1, x2, y2) in pixels of the image. A box with more than half of its area
                in one region is dropped before suppression.
            tiles: Cuts a large image into tiles that are detected separately: `Tiles(...)`, the side of a tile in
                pixels, or "auto" to cut if the network would otherwise see the image much smaller than it is. On the
                CPU all cores work on tiles at once. Large files are read in bands if their format allows. Hundreds of
                tiles that the network must enlarge 6 times or more are most likely a mistake, and cause a warning.
            channel_order: Overrides the detector's channel order of NumPy arrays: "rgb" or "bgr".
            progress: Called with a `retinasdk.Progress` as the work proceeds: for each tile of each image with `tiles`,
                otherwise for each group of images. If it raises an exception, the call ends with that exception.

        Returns:
            `Detections` for an image, a list of them for a list.

        Raises:
            ImageError: If an image cannot be read.
            ValueError: If an image array or an option is out of range.
            TypeError: If an argument has the wrong type or an unknown name.
            DeviceError: If the detector is closed or the device fails.
        """
        threshold = self.score_threshold
        if score_threshold is not None:
            threshold = checked_thresholds(score_threshold, self.labels, self.score_threshold)
        class_ids = self._default_class_ids if classes is None else class_ids_of(classes, self.labels)
        regions = checked_regions(ignore)
        check_tiles(tiles)
        order = self.channel_order if channel_order is None else channel_order
        check_channel_order(order)
        given = list(image) if isinstance(image, (list, tuple)) else [image]
        results: list[Detections] = []
        step = _MAX_IMAGES if tiles is None else 1
        for start in range(0, len(given), step):
            if tiles is None and progress is not None:
                progress(Progress("detect", start, len(given), "image"))
            members = given[start : start + step]
            with collect() as seconds:
                if tiles is None:
                    images = [self._backend.read(_in_rgb(item, order)) for item in members]
                    found = self._detect(images, threshold, class_ids, regions)
                    sizes = [(int(item.shape[0]), int(item.shape[1])) for item in images]
                else:
                    one, size = self._detect_tiled(
                        _in_rgb(members[0], order), tiles, threshold, class_ids, regions, progress
                    )
                    found, sizes = [one], [size]
            timing = {name: value / len(members) for name, value in seconds.items()}
            for item, size, result in zip(members, sizes, found, strict=True):
                # A decoder's surface that detections kept would be missing to the decoder.
                is_surface = isinstance(item, DeviceFrame) or is_decoded_frame(item)
                results.append(result._attach(None if is_surface else item, size, timing, order))
        if tiles is None and progress is not None:
            progress(Progress("detect", len(given), len(given), "image"))
        return results if isinstance(image, (list, tuple)) else results[0]

    def predict(
        self, images: ImageInput | Iterable[ImageInput], *, batch: int = 1, **options: Any
    ) -> Iterator[Prediction]:
        """Detects objects in many images with high throughput, several at a time.

        The first use loads the network once more, with one thread per worker.

        Example:
            >>> import retinasdk
            >>> detector = retinasdk.Detector()
            >>> for prediction in detector.predict("examples/photos/people"):
            ...     print(prediction.index, prediction.error or len(prediction.detections))
            0 1
            1 1

        Args:
            images: An iterable of what a call takes, a generator for example; or one image; or the path of a folder,
                whose images are taken in the order of `retinasdk.list_images`. Images are requested as results are
                consumed, so at most 2 * `batch` images per core are in memory. On the GPU, two batches are in work at
                a time and two wait: while the GPU works on one, the next is read and copied to pinned memory.
            batch: Number of images per batch, 1 to 16, if their network inputs have the same size. 1 is best on the
                CPU; larger batches can be faster on the GPU.
            **options: The options of a call, except `progress`: the results that come are the progress.

        Yields:
            A `Prediction` for each image, in order. If an image fails, its `error` is set and the next ones follow.

        Raises:
            TypeError: If an option has the wrong type or an unknown name; raised at once.
            ValueError: If an option is out of range; raised at once.
            DeviceError: If the detector is closed, or the device fails on ten images in a row.
        """
        if not isinstance(batch, int) or not 1 <= batch <= _MAX_IMAGES:
            raise ValueError(f"batch must be an integer from 1 to {_MAX_IMAGES}, got {batch!r}")
        if "progress" in options:
            raise TypeError("progress belongs to a call of the detector; count the results of predict() as they come")
        source = iter(_many(images))
        backend, workers = self._backend.for_workers()
        worker = copy.copy(self)
        worker._backend = backend
        worker([], **options)  # raises for wrong options now, not at the first image
        return predict(source, lambda members: worker(members, **options), batch=batch, workers=workers)

    def warmup(self, height: int = 480, width: int = 640) -> None:
        """Runs the model once on a black image, so that the first real call is not slower than the next ones.

        Args:
            height: Height of the image in pixels. Give the size of your images.
            width: Width of the image in pixels.
        """
        self(np.zeros((height, width, 3), np.uint8))

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
        progress: ProgressCallback | None,
    ) -> tuple[Detections, tuple[int, int]]:
        """The detections, and the image's (height, width)."""
        with open_windows(image, self._backend.read) as windows:
            resolved = resolve(tiles, self.spec, *windows.size)
            if resolved is not None and self.spec.is_rotated:
                raise ValueError(
                    "tiles do not work with rotated boxes yet, because boxes of overlapping tiles cannot be merged; "
                    "leave tiles out, or cut the image and detect in each part"
                )
            if resolved is None:
                whole = self._backend.read(windows.whole(windows.size))
                return self._detect([whole], score_threshold, class_ids, ignore)[0], windows.size
            if why := why_pointless(resolved.plan(*windows.size), self.spec):
                warnings.warn(f"{why}; choose larger tiles, such as tiles=640", stacklevel=_CALLER)
            # On the CPU a worker for each core is best off with one tile at a time.
            # So it is where there are regions: they lie elsewhere in each tile.
            size = (
                1
                if self.device == "cpu" or len(ignore)
                else self._batch_size(Transform.plan(resolved.sides, self.spec).padded)
            )
            found = detect_tiled(
                windows,
                resolved,
                self._backend,
                batch=self._backend.fixed_batch or size,
                score_threshold=score_threshold,
                class_ids=class_ids,
                ignore=ignore,
                suppression=self.suppression,
                progress=progress,
            )
            return found, windows.size

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
        """Releases the network. Later calls raise `DeviceError`. May be called more than once."""
        self._backend.close()

    def __enter__(self) -> Detector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _device_kind(device: str) -> str:
    """Returns "cuda" for "cuda:0", other names unchanged."""
    if isinstance(device, str) and device.startswith("cuda:"):
        if device == "cuda:0":
            return "cuda"
        raise ValueError(
            f"device {device!r} cannot be chosen here: the first visible GPU is used; choose the GPU for the process "
            f"with the environment variable CUDA_VISIBLE_DEVICES={device[5:]} and device='cuda'"
        )
    return device


def _in_rgb(image: Any, channel_order: ChannelOrder) -> Any:
    """The image with the channels of a color array in RGB order, and grey arrays as RGB."""
    if isinstance(image, np.ndarray):
        if image.ndim == 2:
            return as_rgb(image)
        if channel_order == "bgr" and image.ndim == 3 and image.shape[2] == 3:
            return image[..., ::-1]
    return image


def _many(images: Any) -> Iterable[ImageInput]:
    """What `predict` was given as an iterable: the images of a folder, or one image alone, or as it is."""
    if isinstance(images, (str, os.PathLike)):
        return list_images(images) if os.path.isdir(images) else [images]
    is_file = isinstance(images, (bytes, bytearray, memoryview)) or (
        hasattr(images, "read") and hasattr(images, "seek")
    )
    is_array = isinstance(images, np.ndarray) and images.ndim <= 3
    return [images] if is_file or is_array or hasattr(images, "getexif") else images
