"""Backends, which run networks: the `Backend` protocol and ONNX Runtime on the CPU. See also `retinasdk.tensorrt`."""
