"""What `quantize_onnx` did, layer by layer, and what it cost and gained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from retinasdk.spec import ModelSpec


@dataclass(frozen=True)
class QuantizedLayer:
    """One set of weights. work: its part of all multiplications. loss: at the heads, when it alone is quantized.

    is_quantised: in the file that was written; else it stayed in float32.
    """

    name: str
    work: float
    loss: float
    is_quantised: bool


@dataclass(frozen=True)
class QuantizationReport:
    """output: the file that was written. layers: in the order of the graph. images: of the calibration.

    head_loss: of the whole, as `HeadLoss` measures it. agreement: part of the detections of either network that have a
    counterpart in the other's; None where neither has any. AP_before, AP_after: on the annotated images; None without.
    speed: the time of one image in float32 over that in 8 bits, on this machine, in turn, as a `Detector` runs them.
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
        width = max(len(layer.name) for layer in self.layers)
        lines = [f"  {'layer':{width}}  work    loss"]
        for layer in sorted(self.layers, key=lambda layer: layer.loss, reverse=True):
            kept = "" if layer.is_quantised else "  float32"
            lines.append(f"  {layer.name:{width}}  {layer.work:5.1%}  {layer.loss:.4f}{kept}")
        quantized = [layer for layer in self.layers if layer.is_quantised]
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
            lines.append("  AP was not measured: that takes annotated images")
        else:
            lines.append(f"  AP {self.AP_before:.4f} before, {self.AP_after:.4f} after")
        lines.append(f"  {self.speed:.2f} times as fast as float32 on this machine")
        if self.speed < 1.0:
            lines.append("  float32 is faster here; 8 bits are for processors that multiply bytes at once (VNNI, AMX)")
        return "\n".join(lines)
