"""The bundled models: `<name>.onnx`, its spec `<name>.json` and its card `<name>.md`, in this folder."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

from retinasdk.errors import ModelError
from retinasdk.spec import ModelSpec

DEFAULT_MODEL = "people"
_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class BundledModel:
    """name: for `Detector(name)`; path: of the ONNX file; card: Markdown text of data, licence, recipe and accuracy."""

    name: str
    path: Path
    card: str
    spec: ModelSpec


def list_models() -> list[BundledModel]:
    """The bundled models, the default first, then by name."""
    paths = sorted(_FOLDER.glob("*.onnx"), key=lambda path: (path.stem != DEFAULT_MODEL, path.stem))
    return [
        BundledModel(
            path.stem, path, path.with_suffix(".md").read_text("utf-8"), ModelSpec.load(path.with_suffix(".json"))
        )
        for path in paths
    ]


def find_model(model: str | os.PathLike[str]) -> Path:
    """The ONNX file of a bundled name or of a path. Raises `ModelError`."""
    text = os.fspath(model)
    bundled = {path.stem: path for path in sorted(_FOLDER.glob("*.onnx"))}
    if text in bundled:
        return bundled[text]
    path = Path(text)
    if path.is_file():
        return path
    near = difflib.get_close_matches(text, bundled, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"bundled are {', '.join(bundled) or 'none'}"
    raise ModelError(f"{text}: wanted the name of a bundled model or the path of an ONNX file, found neither; {hint}")
