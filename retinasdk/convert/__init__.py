"""Converts networks of training frameworks: ONNX files of any framework, PyTorch modules of torchvision."""
