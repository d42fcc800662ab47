"""Builds, stores and runs TensorRT engines."""
