"""Writes docs/how/roofline.md and its pictures from the records of benchmarks/roofline.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cpu_page import circumstances, replaced, title
from cpu_records import ROOFLINE, Record, path_of, records
from record_page import number, table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "how" / "roofline.md"
_BEGIN = "<!-- From benchmarks/records/cpu, by benchmarks/roofline.py --write: -->\n"
_END = "<!-- End of the rooflines. -->\n"
_HEAD = (
    "kind of layer",
    "operators",
    "multiply-adds, 10^9",
    "computed, 10^9",
    "MB",
    "limit",
    "best, ms",
    "reached, ms",
    "best / reached",
    "share of the time",
)
_STAGES = {"preprocess": "preprocessing", "inference": "the network", "postprocess": "post-processing"}


def picture_of(record: Mapping[str, Any]) -> Path:
    """Where the picture of a record is."""
    name = path_of(record).stem[len("2000-01-01-") :].removesuffix("-roofline")
    return PAGE.with_name(f"roofline-{name}.svg")


def section(record: Record, *, picture: str | None) -> list[str]:
    """The part of the page that is of one record. picture: its address, or None."""
    lines = [f"## {title(record)}", "", *circumstances(record), "", *_peak(record), ""]
    if picture is not None:
        lines += [f"![The rooflines of both models]({picture})", ""]
    for model in record["models"]:
        height, width = model["size"]
        lines += [f"### {model['title']}, {height} x {width}", "", *_model_table(model), "", *_remaining(model), ""]
        lines += [*_whole_call(model), ""]
    return lines


def _peak(record: Record) -> Iterator[str]:
    peak = record["peak"]
    core = peak["multiply_adds_per_core"]
    rates = ", ".join(f"{number(value / 1e9)} with {name}" for name, value in core.items())
    yield f"The most multiply-adds a second of one core, in 10^9, while {peak['threads']} compute: {rates}."
    moved = ", ".join(f"{number(rate / 1e9)} with {size} MB" for size, rate in peak["bytes_per_second"].items())
    yield f"Bytes that all threads together move, in GB/s, by the size of what they work on: {moved}."


def _model_table(model: Mapping[str, Any]) -> list[str]:
    rows = [_row(kind["kind"], kind, model["network_ms"]) for kind in model["kinds"]]
    names = [name for name in model["kinds"][0] if name != "kind"]
    whole = {name: sum(kind[name] for kind in model["kinds"]) for name in names}
    outside = max(0.0, model["network_ms"] - whole["reached_ms"])
    rows.append(["between operators", *[""] * 6, number(outside), "", f"{outside / model['network_ms']:.1%}"])
    rows.append(_row("**all**", whole | {"reached_ms": model["network_ms"]}, model["network_ms"]))
    return table(_HEAD, rows)


def _row(name: str, kind: Mapping[str, Any], network_ms: float) -> list[str]:
    return [
        name,
        str(kind["operators"]),
        number(kind["direct"] / 1e9),
        number(kind["computed"] / 1e9),
        number(kind["bytes"] / 1e6),
        "arithmetic" if kind["arithmetic_ms"] > kind["memory_ms"] else "memory",
        number(kind["best_ms"]),
        number(kind["reached_ms"]),
        f"{kind['best_ms'] / kind['reached_ms']:.0%}" if kind["reached_ms"] else "",
        f"{kind['reached_ms'] / network_ms:.1%}",
    ]


def _remaining(model: Mapping[str, Any]) -> Iterator[str]:
    """Names where the most time above the best possible is."""
    gaps = sorted(model["kinds"], key=lambda kind: kind["reached_ms"] - kind["best_ms"], reverse=True)
    above = model["network_ms"] - sum(kind["best_ms"] for kind in model["kinds"])
    parts = []
    for kind in gaps:
        gap = kind["reached_ms"] - kind["best_ms"]
        if gap > 0.03 * above:
            parts.append(f"{kind['kind']} {number(gap)} ms ({gap / above:.0%})")
    yield f"**What remains.** The network takes {number(above)} ms more than the best possible."
    yield f"Of that: {', '.join(parts)}."


def _whole_call(model: Mapping[str, Any]) -> Iterator[str]:
    stages = model["stages_ms"]
    parts = ", ".join(f"{name} {number(stages[key])} ms" for key, name in _STAGES.items() if key in stages)
    yield f"The whole call takes {number(stages['call'])} ms without the profiler: {parts}."


def page(text: str) -> str:
    """The text of docs/how/roofline.md with what today's records say in it."""
    found = [line for record in records(ROOFLINE) for line in section(record, picture=picture_of(record).name)]
    return replaced(text, _BEGIN, _END, found, PAGE)


def write() -> None:
    """Writes the page and its pictures."""
    from roofline_picture import draw

    for record in records(ROOFLINE):
        draw(record, picture_of(record))
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
