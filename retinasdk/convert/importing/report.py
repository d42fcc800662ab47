"""`ImportReport`: what an import read, concluded, removed and checked, as data and as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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


Kind = Literal["given", "read", "concluded", "assumed"]
KINDS: tuple[Kind, ...] = ("given", "read", "concluded", "assumed")


@dataclass(frozen=True)
class Finding:
    """One rule of the model, and where it comes from.

    Attributes:
        kind: "given": you named it. "read": it is in the graph. "concluded": it follows from something in the graph,
            which the text names. "assumed": nothing shows it; it is usual for the framework.
        rule: The rule, as a field of `ModelSpec`, such as "score_threshold".
        text: A sentence for people.
    """

    kind: Kind
    rule: str
    text: str


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
        findings: The rules of the model, each with its origin: given by you, read in the graph, concluded from it, or
            assumed. The spec keeps them in `ModelSpec.source`.
        checks: What was compared with the original graph and found equal.
        unchecked: What could not be compared, or differs although you insisted on it with `force`.
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
    findings: tuple[Finding, ...]
    checks: tuple[str, ...]
    unchecked: tuple[str, ...]

    def texts(self, kind: Kind) -> list[str]:
        """Returns the sentences of the findings of one kind."""
        return [item.text for item in self.findings if item.kind == kind]

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
            *(f"{kind}: {text}" for kind in KINDS for text in self.texts(kind)),
            *(f"checked: {text}" for text in self.checks),
            *(f"not checked: {text}" for text in self.unchecked),
        ]
        return "\n".join(lines)
