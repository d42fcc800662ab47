"""What an import found, cut and checked, as data and as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from retinasdk.spec import ModelSpec


@dataclass(frozen=True)
class FoundLevel:
    """One pyramid level. logits, deltas: names of the tensors in the old graph. stride: nominal, pixels."""

    name: str
    logits: str
    deltas: str
    stride: int


@dataclass(frozen=True)
class ImportReport:
    """What `import_onnx` found in a foreign network, what it cut, and why it chose the rules; str() is readable.

    source, output: the file read and the one written; the spec lies beside it as .json, and here.
    producer, opset: who wrote the old file, in which opset.
    anchors, classes: A and K. channel_order: of the old heads, "anchor by anchor" (a * K + k) or "value by value".
    shared_heads: all levels use the same weights.
    input_sides: batch, height and width of the new input; a number where it is fixed.
    image_input: the old graph's input. preprocessing: operators cut between it and the network, in order.
    cut: operators that are no longer there, behind the heads or before the network, and how many.
    evidence: why this flavour. checks: what was compared, and how it came out. notes: what to know or to do.
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
    input_sides: tuple[int | str, int | str, int | str]
    image_input: str
    preprocessing: tuple[str, ...]
    cut: Mapping[str, int]
    evidence: tuple[str, ...]
    checks: tuple[str, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        weights = "weights shared by all levels" if self.shared_heads else "weights of their own for each level"
        batch, height, width = self.input_sides
        lines = [
            f"{self.source.name} ({self.producer or 'unknown producer'}, opset {self.opset}) -> {self.output}",
            f"heads: {len(self.levels)} levels, {self.anchors} anchors, {self.classes} classes; {weights}; "
            f"channels {self.channel_order}",
            *(f"  {level.name}  stride {level.stride:<4} {level.logits}  {level.deltas}" for level in self.levels),
            f"input: ({batch}, 3, {height}, {width}), {self.spec.normalise.channels}, normalised; "
            f"was {self.image_input!r}",
            f"cut before the network: {', '.join(self.preprocessing) or 'nothing'}",
            f"cut in all: {', '.join(f'{count} {kind}' for kind, count in self.cut.items()) or 'nothing'}",
            f"rules: {self.spec.flavour}",
            *(f"  because {text}" for text in self.evidence),
            *(f"checked: {text}" for text in self.checks),
            *(f"note: {text}" for text in self.notes),
        ]
        return "\n".join(lines)
