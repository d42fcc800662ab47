"""Draws the record of a soak as a small SVG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

_COLORS = {"calls": "#bf5b17", "live": "#1f6feb", "detect": "#bf5b17", "tiles": "#8c6d31", "age": "#1f6feb"}
_NAMES = {"detect": "detect", "tiles": "detect by tiles", "age": "age of live frames"}


def draw(record: Mapping[str, Any], path: Path) -> None:
    """Writes memory, descriptors and threads at rest, latencies, and frames and processors over the minutes.

    Equal records give equal files. Thin gray lines mark the losses of the camera.
    """
    # Text stays text, which is smaller; identifiers are made from the salt, not at random.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "soak", "font.size": 8}):
        figure = Figure(figsize=(7.2, 8.0), layout="constrained")
        axes = figure.subplots(5, 1, sharex=True, height_ratios=(3, 2, 2, 2, 2))
        for one, part in zip(axes, (_memory, _counts, _latencies, _frames, _processors), strict=True):
            part(one, record["cycles"])
            for cycle in record["cycles"]:
                if cycle["outage"] is not None:
                    one.axvline(cycle["minutes"], color="#d0d0d0", linewidth=0.5, zorder=0)
            one.set_ylim(bottom=0)
            one.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=7)
            one.spines[["top", "right"]].set_visible(False)
        head = record["head"]
        axes[0].set_title(
            f"{head['machine']}, {head['device']}, {head['date'][:10]}, commit {head['commit'][:7]}", fontsize=9
        )
        axes[-1].set_xlabel("minutes")
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _line(axes: Any, cycles: Any, label: str, value: Any, **style: Any) -> None:
    axes.plot([cycle["minutes"] for cycle in cycles], list(map(value, cycles)), label=label, linewidth=1.0, **style)


def _memory(axes: Any, cycles: Any) -> None:
    quiet = [cycle for cycle in cycles if cycle["held"] is not None]
    for what, style in (("rss", ":"), ("pss", "--"), ("anonymous", "-")):
        for name in ("live", "calls"):
            label = f"{name}, {what.upper() if what != 'anonymous' else 'no file behind'}"
            _line(axes, quiet, label, lambda c, n=name, w=what: c["held"][n][f"{w}_mb"], color=_COLORS[name], ls=style)
    if any(cycle["gpu_mb"] for cycle in quiet):
        _line(axes, quiet, "GPU, all programs", lambda c: float(c["gpu_mb"] or "nan"), color="#2f7d4f")
    axes.set_ylabel("memory, MB")


def _counts(axes: Any, cycles: Any) -> None:
    quiet = [cycle for cycle in cycles if cycle["held"] is not None]
    for what, style in (("descriptors", "-"), ("threads", "--")):
        for name in ("live", "calls"):
            _line(
                axes, quiet, f"{name}, {what}", lambda c, n=name, w=what: c["held"][n][w], color=_COLORS[name], ls=style
            )
    axes.set_ylabel("at rest")


def _latencies(axes: Any, cycles: Any) -> None:
    for what, name in _NAMES.items():
        for share, style in (("p50", "-"), ("p99", ":")):
            seconds = lambda c, w=what, s=share: c["latency_s"][w][s]  # noqa: E731
            _line(axes, cycles, f"{name}, {share}", seconds, color=_COLORS[what], ls=style)
    axes.set_ylabel("latency, s")


def _frames(axes: Any, cycles: Any) -> None:
    for what, color in (("processed", "#2f7d4f"), ("dropped", "#8b949e"), ("failed", "#cf222e")):
        _line(axes, cycles, f"live, {what}", lambda c, w=what: c["frames"][w], color=color)
    axes.set_ylabel("frames a cycle")


def _processors(axes: Any, cycles: Any) -> None:
    for name in ("live", "calls"):
        _line(axes, cycles, name, lambda c, n=name: c["cpu"][n], color=_COLORS[name])
    _line(axes, cycles, "load average", lambda c: c["load"], color="#8b949e")
    axes.set_ylabel("processors")
