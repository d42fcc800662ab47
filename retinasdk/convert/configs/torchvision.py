"""Reads the arguments of torchvision's RetinaNet from JSON."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retinasdk.convert.configs.rules import ConfigRules, RuleReader, number, numbers, optional, whole
from retinasdk.errors import ModelError

# Names of the arguments that are understood.
ARGUMENTS = (
    *("num_classes", "score_thresh", "nms_thresh", "detections_per_img", "topk_candidates"),
    *("min_size", "max_size", "image_mean", "image_std", "size_divisible", "anchor_generator", "labels"),
)


def is_config(content: Mapping[str, Any]) -> bool:
    """Whether the content of a file looks like arguments of torchvision's RetinaNet."""
    return any(name in content for name in ARGUMENTS)


def rules_of(path: Path, content: Mapping[str, Any]) -> ConfigRules:
    """Returns the rules in the arguments of torchvision.models.detection.RetinaNet, or of its builders.

    `anchor_generator` is {"sizes": [[...], ...], "aspect_ratios": [[...], ...]}, the arguments of AnchorGenerator.
    `labels` are the names of the classes, which torchvision itself does not keep.

    Raises:
        ModelError: There is an argument that is not known.
    """
    unknown = sorted(set(content) - set(ARGUMENTS))
    if unknown:
        raise ModelError(
            f"{path}: the arguments {', '.join(unknown)} are not known; known are {', '.join(ARGUMENTS)}. Remove those "
            "that do not change the boxes"
        )
    reader = RuleReader(path, content)
    for name, key, convert in (
        ("score_threshold", "score_thresh", number),
        ("nms_iou_threshold", "nms_thresh", number),
        ("max_detections", "detections_per_img", whole),
        ("top_k", "topk_candidates", whole),
        ("pad_multiple", "size_divisible", whole),
        ("labels", "labels", _names),
    ):
        reader.rule(name, key, lambda key=key, convert=convert: optional(reader.get(key), convert))  # type: ignore[misc]
    if any(reader.get(key) is not None for key in ("image_mean", "image_std")):
        reader.rule("mean", "image_mean", lambda: _of_255(reader.get("image_mean", [0.485, 0.456, 0.406])))
        reader.rule("std", "image_std", lambda: _of_255(reader.get("image_std", [0.229, 0.224, 0.225])))
    if any(reader.get(key) is not None for key in ("min_size", "max_size")):
        reader.rule("resize", "min_size, max_size", lambda: _resize(reader))
    reader.rule("base_anchors", "anchor_generator", lambda: optional(reader.get("anchor_generator"), _base_anchors))
    return reader.rules("torchvision", classes=reader.get("num_classes"))


def _names(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"it is no list of names, but {reprlib.repr(value)}")
    return value


def _of_255(value: Any) -> list[float]:
    return [item * 255 for item in numbers(value, 3)]


def _resize(reader: RuleReader) -> str:
    shorter = reader.get("min_size", 800)
    # Of several sizes for training, torchvision takes the last one for inference.
    shorter = shorter[-1] if isinstance(shorter, list) and shorter else shorter
    return f"shortest:{whole(shorter)},{whole(reader.get('max_size', 1333))}"


def _base_anchors(value: Any) -> list[list[list[float]]]:
    """Returns the boxes of an AnchorGenerator: ratio by ratio, with half sides rounded half to even."""
    if not isinstance(value, Mapping):
        raise ValueError(f'it is {reprlib.repr(value)}, and not {{"sizes": ..., "aspect_ratios": ...}}')
    sizes = [numbers(item) for item in value.get("sizes") or []]
    ratios = [numbers(item) for item in value.get("aspect_ratios") or []]
    if not sizes or len(sizes) != len(ratios):
        raise ValueError(f"it has sizes for {len(sizes)} levels and aspect ratios for {len(ratios)}")
    levels = []
    for own_sizes, own_ratios in zip(sizes, ratios, strict=True):
        halves = [
            (round(size / math.sqrt(ratio) / 2), round(size * math.sqrt(ratio) / 2))
            for ratio in own_ratios
            for size in own_sizes
        ]
        levels.append([[float(-x), float(-y), float(x), float(y)] for x, y in halves])
    return levels
