"""Specs of known frameworks' RetinaNets.

One JSON file each holds the framework's rules (`Preset`); `Preset.spec` is the one place where rules become a
`ModelSpec`, for the levels and the classes of the model at hand.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from retinasdk._util.dataclass_json import from_json_object
from retinasdk.convert.flavours.preset import Preset
from retinasdk.errors import ModelError
from retinasdk.spec import ModelSpec

__all__ = ["Preset", "flavour_spec", "list_flavours", "load_preset"]

_FOLDER = Path(__file__).parent
# Both versions of torchvision's model differ in weights and heads, not in the rules.
_ALIASES = {"torchvision-v1": "torchvision", "torchvision-v2": "torchvision"}


def list_flavours() -> list[str]:
    """Names for `flavour_spec`."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def load_preset(flavour: str) -> Preset:
    """A framework's rules. Raises `ModelError` for an unknown flavour."""
    name = _ALIASES.get(flavour, flavour)
    if name not in list_flavours():
        raise ModelError(f"unknown flavour {flavour!r}; known are {', '.join(list_flavours())}")
    content = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return from_json_object(Preset, {"flavour": name, **content})


def flavour_spec(flavour: str, *, labels: Sequence[str] | None = None, name: str | None = None) -> ModelSpec:
    """The spec of a framework's RetinaNet as trained on its usual data; `labels` replaces the class names, by index.

    Raises `ModelError` for an unknown flavour.
    """
    return load_preset(flavour).spec(labels=labels, name=name)
