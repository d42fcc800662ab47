"""Embeddable inference SDK for RetinaNet: right boxes from any RetinaNet ONNX."""

from retinasdk.detections import Detection, Detections
from retinasdk.detector import Detector
from retinasdk.errors import DeviceError, ImageError, MissingDependencyError, ModelError, RetinaSdkError
from retinasdk.images import list_images
from retinasdk.models import BundledModel, list_models
from retinasdk.spec import BoxCoder, Level, ModelSpec, Normalise, Resize

__all__ = [
    "BoxCoder",
    "BundledModel",
    "Detection",
    "Detections",
    "Detector",
    "DeviceError",
    "ImageError",
    "Level",
    "MissingDependencyError",
    "ModelError",
    "ModelSpec",
    "Normalise",
    "Resize",
    "RetinaSdkError",
    "list_images",
    "list_models",
]
__version__ = "0.1.0"
