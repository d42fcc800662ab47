"""libretinasdk, driven through its C interface. CMake builds it once; ONNX Runtime is that of the Python package."""

from __future__ import annotations

import ctypes
import functools
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from filelock import FileLock
from paths import ROOT

from retinasdk import Detections

RGB8, BGR8, GRAY8, GRAY16, NV12, P010 = range(6)
GREEDY, SOFT_LINEAR, SOFT_GAUSSIAN, FUSION = range(4)
OK, ARGUMENT, MODEL, IMAGE, DEVICE, MISSING_DEPENDENCY = range(6)


class Options(ctypes.Structure):
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
    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("score_thresholds", ctypes.POINTER(ctypes.c_double)),
        ("score_threshold_count", ctypes.c_size_t),
        ("class_ids", ctypes.POINTER(ctypes.c_int32)),
        ("class_id_count", ctypes.c_size_t),
        ("class_names", ctypes.POINTER(ctypes.c_char_p)),
        ("class_name_count", ctypes.c_size_t),
        ("ignore", ctypes.POINTER(ctypes.c_float)),
        ("ignore_count", ctypes.c_size_t),
    )


class Found(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("count", ctypes.c_size_t),
        ("xyxy", ctypes.POINTER(ctypes.c_float)),
        ("scores", ctypes.POINTER(ctypes.c_float)),
        ("class_ids", ctypes.POINTER(ctypes.c_int32)),
        ("xywhr", ctypes.POINTER(ctypes.c_float)),
    )


class LibraryError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def onnxruntime_library() -> Path:
    """The C library inside the Python package: both run the same code."""
    paths = [*(Path(onnxruntime.__path__[0]) / "capi").glob("libonnxruntime.so.*")]
    if not paths:
        pytest.skip(f"the package of ONNX Runtime {onnxruntime.__version__} has no C library")
    return paths[0]


@functools.cache
def build_folder(*, shared: bool = True) -> Path:
    """Builds libretinasdk once for all tests, or takes the build of RETINASDK_RUNTIME_BUILD."""
    given = os.environ.get("RETINASDK_RUNTIME_BUILD")
    if given and shared:
        return Path(given)
    if not any(Path(folder, "nlohmann/json.hpp").exists() for folder in ("/usr/include", "/usr/local/include")):
        pytest.skip("libretinasdk needs nlohmann/json: apt install nlohmann-json3-dev libssl-dev")
    tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    cmake = shutil.which("cmake", path=tools)
    if cmake is None:
        pytest.skip("libretinasdk is built with CMake")
    folder = ROOT / "build" / f"libretinasdk-{'shared' if shared else 'static'}"
    folder.parent.mkdir(exist_ok=True)
    options = ["PYTHON=OFF", "CUDA=OFF", "RUNTIME=ON", "WERROR=ON"]
    definitions = [f"-DRETINASDK_{option}" for option in options] + [f"-DBUILD_SHARED_LIBS={'ON' if shared else 'OFF'}"]
    with FileLock(f"{folder}.lock"):  # Several processes may run the tests.
        for command in ([cmake, "-S", ROOT, "-B", folder, *definitions], [cmake, "--build", folder, "--parallel", "2"]):
            subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PATH": tools})
    return folder


@functools.cache
def library() -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(build_folder() / "csrc/runtime/libretinasdk_runtime.so"))
    loaded.rsdk_last_error.restype = ctypes.c_char_p
    loaded.rsdk_version.restype = ctypes.c_char_p
    for name in ("label", "name", "device", "warning"):
        getattr(loaded, f"rsdk_detector_{name}").restype = ctypes.c_char_p
    loaded.rsdk_results_count.restype = ctypes.c_size_t
    return loaded


def check(status: int) -> None:
    if status != OK:
        raise LibraryError(status, library().rsdk_last_error().decode())


