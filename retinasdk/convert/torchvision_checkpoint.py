"""Builds torchvision RetinaNets and loads weights into them: torchvision's own, or those of a checkpoint."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retinasdk._util.lazy import require
from retinasdk.convert.checkpoint_file import read_checkpoint
from retinasdk.errors import ModelError

# The two models that torchvision publishes, and the same model with other ResNet backbones.
ARCHITECTURES = (
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
    "retinanet_resnet18_fpn",
    "retinanet_resnet34_fpn",
    "retinanet_resnet101_fpn",
)
PUBLISHED = ARCHITECTURES[:2]
ANCHORS_PER_CELL = 9

_PURPOSE = "exporting torchvision's models"
_LAST_LAYERS = ("classification_head.cls_logits", "regression_head.bbox_reg")
# A published file: its name ends in the first digits of its SHA-256.
_PUBLISHED_FILE = re.compile(r"(retinanet_resnet50_fpn(?:_v2)?)_coco-([0-9a-f]{8})")


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
    if os.fspath(weights) == "DEFAULT":
        return load_published(architecture, classes=classes)
    path = Path(weights)
    return build(architecture, read_checkpoint(path).state, path, classes=classes, norm_eps=norm_eps)


def check_architecture(architecture: str) -> None:
    """Raises `ValueError` if the name is none of `ARCHITECTURES`."""
    if architecture not in ARCHITECTURES:
        raise ValueError(f"the architecture {architecture!r} is unknown; choose one of {', '.join(ARCHITECTURES)}")


def load_published(architecture: str, weights: str = "DEFAULT", *, classes: int | None = None) -> Any:
    """Builds a model with the weights that torchvision publishes, from torch's cache or from the network.

    Args:
        architecture: One of `ARCHITECTURES`.
        weights: Name of the weights, such as "COCO_V1".
        classes: Expected number of classes, with the background.

    Raises:
        ModelError: The weights cannot be downloaded, or the file in the cache is damaged.
        ValueError: torchvision has no such weights, or they have another number of classes.
        MissingDependencyError: torch or torchvision is missing.
    """
    check_architecture(architecture)
    models = require("torchvision.models", _PURPOSE)
    if architecture not in PUBLISHED:
        raise ValueError(
            f"torchvision has no weights for {architecture}; give a checkpoint: --weights FILE.pth "
            "(in Python: weights=)"
        )
    known = models.get_model_weights(architecture)
    if weights not in known.__members__:
        raise ValueError(
            f"torchvision has no weights {weights!r} for {architecture}, only {', '.join(known.__members__)}; name "
            f"them: torchvision:{architecture}:{next(iter(known.__members__))}"
        )
    chosen = known[weights]
    count = len(chosen.meta["categories"])
    if classes not in (None, count):
        raise ValueError(
            f"torchvision's weights have {count} classes, not {classes}; give a checkpoint: --weights FILE.pth"
        )
    name = chosen.url.rpartition("/")[2]
    cached = Path(require("torch.hub", _PURPOSE).get_dir()) / "checkpoints" / name
    try:
        return getattr(models.detection, architecture)(weights=chosen).eval()
    except Exception as error:  # From urllib, from pickle or from torch.
        if cached.exists():
            raise ModelError(
                f"{cached} cannot be read ({str(error).strip().partition(chr(10))[0]}). Delete it, so that torchvision "
                "downloads it again"
            ) from error
        raise ModelError(
            f"torchvision's weights of {architecture} cannot be downloaded ({error}). Download {chosen.url} on another "
            f"machine, and copy it to {cached}, or give the file: --weights {name}"
        ) from error


def published_architecture(path: Path) -> str | None:
    """Returns the architecture of a file with torchvision's own weights; None for any other file.

    Raises:
        ModelError: The file has the name of torchvision's weights, but other contents.
    """
    match = _PUBLISHED_FILE.fullmatch(path.stem)
    if match is None or not path.is_file():
        return None
    with path.open("rb") as file:
        digest = hashlib.sha256()
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    if not digest.hexdigest().startswith(match[2]):
        raise ModelError(
            f"{path} has the name of torchvision's weights, but other contents: its SHA-256 begins with "
            f"{digest.hexdigest()[:8]}. Download it again, or give your own weights another name"
        )
    return match[1]


def architecture_of(state: Mapping[str, Any], path: Path) -> str:
    """Recognizes the architecture by the names of the weights.

    Raises:
        ModelError: It is none of `ARCHITECTURES`.
    """
    blocks = [
        len({key.split(".")[3] for key in state if key.startswith(f"backbone.body.layer{layer}.")})
        for layer in range(1, 5)
    ]
    is_bottleneck = "backbone.body.layer1.0.conv3.weight" in state
    depths = {"2 2 2 2 0": 18, "3 4 6 3 0": 34, "3 4 6 3 1": 50, "3 4 23 3 1": 101}
    depth = depths.get(" ".join(map(str, [*blocks, int(is_bottleneck)])))
    if depth is None:
        raise ModelError(
            f"{path} has a backbone that is none of torchvision's ResNets 18, 34, 50 and 101. Build the model in "
            "Python and export it with retinasdk.export_torchvision(model, OUT)"
        )
    has_norm = "head.classification_head.conv.0.1.weight" in state  # The group norm of the second version.
    return f"retinanet_resnet{depth}_fpn" + "_v2" * (has_norm and depth == 50)


def anchors_of(state: Mapping[str, Any]) -> int:
    """Returns the number of anchors per cell of a checkpoint."""
    return int(state[f"head.{_LAST_LAYERS[1]}.weight"].shape[0]) // 4


def build(
    architecture: str,
    state: Mapping[str, Any],
    path: Path,
    *,
    classes: int | None = None,
    norm_eps: float | None = None,
) -> Any:
    """Builds a model with torchvision's default rules and loads weights into it.

    Its anchors are placeholders if the weights do not have nine for each cell.

    Raises:
        ModelError: The weights do not fit.
        ValueError: The architecture is unknown.
        MissingDependencyError: torch or torchvision is missing.
    """
    check_architecture(architecture)
    detection = require("torchvision.models.detection", _PURPOSE)
    found = _classes_of(state, path)
    if classes not in (None, found):
        raise ModelError(f"{path} has a head of {found} classes, not {classes}; leave the number of classes out")
    model = _build(detection, architecture, found)
    if (anchors := anchors_of(state)) != ANCHORS_PER_CELL:
        _replace_head(detection, model, architecture, found, anchors)
    _load_state(model, state, path, architecture)
    eps = (0.0 if path.stem == "retinanet_resnet50_fpn_coco-eeacb38b" else 1e-5) if norm_eps is None else norm_eps
    for module in model.modules():
        if type(module).__name__ == "BatchNorm2d":
            module.eps = eps
    return model.eval()


def _classes_of(state: Mapping[str, Any], path: Path) -> int:
    logits, deltas = (state.get(f"head.{name}.weight") for name in _LAST_LAYERS)
    if logits is None or deltas is None:
        raise ModelError(
            f"{path} does not contain a torchvision RetinaNet: one of its heads is missing. A model of another "
            "framework is exported there, and then converted with retinasdk import"
        )
    return int(logits.shape[0]) // anchors_of(state)


def _build(detection: Any, architecture: str, classes: int) -> Any:
    if architecture in PUBLISHED:
        return getattr(detection, architecture)(weights=None, weights_backbone=None, num_classes=classes)
    blocks = require("torchvision.ops.feature_pyramid_network", _PURPOSE).LastLevelP6P7
    utils = require("torchvision.models.detection.backbone_utils", _PURPOSE)
    norm = require("torch.nn", _PURPOSE).BatchNorm2d
    backbone = utils.resnet_fpn_backbone(
        backbone_name=architecture.split("_")[1],
        weights=None,
        norm_layer=norm,
        returned_layers=[2, 3, 4],
        extra_blocks=blocks(256, 256),
    )
    return detection.RetinaNet(backbone, classes)


def _replace_head(detection: Any, model: Any, architecture: str, classes: int, anchors: int) -> None:
    """Gives the model a head for another number of anchors per cell. The anchors themselves are placeholders."""
    norm = functools.partial(require("torch.nn", _PURPOSE).GroupNorm, 32) if architecture == PUBLISHED[1] else None
    model.head = detection.retinanet.RetinaNetHead(model.backbone.out_channels, anchors, classes, norm_layer=norm)
    sizes = tuple(tuple(range(16, 16 + anchors)) for _ in model.anchor_generator.sizes)
    model.anchor_generator = detection.anchor_utils.AnchorGenerator(sizes, ((1.0,),) * len(sizes))


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
