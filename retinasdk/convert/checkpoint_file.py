"""Reads checkpoint files of PyTorch and of Hugging Face, without running code from them."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retinasdk._util.lazy import require
from retinasdk.errors import ModelError

# A weight that every torchvision RetinaNet has. What stands before it in a name is the prefix of a training framework:
# "module." of DataParallel, "model." of Lightning.
_LAST_LAYER = "head.classification_head.cls_logits.weight"
# Keys under which training scripts save the weights in a checkpoint.
_WRAPPERS = ("model", "state_dict", "model_state_dict")
_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_SAFETENSORS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64", "I64": "int64"}
_MAX_HEADER = 100 << 20


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file contains.

    Attributes:
        path: The file.
        state: Weights by name, as torchvision names them, without the prefix of a training framework. Empty if the file
            holds a whole model.
        model: The model, if the file holds a whole one, otherwise None.
        extra: Everything else in the file, such as "args" or "hyper_parameters".
    """

    path: Path
    state: Mapping[str, Any]
    model: Any = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def read_checkpoint(path: Path, *, trusted: bool = False) -> Checkpoint:
    """Reads a checkpoint of PyTorch, or a safetensors file.

    Args:
        path: The file.
        trusted: Whether the file may run code while it is read, as a whole pickled model does.

    Raises:
        ModelError: The file cannot be read, or does not contain a torchvision RetinaNet.
        MissingDependencyError: torch is missing.
    """
    if not path.exists():
        raise ModelError(f"{path} does not exist; check the path of the checkpoint")
    if path.suffix == ".safetensors":
        return Checkpoint(path, _plain_names(_read_safetensors(path), path))
    content = _load(path, trusted)
    if hasattr(content, "state_dict"):
        return Checkpoint(path, {}, content)
    if not isinstance(content, Mapping):
        raise ModelError(
            f"{path} contains {type(content).__name__} instead of weights by name. Save only the weights: "
            "torch.save(model.state_dict(), FILE)"
        )
    wrapper = next((name for name in _WRAPPERS if isinstance(content.get(name), Mapping)), None)
    whole = next((content[name] for name in _WRAPPERS if hasattr(content.get(name), "state_dict")), None)
    extra = {key: value for key, value in content.items() if wrapper is not None and key != wrapper}
    if whole is not None:
        return Checkpoint(path, {}, whole, extra)
    return Checkpoint(path, _plain_names(content if wrapper is None else content[wrapper], path), extra=extra)


def _load(path: Path, trusted: bool) -> Any:
    torch = require("torch", "reading checkpoints")
    # torchvision's training script keeps its arguments in this class, which is only a container.
    safe_globals = getattr(torch.serialization, "safe_globals", lambda classes: contextlib.nullcontext())
    try:
        with safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=not trusted)
    except Exception as error:  # From pickle or from torch.
        text = _COLOR.sub("", str(error)).strip()
        if not trusted and (name := re.search(r"(?:GLOBAL|Unsupported (?:class|global):?)\s+'?([\w.]+)", text)):
            raise ModelError(
                f"{path} cannot be read as a checkpoint of weights: it contains the Python class {name[1]}, and "
                "reading such a file runs code from it. Save only the weights: torch.save(model.state_dict(), FILE). "
                "If you trust whoever made the file, add --trusted"
            ) from error
        first = (text.splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{path} cannot be read as a checkpoint of weights ({first}). Save only the weights: "
            "torch.save(model.state_dict(), FILE)"
        ) from error


def _plain_names(state: Mapping[Any, Any], path: Path) -> dict[str, Any]:
    """Returns the weights of the RetinaNet without the prefix of a training framework."""
    prefix = next(
        (key.removesuffix(_LAST_LAYER) for key in state if isinstance(key, str) and key.endswith(_LAST_LAYER)), None
    )
    if prefix is None:
        raise ModelError(
            f"{path} does not contain a torchvision RetinaNet: none of its {len(state)} entries is {_LAST_LAYER}. "
            "A model of another framework is exported there, and then converted with retinasdk import"
        )
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _read_safetensors(path: Path) -> dict[str, Any]:
    """Reads the format of Hugging Face: the length of the header, a JSON header, the bytes of all tensors."""
    torch = require("torch", "reading checkpoints")
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    try:
        if len(content) < 8 or length > min(_MAX_HEADER, len(content) - 8):
            raise ValueError("it is too short")
        tensors, data, state = json.loads(content[8 : 8 + length]), memoryview(content)[8 + length :], {}
        for name, item in tensors.items():
            if name == "__metadata__":
                continue
            first, end = item["data_offsets"]
            kind = getattr(torch, _SAFETENSORS[item["dtype"]])
            if end > len(data):
                raise ValueError("it is too short")
            values = torch.frombuffer(bytearray(data[first:end]), dtype=kind) if end > first else torch.empty(0)
            state[name] = values.reshape(item["shape"])
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ModelError(
            f"{path} cannot be read as a safetensors file ({error}). Save the model again, or download it again"
        ) from error
    return state
