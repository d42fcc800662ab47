"""Runs RetinaNet models exported to ONNX, with the post-processing of the framework that trained them.

Names are imported when they are first used, so `import retinasdk` takes milliseconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retinasdk._util.progress import Progress
    from retinasdk.backends.convolution import ConvolutionChoice
    from retinasdk.benchmark.bench import BenchReport, BenchRow, bench
    from retinasdk.convert.deepforest import export_deepforest
    from retinasdk.convert.export_torch import ExportReport, export_torchvision
    from retinasdk.convert.importing import ImportReport, import_onnx
    from retinasdk.cuda.device_frame import DeviceFrame
    from retinasdk.detections import Detection, Detections
    from retinasdk.detector import Detector
    from retinasdk.doctor.diagnose import Diagnosis, diagnose
    from retinasdk.errors import DeviceError, ImageError, MissingDependencyError, ModelError, RetinaSdkError
    from retinasdk.evaluation.evaluate import evaluate
    from retinasdk.evaluation.operating_point import OperatingPoint
    from retinasdk.evaluation.results import ClassResult, Evaluation, SizeResult
    from retinasdk.images import list_images
    from retinasdk.live import Frame, Stream, StreamError, stream
    from retinasdk.models import BundledModel, list_models
    from retinasdk.pipeline.fusion import fuse
    from retinasdk.pipeline.suppression import Suppression
    from retinasdk.pipeline.throughput import Prediction
    from retinasdk.quantization import QuantizationReport, QuantizedLayer, quantize_onnx
    from retinasdk.spec import BoxCoder, Level, ModelSpec, Normalise, Resize
    from retinasdk.tensorrt.build import build_engine
    from retinasdk.tensorrt.engine_info import EngineInfo
    from retinasdk.tiling.grid import Tiles
    from retinasdk.verification.results import ImageDifference, TensorDifference, Tolerance, Verification
    from retinasdk.verification.verify import verify
    from retinasdk.verification.verify_boxes import BoxComparison, verify_boxes

__all__ = [
    "BenchReport",
    "BenchRow",
    "BoxCoder",
    "BoxComparison",
    "BundledModel",
    "ClassResult",
    "ConvolutionChoice",
    "Detection",
    "Detections",
    "Detector",
    "DeviceError",
    "DeviceFrame",
    "Diagnosis",
    "EngineInfo",
    "Evaluation",
    "ExportReport",
    "Frame",
    "ImageDifference",
    "ImageError",
    "ImportReport",
    "Level",
    "MissingDependencyError",
    "ModelError",
    "ModelSpec",
    "Normalise",
    "OperatingPoint",
    "Prediction",
    "Progress",
    "QuantizationReport",
    "QuantizedLayer",
    "Resize",
    "RetinaSdkError",
    "SizeResult",
    "Stream",
    "StreamError",
    "Suppression",
    "TensorDifference",
    "Tiles",
    "Tolerance",
    "Verification",
    "bench",
    "build_engine",
    "diagnose",
    "evaluate",
    "export_deepforest",
    "export_torchvision",
    "fuse",
    "import_onnx",
    "list_images",
    "list_models",
    "quantize_onnx",
    "stream",
    "verify",
    "verify_boxes",
]
__version__ = "0.1.0"

_NAMES_OF_MODULE = {
    "_util.progress": ("Progress",),
    "evaluation.evaluate": ("evaluate",),
    "evaluation.results": (
        "ClassResult",
        "Evaluation",
        "SizeResult",
    ),
    "verification.verify": ("verify",),
    "verification.verify_boxes": ("BoxComparison", "verify_boxes"),
    "verification.results": (
        "ImageDifference",
        "TensorDifference",
        "Tolerance",
        "Verification",
    ),
    "backends.convolution": ("ConvolutionChoice",),
    "benchmark.bench": (
        "BenchReport",
        "BenchRow",
        "bench",
    ),
    "doctor.diagnose": (
        "Diagnosis",
        "diagnose",
    ),
    "convert.deepforest": ("export_deepforest",),
    "convert.export_torch": (
        "ExportReport",
        "export_torchvision",
    ),
    "evaluation.operating_point": ("OperatingPoint",),
    "detections": ("Detection", "Detections"),
    "cuda.device_frame": ("DeviceFrame",),
    "detector": ("Detector",),
    "tensorrt.build": ("build_engine",),
    "tensorrt.engine_info": ("EngineInfo",),
    "errors": ("DeviceError", "ImageError", "MissingDependencyError", "ModelError", "RetinaSdkError"),
    "pipeline.fusion": ("fuse",),
    "images": ("list_images",),
    "convert.importing": ("ImportReport", "import_onnx"),
    "live": ("Frame", "Stream", "StreamError", "stream"),
    "models": ("BundledModel", "list_models"),
    "quantization": ("QuantizationReport", "QuantizedLayer", "quantize_onnx"),
    "spec": ("BoxCoder", "Level", "ModelSpec", "Normalise", "Resize"),
    "pipeline.suppression": ("Suppression",),
    "pipeline.throughput": ("Prediction",),
    "tiling.grid": ("Tiles",),
}
_MODULE_OF_NAME = {name: module for module, names in _NAMES_OF_MODULE.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF_NAME[name]}"), name)
    globals()[name] = value  # found without this function from now on
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
