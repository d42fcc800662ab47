"""Reads ONNX graphs and measures them: model files with their specs, layers, and ranges for INT8."""
