"""Any framework's RetinaNet in ONNX to what retinasdk runs: the network from ready image to raw heads, and its spec."""

from __future__ import annotations

from retinasdk.convert.importing.importer import import_onnx
from retinasdk.convert.importing.report import FoundLevel, ImportReport

__all__ = ["FoundLevel", "ImportReport", "import_onnx"]
