"""Results of `quantize_onnx`: which layers are quantized, and what that costs and gains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from retinasdk.spec import ModelSpec


@dataclass(frozen=True)
class QuantizedLayer:
    """One layer: a set of weights with all convolutions that share it.

    Attributes:
        name: Name of the weights in the graph.
        work: Its fraction of all multiplications, 0 to 1.
        loss: Loss at the heads if this layer alone is quantized; see `HeadLoss` in retinasdk/quantization.
        is_quantized: Whether it is quantized in the written file. If not, it stays in float32.
    """

    name: str
    work: float
    loss: float
    is_quantized: bool


@dataclass(frozen=True)
class QuantizationReport:
    """The result of `retinasdk.quantize_onnx`. `str(report)` is a readable table.

    Attributes:
        output: The file that was written.
        spec: Its spec.
        layers: All layers, in the order of the graph.
        images: Number of images used for calibration.
        head_loss: Loss of the whole network at the heads.
        agreement: Fraction of the detections of either network that have a counterpart in the other's, 0 to 1. None if
            there are no detections.
        AP_before: Average precision in float32 on the annotated images. None without annotations.
        AP_after: Average precision in 8 bits on the annotated images. None without annotations.
        speed: Time of one image in float32 divided by the time in 8 bits, on this machine, measured alternately.
    """

    output: Path
    spec: ModelSpec
    layers: tuple[QuantizedLayer, ...]
    images: int
    head_loss: float
    agreement: float | None
    AP_before: float | None
    AP_after: float | None
    speed: float

    def __str__(self) -> str:
        """Formats the layers, the losses and the gains as text."""
        width = max(len(layer.name) for layer in self.layers)
        lines = [f"  {'layer':{width}}  work    loss"]
        for layer in sorted(self.layers, key=lambda layer: layer.loss, reverse=True):
            kept = "" if layer.is_quantized else "  float32"
            lines.append(f"  {layer.name:{width}}  {layer.work:5.1%}  {layer.loss:.4f}{kept}")
        quantized = [layer for layer in self.layers if layer.is_quantized]
        work = sum(layer.work for layer in quantized)
        lines += [
            f"wrote {self.output} and {self.output.with_suffix('.json').name}",
            f"  {len(quantized)} of {len(self.layers)} layers in 8 bits, {work:.1%} of the multiplications; calibrated "
            f"on {self.images} images",
            f"  loss at the heads {self.head_loss:.4f}",
        ]
        if self.agreement is not None:
            lines.append(f"  {self.agreement:.1%} of the detections have a counterpart")
        if self.AP_before is None or self.AP_after is None:
            lines.append("  AP was not measured, since no annotations were given")
        else:
            lines.append(f"  AP {self.AP_before:.4f} before, {self.AP_after:.4f} after")
        lines.append(f"  {self.speed:.2f} times as fast as float32 on this machine")
        if self.speed < 1.0:
            lines.append("  float32 is faster on this processor; INT8 gains most on processors with VNNI or AMX")
        return "\n".join(lines)
