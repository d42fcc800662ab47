"""Prints the computed tables of docs/kernel_budget.md: bytes, floors and expected times. It measures nothing.

    python benchmarks/kernel_floors.py            # prints
    python benchmarks/kernel_floors.py --write    # and replaces them in the page

Rules: the floor is the bytes that a kernel must move, divided by the published bandwidth. The expected time is the
bytes divided by 80% of it, plus the start of a kernel. 80% is the target of this project; the starts are assumptions.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "kernel_budget.md"
BEGIN, END = "<!-- computed by benchmarks/kernel_floors.py -->\n", "<!-- end of the computed part -->\n"

REACHED = 0.8  # of the published bandwidth
START_US = {"Jetson": 5.0, "card": 2.0}  # of a kernel in a CUDA graph

ANCHORS, TOP_K, PHOTO = 9, 1000, (1080, 1920)


@dataclass(frozen=True)
class Chip:
    """gbs: published bandwidth in GB/s. frame: published time of MLPerf's RetinaNet in ms, with its round."""

    name: str
    kind: str
    memory: str
    gbs: float
    source: str
    frame_ms: float
    frame_source: str


CHIPS = (
    Chip("AGX Orin 64 GB", "Jetson", "256 bits of LPDDR5-6400", 204.8, "Jetson AGX Orin data sheet", 11.672, "v3.1"),
    Chip("Orin NX 16 GB", "Jetson", "128 bits of LPDDR5-6400", 102.4, "Jetson Orin NX data sheet", 28.626, "v3.1"),
    Chip("RTX 4090", "card", "384 bits of GDDR6X, 21 Gbit/s", 1008, "Ada architecture white paper", 1.688, "v5.1"),
    Chip("L4", "card", "192 bits of GDDR6, 12.5 Gbit/s", 300, "L4 data sheet", 4.807, "v3.1"),
    Chip("H100 SXM", "card", "HBM3", 3350, "H100 data sheet", 0.0, ""),
    Chip("H100 PCIe", "card", "HBM2e", 2000, "H100 data sheet", 2.074, "v3.0"),
)


@dataclass(frozen=True)
class Frame:
    """One image of a network with the levels P3 to P7."""

    height: int
    width: int
    classes: int

    def __str__(self) -> str:
        return f"{self.height} x {self.width}, {self.classes} classes"

    @property
    def cells(self) -> int:
        return sum(-(-self.height // stride) * -(-self.width // stride) for stride in (8, 16, 32, 64, 128))

    def logits(self, bytes_of_one: int) -> int:
        return self.cells * ANCHORS * self.classes * bytes_of_one

    def deltas(self, bytes_of_one: int) -> int:
        return self.cells * ANCHORS * 4 * bytes_of_one

    def resize(self, photo_bytes_of_pixel: float, bytes_of_one: int) -> float:
        return PHOTO[0] * PHOTO[1] * photo_bytes_of_pixel + 3 * self.height * self.width * bytes_of_one


FRAMES = (Frame(800, 1344, 91), Frame(640, 640, 80))
MLPERF = Frame(800, 800, 264)


def floor_us(chip: Chip, moved: float) -> float:
    return moved / chip.gbs / 1e3


def expected_us(chip: Chip, moved: float) -> float:
    return floor_us(chip, moved) / REACHED + START_US[chip.kind]


def rows_of(frame: Frame) -> dict[str, float]:
    """The bytes of each row of a frame's table."""
    return {
        "filter, float32 heads": frame.logits(4),
        "**filter, float16 heads**": frame.logits(2),
        "resize of RGB, float32 input": frame.resize(3, 4),
        "resize of RGB, float16 input": frame.resize(3, 2),
        "resize of NV12, float16 input": frame.resize(1.5, 2),
        "only with row-major float32 heads: TensorRT's transposes": 2 * (frame.logits(4) + frame.deltas(4)),
        "only with row-major float16 heads: TensorRT's transposes": 2 * (frame.logits(2) + frame.deltas(2)),
    }


def number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def table(*rows: list[str]) -> Iterator[str]:
    head, *rest = rows
    yield f"| {' | '.join(head)} |"
    yield "| --- " * len(head) + "|"
    yield from (f"| {' | '.join(row)} |" for row in rest)


def page() -> Iterator[str]:
    """Yields the lines of the computed part."""
    names = [chip.name for chip in CHIPS]
    yield "**Computed, not measured.** The bandwidths are published:"
    yield ""
    yield from table(
        ["chip", "memory", "bandwidth, GB/s", "source"],
        *([chip.name, chip.memory, f"{chip.gbs:g}", chip.source] for chip in CHIPS),
    )
    yield ""
    jetson, card = START_US["Jetson"], START_US["card"]
    yield f"Floor = bytes / bandwidth. Expected = bytes / ({REACHED:.0%} of the bandwidth) + the start of a kernel in a"
    yield f"CUDA graph, assumed to take {jetson:g} us on a Jetson and {card:g} us on a card. Each entry is"
    yield "**floor / expected in microseconds**."
    for frame in FRAMES:
        yield ""
        yield from table(
            [str(frame), "MB", *names],
            *(
                [
                    name,
                    number(moved / 1e6),
                    *(f"{number(floor_us(chip, moved))} / {number(expected_us(chip, moved))}" for chip in CHIPS),
                ]
                for name, moved in rows_of(frame).items()
            ),
        )
    yield ""
    yield f"The filter, expected, beside a whole INT8 frame of MLPerf's RetinaNet ({MLPERF}), NMS included, by others:"
    yield ""
    yield from table(
        ["chip", "published frame, ms", "filter, float32", "share", "filter, float16", "share"],
        *(
            [
                chip.name,
                f"{chip.frame_ms:.2f} ({chip.frame_source})",
                *(
                    text
                    for size in (4, 2)
                    for text in (
                        f"{expected_us(chip, MLPERF.logits(size)):.0f} us",
                        f"{expected_us(chip, MLPERF.logits(size)) / chip.frame_ms / 1e3:.1%}",
                    )
                ),
            ]
            for chip in CHIPS
            if chip.frame_ms
        ),
    )


def main() -> None:
    text = "\n".join(page()) + "\n"
    print(text, end="")
    if "--write" in sys.argv[1:]:
        before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
        PAGE.write_text(before + BEGIN + text + END + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
