"""The names of the commands, in the order and groups of `retinasdk --help`, each with its one-line summary."""

from __future__ import annotations

SUMMARIES = {
    "Detect objects": {
        "detect": "detect objects in images and folders of images",
        "live": "detect objects in live or recorded video",
        "models": "list the models that come with retinasdk",
        "gstreamer": "make the element retinadetect known to GStreamer",
    },
    "Prepare a model": {
        "import": "convert a RetinaNet ONNX file that a framework exported",
        "export": "export a torchvision RetinaNet from PyTorch",
        "quantize": "convert a model to 8 bits for faster inference on the CPU",
        "build": "build a TensorRT engine for this machine's GPU",
    },
    "Deploy": {
        "triton": "export a model for NVIDIA Triton Inference Server",
        "ray": "detect objects in many images on the machines of a Ray cluster",
    },
    "Measure a model": {
        "eval": "compute COCO average precision on annotated images",
        "bench": "measure the speed of models, devices and input sizes",
        "verify": "compare with the framework's boxes, or the GPU with the CPU",
    },
    "Check the installation": {
        "doctor": "show what works on this machine and what is missing",
    },
}
COMMANDS = tuple(name for group in SUMMARIES.values() for name in group)
