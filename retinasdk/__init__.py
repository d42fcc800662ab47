"""Embeddable inference SDK for RetinaNet: right boxes from any RetinaNet ONNX.

Names are imported when they are first used, so `import retinasdk` itself costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retinasdk.convert.importing import ImportReport, import_onnx
    from retinasdk.detections import Detection, Detections
    from retinasdk.detector import Detector
    from retinasdk.errors import DeviceError, ImageError, MissingDependencyError, ModelError, RetinaSdkError
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

__all__ = [
    "BoxCoder",
    "BundledModel",
    "Detection",
    "Detections",
    "Detector",
    "DeviceError",
    "EngineInfo",
    "Frame",
    "ImageError",
    "ImportReport",
    "Level",
    "MissingDependencyError",
    "ModelError",
    "ModelSpec",
    "Normalise",
    "Prediction",
    "QuantizationReport",
    "QuantizedLayer",
    "Resize",
    "RetinaSdkError",
    "Stream",
    "StreamError",
    "Suppression",
    "Tiles",
    "build_engine",
    "fuse",
    "import_onnx",
    "list_images",
    "list_models",
    "quantize_onnx",
    "stream",
]
__version__ = "0.1.0"

_NAMES_OF_MODULE = {
    "detections": ("Detection", "Detections"),
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
