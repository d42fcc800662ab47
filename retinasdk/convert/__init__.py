"""Converts RetinaNet models of training frameworks: ONNX files of any framework, and PyTorch modules."""
