"""Finds the bundled models. This folder has `<name>.onnx`, its spec `<name>.json` and its card `<name>.md`."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

from retinasdk.errors import ModelError
from retinasdk.spec import ModelSpec

DEFAULT_MODEL = "people"
_FOLDER = Path(__file__).parent
_TORCH = "this is a PyTorch checkpoint, not an ONNX file; export it first, see: retinasdk export --help"
_KERAS = (
    "this is a Keras model, not an ONNX file; convert it with tf2onnx (python -m tf2onnx.convert --help), then: "
    "retinasdk import converted.onnx -o model.onnx"
)
_CHECKPOINTS = {
    **dict.fromkeys((".pth", ".pt", ".ckpt", ".safetensors"), _TORCH),
    **dict.fromkeys((".h5", ".keras"), _KERAS),
}


@dataclass(frozen=True)
class BundledModel:
    """Describes a model that is installed with the package.

    Attributes:
        name: Name to give to `Detector`.
        path: Path of the ONNX file.
        card: Markdown text about data, license, training and accuracy.
        spec: The model's spec.
    """

    name: str
    path: Path
    card: str
    spec: ModelSpec


def list_models() -> list[BundledModel]:
    """Returns the bundled models: the default first, then by name."""
    paths = sorted(_FOLDER.glob("*.onnx"), key=lambda path: (path.stem != DEFAULT_MODEL, path.stem))
    return [
        BundledModel(
            path.stem, path, path.with_suffix(".md").read_text("utf-8"), ModelSpec.load(path.with_suffix(".json"))
        )
        for path in paths
    ]


def find_model(model: str | os.PathLike[str]) -> Path:
    """Returns the path of a model file.

    Args:
        model: Name of a bundled model, or path of a file.

    Raises:
        ModelError: If there is no such model or file, or the file is a checkpoint that must be converted first.
    """
    text = os.fspath(model)
    bundled = {path.stem: path for path in sorted(_FOLDER.glob("*.onnx"))}
    if text in bundled:
        return bundled[text]
    path = Path(text)
    if path.is_file():
        if path.suffix.lower() in _CHECKPOINTS:
            raise ModelError(f"{text}: {_CHECKPOINTS[path.suffix.lower()]}")
        return path
    near = difflib.get_close_matches(text, bundled, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"bundled models: {', '.join(bundled) or 'none'}"
    raise ModelError(f"{text} is not the path of a file and not the name of a bundled model; {hint}")
