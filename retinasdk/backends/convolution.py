"""`ConvolutionChoice`: which convolutions a model uses on the CPU, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

CONVOLUTIONS = ("auto", "direct", "blocked")
DEFAULT_CONVOLUTION = CONVOLUTIONS[0]
DIRECT, BLOCKED = "direct", "blocked"


@dataclass(frozen=True)
class ConvolutionChoice:
    """Says which convolutions a model uses on the CPU, and why.

    Attributes:
        name: "direct": the convolutions of ONNX Runtime. "blocked": those of retinasdk.
        reason: "measured": both were measured when the model was opened. "cached": both were measured earlier on this
            machine. "rule": nothing was measured. "given": the caller chose it.
        explanation: Why, in words.
        isa: The instruction set that the convolutions of retinasdk use: "avx512", "avx2", "neon" or "plain". Empty if
            retinasdk was built without them, and if the caller chose "direct".
        threads: Number of threads per call.
        milliseconds: Time of one call of the network by the name of the convolutions. Empty if nothing was measured.
        size: (height, width) in pixels of the network input that was measured. None if nothing was measured.
    """

    name: str
    reason: str
    explanation: str
    isa: str
    threads: int
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    size: tuple[int, int] | None = None

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        of = f", {self.isa}" if self.name == BLOCKED else ""
        return f"{self.name} ({self.reason}{of}, {threads}): {self.explanation}"
