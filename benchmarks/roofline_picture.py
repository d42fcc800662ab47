"""Draws the rooflines of a record as a small SVG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from cpu_page import title
from layer_work import CONVERSIONS, DEPTHWISE, DIRECT, HEADS, OTHER, POINTWISE, STEM, WINOGRAD
from matplotlib.figure import Figure

_COLORS = {
    STEM: "#8c6d31",
    POINTWISE: "#1f6feb",
    WINOGRAD: "#bf5b17",
    DIRECT: "#2f7d4f",
    DEPTHWISE: "#8250df",
    HEADS: "#cf222e",
    OTHER: "#8b949e",
    CONVERSIONS: "#57606a",
}
_LEAST, _MOST = 0.1, 1000  # Multiplications for each byte.


def draw(record: Mapping[str, Any], path: Path) -> None:
    """Writes a panel for each model: multiplications a second over multiplications a byte, and the limits of both.

    Equal records give equal files. The area of a point is its share of the network's time.
    """
    # Text stays text, which is smaller; identifiers are made from the salt, not at random.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "roofline", "font.size": 8}):
        figure = Figure(figsize=(7.6, 3.9), layout="constrained")
        panels = figure.subplots(1, len(record["models"]), sharey=True, squeeze=False)[0]
        for panel, model in zip(panels, record["models"], strict=True):
            _limits(panel, record)
            _points(panel, model)
            panel.set_title(model["title"].replace("`", "").partition(",")[0], fontsize=9)
            panel.set_xlabel("multiply-adds for each byte")
            panel.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel("10⁹ multiply-adds a second, all threads")
        shown = {kind["kind"] for model in record["models"] for kind in model["kinds"] if kind["computed"]}
        points = [
            panels[0].plot([], [], "o", color=color, label=kind)[0] for kind, color in _COLORS.items() if kind in shown
        ]
        figure.legend(handles=points, loc="outside lower center", ncols=4, frameon=False)
        figure.suptitle(f"{title(record)}, {record['threads']} threads, {record['date']}", fontsize=9)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _limits(panel: Any, record: Mapping[str, Any]) -> None:
    peak = record["peak"]
    most = peak["multiply_adds_per_core"][record["isa"]] * peak["threads"] / 1e9
    sizes = sorted(peak["bytes_per_second"], key=int)
    x = np.geomspace(_LEAST, _MOST, 200)
    for size, style, name, below in ((sizes[0], "--", "cache", 1.7), (sizes[-1], "-", "memory", 10)):
        rate = peak["bytes_per_second"][size] / 1e9
        panel.plot(x, np.minimum(most, rate * x), color="#24292f", linewidth=1.0, linestyle=style, zorder=1)
        at = most / rate / below  # On the line, so far below the peak.
        panel.annotate(
            f"{name}, {rate:.0f} GB/s", (at, rate * at), xytext=(4, -6), textcoords="offset points", fontsize=7
        )
    panel.text(_MOST * 0.9, most * 1.07, f"peak {most:.0f}", ha="right", fontsize=7)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlim(_LEAST, _MOST)
    panel.set_ylim(1, most * 2)
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter("{x:g}")


def _points(panel: Any, model: Mapping[str, Any]) -> None:
    for kind in model["kinds"]:
        if kind["computed"] and kind["reached_ms"]:
            share = kind["reached_ms"] / model["network_ms"]
            panel.scatter(
                kind["computed"] / kind["bytes"],
                kind["computed"] / kind["reached_ms"] / 1e6,
                s=12 + 500 * share,
                color=_COLORS[kind["kind"]],
                alpha=0.85,
                linewidths=0,
                zorder=2,
            )
