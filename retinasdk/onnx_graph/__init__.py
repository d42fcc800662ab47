"""Reads and measures ONNX graphs: model files with their specs, layers, INT8 ranges."""
