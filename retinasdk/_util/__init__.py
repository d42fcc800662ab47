"""Helpers without a subject of their own: files, lazy imports, labels, charts, the ONNX wire format."""
