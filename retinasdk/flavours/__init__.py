"""Specs of known frameworks' RetinaNets: one JSON file each, plus what depends on the model at hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from retinasdk.errors import ModelError
from retinasdk.spec import ModelSpec

_FOLDER = Path(__file__).parent


def list_flavours() -> list[str]:
    """Names for `flavour_spec`."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def flavour_spec(flavour: str, *, labels: Sequence[str] | None = None, name: str | None = None) -> ModelSpec:
    """The spec of a framework's RetinaNet as trained on COCO; `labels` replaces its class names, by class index.

    Raises `ModelError` for an unknown flavour.
    """
    if flavour not in list_flavours():
        raise ModelError(f"unknown flavour {flavour!r}; known are {', '.join(list_flavours())}")
    spec = ModelSpec.load(_FOLDER / f"{flavour}.json")
    if labels is not None:
        kept = tuple(label for label in spec.ignore_labels if label in labels)
        spec = spec.replace(labels=tuple(labels), ignore_labels=kept)
    return spec if name is None else spec.replace(name=name)
