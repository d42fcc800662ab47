"""Builds torchvision RetinaNets and loads checkpoints into them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retinasdk._util.lazy import require
from retinasdk.errors import ModelError

# The two models that torchvision publishes, and the same model with other ResNet backbones.
ARCHITECTURES = (
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
    "retinanet_resnet18_fpn",
    "retinanet_resnet34_fpn",
    "retinanet_resnet101_fpn",
)

_PUBLISHED = ARCHITECTURES[:2]
# The weights file of torchvision's v1 model, which was trained with a batch norm epsilon of 0.
_PUBLISHED_V1 = "retinanet_resnet50_fpn_coco-eeacb38b"
# Keys under which training scripts save the weights in a checkpoint.
_WRAPPERS = ("model", "state_dict", "model_state_dict")
_LAST_LAYERS = ("classification_head.cls_logits", "regression_head.bbox_reg")


def load_torchvision(
    architecture: str,
    *,
    weights: str | os.PathLike[str] = "DEFAULT",
    classes: int | None = None,
    norm_eps: float | None = None,
) -> Any:
    """Builds a torchvision RetinaNet and loads its weights.

    A checkpoint contains weights only. A model that was trained with its own anchors, thresholds, image sizes or
    normalization must be built by your own code and passed to `export_torchvision`; this function builds the defaults.

    Args:
        architecture: One of `ARCHITECTURES`.
        weights: "DEFAULT" downloads torchvision's COCO weights; or the path of a checkpoint file that holds a
            state dict. Only tensors are read: the file cannot run code.
        classes: Expected number of classes, with the background. Defaults to the number in the weights.
        norm_eps: Epsilon of the batch norms. Defaults to 0 for torchvision's own v1 weights, otherwise to 1e-5. A model
            fine-tuned from the v1 weights keeps 0 if it was built with `weights=`; a checkpoint does not tell.

    Returns:
        The torchvision.models.detection.RetinaNet, in evaluation mode.

    Raises:
        ModelError: The checkpoint cannot be read or does not fit, or the weights cannot be downloaded.
        ValueError: An argument is wrong.
        MissingDependencyError: torch or torchvision is missing.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"the architecture {architecture!r} is unknown; choose one of {', '.join(ARCHITECTURES)}")
    detection = require("torchvision.models.detection", "exporting torchvision's models")
    if os.fspath(weights) == "DEFAULT":
        if architecture not in _PUBLISHED:
            raise ValueError(
                f"torchvision has no weights for {architecture}; give a checkpoint: --weights FILE.pth "
                "(in Python: weights=)"
            )
        if classes not in (None, 91):
            raise ValueError(
                f"torchvision's weights have 91 classes, not {classes}; give a checkpoint: --weights FILE.pth"
            )
        try:
            model = getattr(detection, architecture)(weights="DEFAULT")
        except OSError as error:  # From urllib.
            raise ModelError(
                f"torchvision's weights of {architecture} cannot be downloaded ({error}). Download them on another "
                "machine and give the file: --weights FILE.pth"
            ) from error
        return model.eval()
    path = Path(weights)
    state = _read_state(path)
    found = _classes_of(state, path)
    if classes not in (None, found):
        raise ModelError(f"{path} has a head of {found} classes, not {classes}; leave the number of classes out")
    model = _build(detection, architecture, found)
    _load_state(model, state, path, architecture)
    eps = (0.0 if path.stem == _PUBLISHED_V1 else 1e-5) if norm_eps is None else norm_eps
    for module in model.modules():
        if type(module).__name__ == "BatchNorm2d":
            module.eps = eps
    return model.eval()


def _read_state(path: Path) -> Mapping[str, Any]:
    """Reads the weights of a checkpoint by name. Only tensors are read, so the file cannot run code."""
    torch = require("torch", "reading checkpoints")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"{path} does not exist; check the path of the checkpoint") from None
    except Exception as error:  # From pickle or from torch.
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{path} cannot be read as a checkpoint of weights ({first}). Save only the weights: "
            "torch.save(model.state_dict(), FILE)"
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
            break
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise ModelError(
            f"{path} contains {type(state).__name__} instead of weights by name. Save only the weights: "
            "torch.save(model.state_dict(), FILE)"
        )
    return {key.removeprefix("module."): value for key, value in state.items()}  # From DataParallel.


def _classes_of(state: Mapping[str, Any], path: Path) -> int:
    logits, deltas = (state.get(f"head.{name}.weight") for name in _LAST_LAYERS)
    if logits is None or deltas is None:
        raise ModelError(
            f"{path} does not contain a torchvision RetinaNet: none of its {len(state)} entries is "
            f"head.{_LAST_LAYERS[0]}.weight. A model of another framework is exported there, and then converted with "
            "retinasdk import"
        )
    anchors = int(deltas.shape[0]) // 4
    return int(logits.shape[0]) // anchors


def _build(detection: Any, architecture: str, classes: int) -> Any:
    if architecture in _PUBLISHED:
        return getattr(detection, architecture)(weights=None, weights_backbone=None, num_classes=classes)
    extra = require("torchvision.ops.feature_pyramid_network", "exporting torchvision's models").LastLevelP6P7
    utils = require("torchvision.models.detection.backbone_utils", "exporting torchvision's models")
    norm = require("torch.nn", "exporting torchvision's models").BatchNorm2d
    backbone = utils.resnet_fpn_backbone(
        backbone_name=architecture.split("_")[1],
        weights=None,
        norm_layer=norm,
        returned_layers=[2, 3, 4],
        extra_blocks=extra(256, 256),
    )
    return detection.RetinaNet(backbone, classes)


def _load_state(model: Any, state: Mapping[str, Any], path: Path, architecture: str) -> None:
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # Shapes differ.
        line = str(error).strip().splitlines()[-1].strip()
        raise ModelError(
            f"{path} does not fit {architecture}: {line}. Name the architecture that it was trained with"
        ) from error
    # Frozen batch norms do not have a counter of batches.
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ModelError(
            f"{path} does not fit {architecture}: {len(missing)} weights are missing and {len(unexpected)} are "
            f"unknown, such as {(missing or unexpected)[0]}. Name the architecture that it was trained with"
        )
