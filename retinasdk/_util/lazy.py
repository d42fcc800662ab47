"""Imports of optional packages, at the call that needs them."""

from __future__ import annotations

import importlib
import os
from typing import Any

from retinasdk.errors import MissingDependencyError

# What `pip install` is told for each module: an extra of retinasdk, or a package.
INSTALL = {
    "av": "retinasdk[video]",
    "cv2": "opencv-python-headless",
    "matplotlib": "retinasdk[eval]",
    "onnx": "retinasdk[onnx]",
    "onnxruntime": "onnxruntime",
    "pandas": "retinasdk[pandas]",
    "PIL": "pillow",
    "pycocotools": "retinasdk[eval]",
    "prometheus_client": "retinasdk[prometheus]",
    "PyNvVideoCodec": "pynvvideocodec",
    "pyarrow": "retinasdk[ray]",
    "pycuda": "retinasdk[gpu]",
    "rasterio": "retinasdk[large]",
    "ray": "retinasdk[ray]",
    "rosbags": "retinasdk[rosbag]",
    "supervision": "retinasdk[supervision]",
    "torch": "retinasdk[export]",
    "torchvision": "retinasdk[export]",
    "trackers": "retinasdk[supervision]",
    "yaml": "retinasdk[onnx]",
}


def disable_telemetry() -> None:
    """Turns ONNX Runtime's telemetry off, before it is imported, unless the user's environment says otherwise.

    Its import starts the telemetry: it looks up a host of its maker and leaves a file in the temporary folder. Turning
    it off after the import is too late.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def require(module: str, purpose: str, *, package: str | None = None) -> Any:
    """Imports an optional module.

    Args:
        module: Its full name, such as "PIL.Image".
        purpose: What needs it, for the error message.
        package: What to install if it is missing. Defaults to the extra or the package of `INSTALL`.

    Returns:
        The module.

    Raises:
        MissingDependencyError: The module cannot be imported. The message contains the command that installs it.
    """
    disable_telemetry()  # Whatever is imported: PyTorch imports ONNX Runtime by itself when it exports.
    try:
        return importlib.import_module(module)
    except ImportError as error:
        top = module.partition(".")[0]
        raise MissingDependencyError(
            f"{purpose} needs the package {top}, which cannot be imported ({error}); "
            f"install it with: pip install '{package or INSTALL.get(top, top)}'"
        ) from error
