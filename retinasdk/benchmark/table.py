"""Formats a benchmark report as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from retinasdk.benchmark.bench import BenchReport, BenchRow
from retinasdk.benchmark.turns import Spread

_STAGES = ("preprocess", "network", "postprocess")


def markdown(report: BenchReport) -> str:
    """Formats the machine, what was measured, and a table with one line for each configuration."""
    first = report.rows[0]
    head = ["model", "input", "device", "precision", "call, ms", "quartiles", *(f"{name}, ms" for name in _STAGES)]
    head += ["ratio to the first", *(("AP", "AP50") if report.annotations else ())]
    pictures = f"{report.images} image{'s' * (report.images != 1)} in turn" if report.images else "a generated picture"
    lines = [f"- {name}: {fact}" for name, fact in report.machine.items()]
    lines.append(
        f"- measured: `Detector({'image' if report.batch == 1 else f'{report.batch} images'})` on {pictures}, decoded "
        f"beforehand; medians of {report.rounds} rounds in which all take turns, after {report.warmup} warm-up rounds; "
        f"ratios to {first.name} within each round, with quartiles"
    )
    lines += [f"- convolutions of {row.name}: {row.convolution}" for row in report.rows if row.convolution]
    if report.annotations:
        lines.append(f"- AP: COCO's, on {report.annotations}")
    if any(row.device != "cpu" for row in report.rows):
        lines.append("- stages are measured on the CPU only; the GPU runs them as one")
    return "\n".join([*lines, "", *_table(head, [_cells(row, bool(report.annotations)) for row in report.rows])])


def _cells(row: BenchRow, has_metrics: bool) -> list[str]:
    stages = [_number(row.stages_ms[name].median) if name in row.stages_ms else "-" for name in _STAGES]
    cells = [row.model, _inputs(row), row.device, row.precision, _number(row.call_ms.median)]
    cells += [_range(row.call_ms), *stages, f"{row.ratio.median:.3f}, {row.ratio.low:.3f} to {row.ratio.high:.3f}"]
    if has_metrics:
        values = [row.metrics.get(name) for name in ("AP", "AP50")]
        cells += ["-" if value is None else f"{value:.3f}" for value in values]
    return cells


def _inputs(row: BenchRow) -> str:
    (low, *_), high = row.inputs, row.inputs[-1]
    smallest = f"{low[0]} x {low[1]}"
    return smallest if low == high else f"{smallest} to {high[0]} x {high[1]}"


def _range(spread: Spread) -> str:
    return f"{_number(spread.low)} to {_number(spread.high)}"


def _number(milliseconds: float) -> str:
    """Formats with at least three significant digits."""
    return f"{milliseconds:.3f}" if milliseconds < 10 else f"{milliseconds:.1f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Formats a Markdown table with aligned columns."""
    columns = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    cells = [head, ["-" * width for width in columns], *rows]
    return [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, columns, strict=True)) + " |" for row in cells
    ]
