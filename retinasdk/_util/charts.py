"""Charts by matplotlib, without its global state: no pyplot, no change of backend or settings."""

from __future__ import annotations

import io
from typing import Any

from retinasdk._util.lazy import require

_DOTS_PER_INCH = 130
INK = "#333333"
_GRID = "#e3e3e3"


def check_charts() -> None:
    """Raises `MissingDependencyError` where charts cannot be drawn."""
    require("matplotlib.figure", "drawing charts")


def new_chart(width: float, height: float, title: str) -> tuple[Any, Any]:
    """A matplotlib figure of that size in inches, and its only axes: a light grid and no frame."""
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
    """A legend on a white ground, in axes or beside them in the figure."""
    place.legend(fontsize=8.5, labelcolor=INK, framealpha=0.9, edgecolor=_GRID, **options)


def as_png(figure: Any) -> bytes:
    """The figure as a PNG file; equal figures give equal bytes."""
    canvas = require("matplotlib.backends.backend_agg", "drawing charts").FigureCanvasAgg(figure)
    file = io.BytesIO()
    canvas.print_png(file, metadata={"Software": None})
    return file.getvalue()