def described(image: np.ndarray | tuple[np.ndarray, np.ndarray], kind: int = RGB8) -> Image:
    planes = image if isinstance(image, tuple) else (image,)
    height, width = planes[0].shape[:2]
    made = Image(ctypes.sizeof(Image), kind, width, height)
    for i, plane in enumerate(planes):
        made.planes[i] = plane.ctypes.data
        made.row_bytes[i] = plane.strides[0]
    made.pixels = planes  # Keeps them in memory: the struct has their addresses only.
    return made


class CDetector:
    """A detector of libretinasdk, with the calls that the tests compare with Python's."""

    def __init__(self, path: Path | str, **options: object) -> None:
        self._handle = ctypes.c_void_p()
        given = Options()
        library().rsdk_options_init(ctypes.byref(given), ctypes.c_size_t(ctypes.sizeof(given)))
        given.onnxruntime = os.fsencode(onnxruntime_library())
        for name, value in options.items():
            setattr(given, name, value.encode() if isinstance(value, str) else value)
        check(library().rsdk_detector_open(os.fsencode(path), ctypes.byref(given), ctypes.byref(self._handle)))
        count = library().rsdk_detector_class_count(self._handle)
        self.labels = tuple(library().rsdk_detector_label(self._handle, i).decode() for i in range(count))

    def __call__(
        self,
        images: Sequence[Image],
        *,
        score_threshold: float | Sequence[float] | None = None,
        class_ids: Sequence[int] = (),
        classes: Sequence[str] = (),
        ignore: Sequence[Sequence[float]] = (),
    ) -> list[Detections]:
        scores = [] if score_threshold is None else np.atleast_1d(np.array(score_threshold, float)).tolist()
        options = CallOptions(ctypes.sizeof(CallOptions))
        options.score_thresholds, options.score_threshold_count = (ctypes.c_double * len(scores))(*scores), len(scores)
        options.class_ids, options.class_id_count = (ctypes.c_int32 * len(class_ids))(*class_ids), len(class_ids)
        names = [name.encode() for name in classes]
        options.class_names, options.class_name_count = (ctypes.c_char_p * len(names))(*names), len(names)
        edges = [edge for region in ignore for edge in region]
        options.ignore, options.ignore_count = (ctypes.c_float * len(edges))(*edges), len(ignore)
        results = ctypes.c_void_p()
        array = (Image * len(images))(*images)
        check(
            library().rsdk_detect(
                self._handle, array, ctypes.c_size_t(len(images)), ctypes.byref(options), ctypes.byref(results)
            )
        )
        assert library().rsdk_results_count(results) == len(images)
        found = [self._read(results, i) for i in range(len(images))]
        library().rsdk_results_free(results)
        return found

    def _read(self, results: ctypes.c_void_p, index: int) -> Detections:
        view = Found(ctypes.sizeof(Found))
        check(library().rsdk_results_get(results, ctypes.c_size_t(index), ctypes.byref(view)))

        def array(pointer: ctypes._Pointer, *shape: int) -> np.ndarray:
            if not math.prod(shape):
                return np.zeros(shape, np.float32)
            return np.ctypeslib.as_array(pointer, shape).copy()

        rotated = bool(view.xywhr)
        return Detections(
            array(view.xyxy, view.count, 4),
            array(view.scores, view.count),
            array(view.class_ids, view.count),
            self.labels,
            xywhr=array(view.xywhr, view.count, 5) if rotated else None,
        )

    @property
    def warning(self) -> str:
        return library().rsdk_detector_warning(self._handle).decode()

    def close(self) -> None:
        library().rsdk_detector_close(self._handle)
        self._handle = ctypes.c_void_p()


def assert_same(ours: Detections, theirs: Detections) -> None:
    """Both have the same boxes, scores and classes, to the last bit."""
    np.testing.assert_array_equal(ours.class_ids, theirs.class_ids)
    for name in ("scores", "xyxy", "xywhr"):
        mine, other = getattr(ours, name), getattr(theirs, name)
        if mine is None or other is None or not len(mine):
            assert mine is None or not len(mine), name
            assert other is None or not len(other), name
            continue
        np.testing.assert_array_equal(mine.view(np.uint32), other.view(np.uint32), err_msg=name)
