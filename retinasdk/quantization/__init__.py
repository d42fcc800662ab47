"""INT8 on the CPU: quantizes the convolutions that lose little accuracy, and checks the result before writing it."""

from retinasdk.quantization.quantizer import quantize_onnx
from retinasdk.quantization.report import QuantizationReport, QuantizedLayer

__all__ = ["QuantizationReport", "QuantizedLayer", "quantize_onnx"]
