"""`ImportReport`: what an import read, concluded, removed and checked, as data and as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from retinasdk.spec import ModelSpec


@dataclass(frozen=True)
class FoundLevel:
    """One pyramid level that the import found.

    Attributes:
        name: "p3" for the level of stride 8, "p4" for stride 16, and so on.
        logits: Name of the tensor of raw class logits in the original graph.
        deltas: Name of the tensor of raw box deltas in the original graph.
        stride: Nominal distance between two cells, in pixels of the network input.
    """

    name: str
    logits: str
    deltas: str
    stride: int


@dataclass(frozen=True)
class ImportReport:
    """The result of `import_onnx`. `print(report)` shows it as text.

    Attributes:
        source: The ONNX file that was read.
        output: The ONNX file that was written. The spec is beside it, with the suffix .json, and inside it.
        spec: The model spec that was written: the rules of preprocessing and post-processing.
        producer: Name and version of the exporter that wrote `source`; empty if unknown.
        opset: ONNX opset version of `source`.
        levels: The pyramid levels, finest first.
        anchors: Number of anchors per cell (A).
        classes: Number of classes (K).
        channel_order: Order of the head channels in `source`: "anchor by anchor" (channel a * K + k) or "value by
            value" (k * A + a). The written model is always anchor by anchor.
        shared_heads: Whether all levels use the same head weights.
        input_dimensions: Batch, height and width of the input of the written model: a number if fixed, a name if
            dynamic.
        image_input: Name of the image input of `source`.
        preprocessing: Operators between that input and the network, in order. They were removed.
        removed_operators: How many nodes of each operator were removed, before the network and after the heads.
        evidence: Why this framework's rules were chosen.
        checks: What was compared with the original graph, and the result.
        notes: Rules that are not the framework's defaults, assumptions, and what you should do.
    """

    source: Path
    output: Path
    spec: ModelSpec
    producer: str
    opset: int
    levels: tuple[FoundLevel, ...]
    anchors: int
    classes: int
    channel_order: str
    shared_heads: bool
    input_dimensions: tuple[int | str, int | str, int | str]
    image_input: str
    preprocessing: tuple[str, ...]
    removed_operators: Mapping[str, int]
    evidence: tuple[str, ...]
    checks: tuple[str, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        """Returns the report as text of several lines."""
        weights = "all levels share their weights" if self.shared_heads else "each level has its own weights"
        batch, height, width = self.input_dimensions
        removed = ", ".join(f"{count} {kind}" for kind, count in self.removed_operators.items())
        lines = [
            f"{self.source.name} ({self.producer or 'unknown exporter'}, opset {self.opset}) -> {self.output}",
            f"heads: {len(self.levels)} levels, {self.anchors} anchors per cell, {self.classes} classes; {weights}; "
            f"channels ordered {self.channel_order}",
            *(f"  {level.name}  stride {level.stride:<4} {level.logits}  {level.deltas}" for level in self.levels),
            f"network input: ({batch}, 3, {height}, {width}), {self.spec.normalise.channels}, normalized; computed "
            f"from the graph input {self.image_input!r}",
            f"removed before the network: {', '.join(self.preprocessing) or 'nothing'}",
            f"removed in total: {removed or 'nothing'}",
            f"rules: {self.spec.flavour}",
            *(f"  because {text}" for text in self.evidence),
            *(f"checked: {text}" for text in self.checks),
            *(f"note: {text}" for text in self.notes),
        ]
        return "\n".join(lines)
