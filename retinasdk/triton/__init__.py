"""Serving with NVIDIA Triton Inference Server: `export` writes a model repository.

    retinasdk.triton.export("people", "repository")

The server then runs the whole pipeline, from an image file to bounding boxes.
"""

from retinasdk.triton.export import export

__all__ = ["export"]
