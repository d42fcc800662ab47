"""Where a network runs: the `Backend` protocol, and ONNX Runtime on the CPU. TensorRT is in `retinasdk.tensorrt`."""
