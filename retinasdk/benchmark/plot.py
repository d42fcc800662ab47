"""Draws a benchmark report: AP against milliseconds, or milliseconds by stage if there is no AP."""

from __future__ import annotations

from typing import Any

from retinasdk._util.charts import INK, add_legend, as_png, new_chart
from retinasdk.benchmark.bench import BenchReport, BenchRow
from retinasdk.benchmark.published import Published

_PUBLISHED = "published, not measured here"
_BEHIND = "#a9a9a9"
_SHAPES_BEHIND = "sD^v<>Pp"
_STAGE_COLORS = {"preprocess": "#8ec7a8", "network": "#6d9fe0", "postprocess": "#f0a13c"}


def chart(report: BenchReport) -> bytes:
    """Draws the report. Returns a PNG file."""
    return _accuracy_chart(report) if report.annotations else _time_chart(report)


def _accuracy_chart(report: BenchReport) -> bytes:
    height = 7.0 if report.published else 5.0
    figure, axes = new_chart(7.8, height, f"AP on {report.annotations} against the time of a call")
    axes.set_xscale("log")
    lines: dict[tuple[str, str, str], list[BenchRow]] = {}
    for row in report.rows:
        lines.setdefault((row.model, row.device, row.precision), []).append(row)
    for number, (names, rows) in enumerate(lines.items()):
        _draw_line(axes, " ".join(names), sorted(rows, key=lambda row: row.call_ms.median), f"C{number}")
    _draw_published(axes, report.published)
    axes.set_xlabel(_time_of(report))
    axes.set_ylabel("AP, IoU 0.50:0.95")
    axes.margins(x=0.12, y=0.15)
    axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]))
    _plain_numbers(axes)
    handles, labels = axes.get_legend_handles_labels()
    ours_first = sorted(zip(handles, labels, strict=True), key=lambda entry: entry[1].startswith(_PUBLISHED))
    add_legend(figure, handles=[handle for handle, _ in ours_first], loc="outside lower center")
    return as_png(figure)


def _draw_line(axes: Any, name: str, rows: list[BenchRow], color: str) -> None:
    """Draws one model's rows, fastest first, joined by a line and marked with their sizes."""
    medians = [row.call_ms.median for row in rows]
    heights = [row.metrics["AP"] or 0.0 for row in rows]
    below = [row.call_ms.median - row.call_ms.low for row in rows]
    above = [row.call_ms.high - row.call_ms.median for row in rows]
    axes.errorbar(
        medians, heights, xerr=(below, above), fmt="o-", color=color, capsize=3, linewidth=1.6, zorder=4, label=name
    )
    for row, x, y in zip(rows, medians, heights, strict=True):
        text = " x ".join(map(str, row.size or row.inputs[-1]))
        axes.annotate(text, (x, y), (6, -13), textcoords="offset points", fontsize=8.5, color=color)


def _draw_published(axes: Any, published: tuple[Published, ...]) -> None:
    sources = list(dict.fromkeys(item.source for item in published))
    for source, shape in zip(sources, _SHAPES_BEHIND, strict=False):
        label = f"{_PUBLISHED}: {source}"
        for hardware in dict.fromkeys(item.hardware for item in published if item.source == source):
            items = [item for item in published if (item.source, item.hardware) == (source, hardware)]
            items.sort(key=lambda item: (item.ap, item.milliseconds))
            x, y = [item.milliseconds for item in items], [item.ap for item in items]
            axes.plot(x, y, f"{shape}-", color=_BEHIND, markersize=4, linewidth=0.7, zorder=1, label=label)
            label = "_"  # one legend entry per source
            axes.annotate(
                hardware,
                (x[0], y[0]),
                (0, -5),
                textcoords="offset points",
                rotation=-35,
                rotation_mode="anchor",
                va="top",
                fontsize=7,
                color="#8a8a8a",
            )


def _time_chart(report: BenchReport) -> bytes:
    figure, axes = new_chart(7.8, 1.6 + 0.45 * len(report.rows), "Time of a call, and of its stages")
    for place, row in enumerate(report.rows):
        left = 0.0
        for name, color in _STAGE_COLORS.items():
            if name in row.stages_ms:
                width = row.stages_ms[name].median
                label = name if place == 0 else "_"
                axes.barh(place, width, 0.6, left, color=color, label=label)
                left += width
        call = row.call_ms
        whisker = ([call.median - call.low], [call.high - call.median])
        label = "call, with quartiles" if place == 0 else "_"
        axes.errorbar(call.median, place, xerr=whisker, fmt="o", color=INK, markersize=5, capsize=4, label=label)
    axes.set_yticks(range(len(report.rows)), [row.name for row in report.rows])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.grid(False, axis="y")
    axes.set_xlabel(_time_of(report))
    add_legend(figure, loc="outside lower center", ncols=4)
    return as_png(figure)


def _time_of(report: BenchReport) -> str:
    return f"ms per call of {report.batch} image{'s' * (report.batch != 1)}, median and quartiles"


def _plain_numbers(axes: Any) -> None:
    """Labels the axis with plain numbers: a short logarithmic axis may contain no power of ten."""
    from retinasdk._util.lazy import require

    ticker = require("matplotlib.ticker", "drawing charts")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
