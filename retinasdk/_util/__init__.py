"""Helpers that several subjects share: files, lazy imports, labels, charts, and the ONNX wire format."""
