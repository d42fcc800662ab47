"""Converts a RetinaNet in ONNX from any framework to a model with raw head outputs and its spec."""

from __future__ import annotations

from retinasdk.convert.importing.importer import import_onnx
from retinasdk.convert.importing.report import FoundLevel, ImportReport

__all__ = ["FoundLevel", "ImportReport", "import_onnx"]
