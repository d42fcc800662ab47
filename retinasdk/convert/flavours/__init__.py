"""Rules of the frameworks that train RetinaNet: one JSON file for each framework in this folder.

`load_preset` reads such a file; `Preset.spec` turns the rules into a `ModelSpec`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retinasdk._util.dataclass_json import from_json_object
from retinasdk.convert.flavours.preset import Preset
from retinasdk.errors import ModelError
from retinasdk.spec import ModelSpec

__all__ = ["Preset", "flavour_spec", "list_flavours", "load_preset"]

_FOLDER = Path(__file__).parent
# The two versions of torchvision's model differ in weights and heads, but not in the rules.
_ALIASES = {"torchvision-v1": "torchvision", "torchvision-v2": "torchvision"}


def list_flavours() -> list[str]:
    """Lists the frameworks whose rules are known.

    Returns:
        Names for `import_onnx(flavour=...)`, `flavour_spec` and `load_preset`, sorted.
    """
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def load_preset(flavour: str) -> Preset:
    """Loads the rules of a framework.

    Args:
        flavour: One of `list_flavours()`. "torchvision-v1" and "torchvision-v2" mean "torchvision".

    Raises:
        ModelError: The name is unknown.
    """
    name = _ALIASES.get(flavour, flavour)
    if name not in list_flavours():
        raise ModelError(f"the flavour {flavour!r} is unknown; choose one of {', '.join(list_flavours())}")
    return from_json_object(Preset, {"flavour": name, **_content(name)})


def _content(name: str) -> dict[str, Any]:
    """Returns the fields in a file, and those that it shares with the file that it names under "like"."""
    content: dict[str, Any] = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    shared = content.pop("like", None)
    return content if shared is None else {**_content(shared), **content}


def flavour_spec(flavour: str, *, labels: Sequence[str] | None = None, name: str | None = None) -> ModelSpec:
    """Builds the spec of a framework's RetinaNet with its default configuration.

    Example:
        ```py
        spec = flavour_spec("detectron2", labels=["bolt", "nut"])
        spec = spec.replace(score_threshold=0.3)
        ```

    Args:
        flavour: One of `list_flavours()`.
        labels: Class labels by class index. Defaults to those of the published models (COCO; OpenImages for MLPerf).
        name: Name of the model, for people.

    Raises:
        ModelError: The flavour is unknown.
    """
    return load_preset(flavour).spec(labels=labels, name=name)
