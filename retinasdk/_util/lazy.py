"""Imports of optional packages, at the call that needs them."""

from __future__ import annotations

import importlib
from typing import Any

from retinasdk.errors import MissingDependencyError

_INSTALL = {
    "av": "retinasdk[video]",
    "cv2": "opencv-python-headless",
    "matplotlib": "retinasdk[eval]",
    "onnx": "retinasdk[onnx]",
    "onnxruntime": "onnxruntime",
    "PIL": "pillow",
    "pycocotools": "retinasdk[eval]",
    "prometheus_client": "retinasdk[prometheus]",
    "pycuda": "retinasdk[gpu]",
    "rasterio": "retinasdk[large]",
    "rosbags": "retinasdk[rosbag]",
    "starlette": "retinasdk[web]",
    "supervision": "retinasdk[supervision]",
    "torch": "retinasdk[export]",
    "torchvision": "retinasdk[export]",
    "tqdm": "tqdm",
    "trackers": "retinasdk[supervision]",
    "uvicorn": "retinasdk[web]",
}


def require(module: str, purpose: str) -> Any:
    """Imports and returns `module`, or raises `MissingDependencyError` that says what for and how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        requirement = _INSTALL.get(package, package)
        raise MissingDependencyError(
            f"{purpose} needs the package {package}, which cannot be imported ({error}); "
            f"install it with: pip install '{requirement}'"
        ) from error
