"""INT8 on the CPU: convolutions in 8 bits but those that lose too much by it, checked before anything is written."""

from retinasdk.quantization.quantizer import quantize_onnx
from retinasdk.quantization.report import QuantizationReport, QuantizedLayer

__all__ = ["QuantizationReport", "QuantizedLayer", "quantize_onnx"]
