"""Reads the properties of the element `retinadetect`, which are text."""

from __future__ import annotations

from retinasdk.tiling.grid import Tiles, TilesOption


def score_of(text: str) -> float | dict[str, float] | None:
    """Reads "0.5", "person=0.5,dog=0.3", or "" for the model's own threshold.

    Raises:
        ValueError: If it is something else.
    """
    try:
        if "=" not in text:
            return float(text) if text.strip() else None
        pairs = [part.rpartition("=") for part in text.split(",")]
        return {label.strip(): float(score) for label, _, score in pairs}
    except ValueError:
        raise ValueError(f"score must be a number such as 0.5, or person=0.5,dog=0.3; got {text!r}") from None


def classes_of(text: str) -> list[str] | None:
    """Reads "person, dog", or "" for all classes."""
    return [name.strip() for name in text.split(",") if name.strip()] or None


def tiles_of(text: str) -> TilesOption:
    """Reads "640", "480x640" (height x width), "auto", or "" for no tiles.

    Raises:
        ValueError: If it is something else.
    """
    sides = text.strip().lower().split("x")
    if text.strip() in ("", "auto"):
        return text.strip() or None  # type: ignore[return-value]
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise ValueError(f"tiles must be pixels such as 640, 480x640 (height x width), or auto; got {text!r}")
    return Tiles(int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1])))
