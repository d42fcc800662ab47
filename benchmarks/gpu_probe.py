"""Prints as JSON what the Python that runs it can use here: kernels, the driver's interface, TensorRT, versions."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from typing import Any

from gpu_heads import use_driver

import retinasdk
from retinasdk.cuda.device import gpu_identity, usable_kernels
from retinasdk.errors import RetinaSdkError
from retinasdk.tensorrt.installed import import_tensorrt

PACKAGES = ("numpy", "onnxruntime", "torch", "torchvision")


def found() -> dict[str, Any]:
    """`versions` by name; why there are no kernels and no TensorRT, or None."""
    versions = {"Python": platform.python_version(), "retinasdk": retinasdk.__version__, "pycuda": use_driver()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    answer: dict[str, Any] = {"versions": versions, "why_no_kernels": None, "why_no_tensorrt": None}
    try:
        native = usable_kernels("this benchmark")
        version = native.runtime_version()
        versions["CUDA"] = f"{version // 1000}.{version % 1000 // 10}"
    except RetinaSdkError as error:
        return answer | {"why_no_kernels": str(error), "why_no_tensorrt": "there are no kernels"}
    try:
        trt = import_tensorrt("this benchmark", gpu=gpu_identity(native))
        versions["TensorRT"] = f"{trt.__name__} {trt.__version__}"
    except RetinaSdkError as error:
        versions["TensorRT"] = "none that runs here"
        answer["why_no_tensorrt"] = str(error)
    return answer


if __name__ == "__main__":
    print(json.dumps(found()))
