"""libretinasdk with its TensorRT backend over emulated kernels and a stand-in for libnvinfer, called through ctypes.

Its TensorRT is the one whose headers are in tests/support/tensorrt_on_cpu/include: 10.3.0.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from emulated_cuda import build_emulated
from paths import ROOT

from retinasdk.pipeline.types import Kept

VERSION = "10.3.0"
_BUILD = ROOT / "build" / "runtime_on_cpu"
_RULES = ("greedy", "soft_linear", "soft_gaussian", "fusion")


class Options(ctypes.Structure):
    """rsdk_options."""

    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("device", ctypes.c_char_p),
        ("spec_json", ctypes.c_char_p),
        ("onnxruntime", ctypes.c_char_p),
        ("threads", ctypes.c_int32),
        ("score_threshold", ctypes.c_double),
        ("suppression", ctypes.c_int32),
        ("across_classes", ctypes.c_int32),
        ("iou_threshold", ctypes.c_double),
        ("sigma", ctypes.c_double),
        ("fused_best", ctypes.c_int32),
        ("max_per_class", ctypes.c_int32),
        ("max_detections", ctypes.c_int32),
    )


class Image(ctypes.Structure):
    """rsdk_image."""

    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("format", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("planes", ctypes.c_void_p * 2),
        ("row_bytes", ctypes.c_ssize_t * 2),
        ("matrix", ctypes.c_int32),
        ("full_range", ctypes.c_int32),
    )


class CallOptions(ctypes.Structure):
    """rsdk_call_options."""

    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("score_thresholds", ctypes.POINTER(ctypes.c_double)),
        ("score_threshold_count", ctypes.c_size_t),
        ("class_ids", ctypes.POINTER(ctypes.c_int32)),
        ("class_id_count", ctypes.c_size_t),
        ("class_names", ctypes.c_void_p),
        ("class_name_count", ctypes.c_size_t),
        ("ignore", ctypes.POINTER(ctypes.c_float)),
        ("ignore_count", ctypes.c_size_t),
    )


class Detections(ctypes.Structure):
    """rsdk_detections."""

    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("count", ctypes.c_size_t),
        ("xyxy", ctypes.POINTER(ctypes.c_float)),
        ("scores", ctypes.POINTER(ctypes.c_float)),
        ("class_ids", ctypes.POINTER(ctypes.c_int32)),
        ("xywhr", ctypes.POINTER(ctypes.c_float)),
    )


@functools.cache
def library() -> ctypes.CDLL:
    """The library, which is built on first use, or taken from the folder RETINASDK_RUNTIME_ON_CPU."""
    folder = os.environ.get("RETINASDK_RUNTIME_ON_CPU")
    if folder is None:
        options = ("-DRETINASDK_PYTHON=OFF", "-DRETINASDK_RUNTIME=ON", "-DBUILD_SHARED_LIBS=ON")
        build_emulated(_BUILD, ("retinasdk_runtime",), *options)
    (built,) = sorted(Path(folder or _BUILD).rglob("libretinasdk*.so"))
    native = ctypes.CDLL(str(built))
    native.rsdk_last_error.restype = ctypes.c_char_p
    native.rsdk_detector_device.restype = ctypes.c_char_p
    native.rsdk_detector_device.argtypes = native.rsdk_detector_close.argtypes = (ctypes.c_void_p,)
    native.rsdk_results_free.argtypes = (ctypes.c_void_p,)
    native.rsdk_results_get.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.POINTER(Detections))
    native.rsdk_detect.argtypes = (
        ctypes.c_void_p,
        ctypes.POINTER(Image),
        ctypes.c_size_t,
        ctypes.POINTER(CallOptions),
        ctypes.POINTER(ctypes.c_void_p),
    )
    return native


class CError(Exception):
    """A function of the library returned an error."""


class CDetector:
    """A detector of the C interface. Use it as a context manager."""

    def __init__(self, path: Path, *, device: str = "cuda", rule: str = "greedy") -> None:
        """Opens a model.

        Raises:
            CError: If it cannot be opened, with the message of the library.
        """
        options = Options()
        library().rsdk_options_init(ctypes.byref(options), ctypes.c_size_t(ctypes.sizeof(options)))
        options.device, options.suppression = device.encode(), _RULES.index(rule)
        self._handle = ctypes.c_void_p()
        _check(library().rsdk_detector_open(str(path).encode(), ctypes.byref(options), ctypes.byref(self._handle)))

    def __enter__(self) -> CDetector:
        return self

    def __exit__(self, *error: object) -> None:
        library().rsdk_detector_close(self._handle)

    @property
    def device(self) -> str:
        """The device."""
        return str(library().rsdk_detector_device(self._handle).decode())

    def detect(
        self,
        images: Sequence[npt.NDArray[np.uint8]],
        scores: Sequence[float],
        *,
        class_ids: Sequence[int] = (),
        ignore: npt.NDArray[np.float32] | None = None,
    ) -> list[Kept]:
        """Detects objects in RGB images, at these score thresholds: one, or one for each class.

        Raises:
            CError: If the library returns an error.
        """
        described = (Image * len(images))()
        for one, image in zip(described, images, strict=True):
            height, width = image.shape[:2]
            one.struct_size, one.width, one.height = ctypes.sizeof(Image), width, height
            one.planes[0], one.row_bytes[0] = image.ctypes.data, image.strides[0]
        call = CallOptions(struct_size=ctypes.sizeof(CallOptions))
        call.score_thresholds = (ctypes.c_double * len(scores))(*scores)
        call.score_threshold_count = len(scores)
        call.class_ids, call.class_id_count = (ctypes.c_int32 * len(class_ids))(*class_ids), len(class_ids)
        if ignore is not None:
            call.ignore = ignore.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            call.ignore_count = len(ignore)
        results = ctypes.c_void_p()
        _check(library().rsdk_detect(self._handle, described, len(images), ctypes.byref(call), ctypes.byref(results)))
        try:
            return [_found(results, index) for index in range(len(images))]
        finally:
            library().rsdk_results_free(results)


def _check(status: int) -> None:
    if status != 0:
        raise CError(library().rsdk_last_error().decode())


def _found(results: ctypes.c_void_p, index: int) -> Kept:
    found = Detections(struct_size=ctypes.sizeof(Detections))
    _check(library().rsdk_results_get(results, index, ctypes.byref(found)))
    count = found.count
    if count == 0:
        return Kept(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))
    arrays: list[Any] = [
        np.ctypeslib.as_array(pointer, (count, *rest)).copy()
        for pointer, rest in ((found.xyxy, (4,)), (found.scores, ()), (found.class_ids, ()))
    ]
    return Kept(*arrays)
