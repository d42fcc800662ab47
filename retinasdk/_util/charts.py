"""Draws charts with matplotlib without changing its global state: no pyplot, backend or settings."""

from __future__ import annotations

import io
from typing import Any

from retinasdk._util.lazy import require

_DOTS_PER_INCH = 130
INK = "#333333"
_GRID = "#e3e3e3"


def check_charts() -> None:
    """Checks that charts can be drawn.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    require("matplotlib.figure", "drawing charts")


def new_chart(width: float, height: float, title: str) -> tuple[Any, Any]:
    """Makes a matplotlib figure with a light grid and without a frame.

    Args:
        width: Width in inches.
        height: Height in inches.
        title: Title above the chart.

    Returns:
        The figure and its only axes.
    """
    figure = require("matplotlib.figure", "drawing charts").Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11, color=INK, loc="left")
    axes.grid(True, color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(labelsize=9, colors=INK)
    return figure, axes


def add_legend(place: Any, **options: Any) -> None:
    """Adds a legend on a white background.

    Args:
        place: The axes, or the figure for a legend beside them.
        **options: Passed on to matplotlib's `legend`.
    """
    place.legend(fontsize=8.5, labelcolor=INK, framealpha=0.9, edgecolor=_GRID, **options)


def as_png(figure: Any) -> bytes:
    """Returns a figure as the bytes of a PNG file. Equal figures give equal bytes."""
    canvas = require("matplotlib.backends.backend_agg", "drawing charts").FigureCanvasAgg(figure)
    file = io.BytesIO()
    canvas.print_png(file, metadata={"Software": None})
    return file.getvalue()
