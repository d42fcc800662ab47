"""Reads the YAML configs of detectron2: those that people write, and `config.yaml`, which a training dumps."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retinasdk.convert.configs.rules import (
    ConfigRules,
    RuleReader,
    Unresolved,
    UnusableValueError,
    number,
    numbers,
    optional,
    whole,
)
from retinasdk.convert.configs.yaml_file import read_yaml
from retinasdk.errors import ModelError

_ANCHORS = "MODEL.ANCHOR_GENERATOR"
_RETINANET = "MODEL.RETINANET"
_BASE = "_BASE_"
_MAX_BASES = 16
# detectron2's defaults (config/defaults.py) where they are not those of its RetinaNet.
_SIZES = [[32.0, 64.0, 128.0, 256.0, 512.0]]
_RATIOS = [[0.5, 1.0, 2.0]]
_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
# Backbones whose padding follows from the last feature map that their FPN takes.
_BACKBONES = ("build_retinanet_resnet_fpn_backbone", "build_resnet_fpn_backbone")
_LARGEST_SIDE = 1 << 16


def is_config(content: Mapping[str, Any]) -> bool:
    """Whether the content of a file looks like a config of detectron2."""
    return "MODEL" in content or _BASE in content


def rules_of(path: Path, content: Mapping[str, Any]) -> ConfigRules:
    """Returns the rules in a config, with those of its base files.

    Raises:
        ModelError: It is the config of another kind of network, or names something that is not known.
    """
    reader = RuleReader(path, _with_bases(path, content, 0))
    architecture = reader.get("MODEL.META_ARCHITECTURE")
    reader.refuse(
        architecture == "RetinaNet", "MODEL.META_ARCHITECTURE", "only RetinaNet is supported, with its own code"
    )
    generator = f"{_ANCHORS}.NAME"
    reader.refuse(
        reader.get(generator, "DefaultAnchorGenerator") == "DefaultAnchorGenerator",
        generator,
        "only DefaultAnchorGenerator is supported",
    )
    for name, key, convert in (
        ("score_threshold", f"{_RETINANET}.SCORE_THRESH_TEST", number),
        ("top_k", f"{_RETINANET}.TOPK_CANDIDATES_TEST", whole),
        ("nms_iou_threshold", f"{_RETINANET}.NMS_THRESH_TEST", number),
        ("max_detections", "TEST.DETECTIONS_PER_IMAGE", whole),
        ("box_weights", f"{_RETINANET}.BBOX_REG_WEIGHTS", lambda value: numbers(value, 4)),
        ("channel_order", "INPUT.FORMAT", _channel_order),
        ("mean", "MODEL.PIXEL_MEAN", lambda value: numbers(value, 3)),
        ("std", "MODEL.PIXEL_STD", lambda value: numbers(value, 3)),
    ):
        reader.rule(name, key, lambda key=key, convert=convert: optional(reader.get(key), convert))  # type: ignore[misc]
    reader.rule("resize", "INPUT.MIN_SIZE_TEST, INPUT.MAX_SIZE_TEST", lambda: _resize(reader))
    reader.rule("strides", f"{_RETINANET}.IN_FEATURES", lambda: _strides(reader))
    reader.rule("base_anchors", f"{_ANCHORS}.SIZES, ASPECT_RATIOS, OFFSET", lambda: _base_anchors(reader))
    reader.rule("pad_multiple", "MODEL.FPN.IN_FEATURES", lambda: _pad_multiple(reader))
    if ("mean" in reader.values) != ("std" in reader.values):
        # Each alone replaces its default only.
        for name, key, usual in (
            ("mean", "MODEL.PIXEL_MEAN", [103.53, 116.28, 123.675]),
            ("std", "MODEL.PIXEL_STD", [1.0, 1.0, 1.0]),
        ):
            if name not in reader.problems and name not in reader.values:
                reader.values[name], reader.keys[name] = usual, f"{key}, its default"
    return reader.rules("detectron2", classes=reader.get(f"{_RETINANET}.NUM_CLASSES"))


def _with_bases(path: Path, content: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """Returns a config merged into those that it names as its base."""
    own = {name: value for name, value in content.items() if name != _BASE}
    base = content.get(_BASE)
    if base is None:
        return own
    if not isinstance(base, str) or depth >= _MAX_BASES or re.match(r"[a-z0-9]+://", base):
        raise ModelError(
            f"{path}: {_BASE} is {reprlib.repr(base)}, which cannot be read. Give the config.yaml that detectron2 "
            "wrote into OUTPUT_DIR; it needs no other file"
        )
    other = path.parent / base
    try:
        read = read_yaml(other)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path}: its {_BASE} {base!r} cannot be read: {error}. Give the config.yaml that detectron2 wrote into "
            "OUTPUT_DIR; it needs no other file"
        ) from error
    if not isinstance(read, dict):
        raise ModelError(f"{other}, the {_BASE} of {path}, holds no names and values")
    return _merged(_with_bases(other, read, depth + 1), own)


def _merged(base: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in own.items():
        before = merged.get(name)
        merged[name] = _merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return merged


def _channel_order(value: Any) -> str:
    if value not in ("RGB", "BGR"):
        raise ValueError(f"it is {reprlib.repr(value)}; RGB and BGR are known")
    return str(value)


def _resize(reader: RuleReader) -> str | None:
    shorter, longer = reader.get("INPUT.MIN_SIZE_TEST"), reader.get("INPUT.MAX_SIZE_TEST")
    if shorter is None and longer is None:
        return None
    side = whole(800 if shorter is None else shorter)
    if side == 0:  # No resize.
        return f"native:{_LARGEST_SIDE}"
    return f"shortest:{side},{min(whole(1333 if longer is None else longer), _LARGEST_SIDE)}"


def _strides(reader: RuleReader) -> list[float] | None:
    features = reader.get(f"{_RETINANET}.IN_FEATURES")
    if features is None:
        return None
    levels = [re.fullmatch(r"p([1-9])", str(feature)) for feature in features]
    if not all(levels):
        raise ValueError(f"the strides of the feature maps {reprlib.repr(features)} are not known")
    return [float(1 << int(level[1])) for level in levels if level is not None]


def _base_anchors(reader: RuleReader) -> list[list[list[float]]] | None:
    keys = [f"{_ANCHORS}.{name}" for name in ("SIZES", "ASPECT_RATIOS", "OFFSET")]
    given = [reader.get(key) for key in keys]
    if all(value is None for value in given):
        return None
    strides = _strides(reader) or [float(1 << int(feature[1])) for feature in _FEATURES]
    sizes = _for_each_level(_SIZES if given[0] is None else given[0], len(strides), keys[0])
    ratios = _for_each_level(_RATIOS if given[1] is None else given[1], len(strides), keys[1])
    offset = number(0.0 if given[2] is None else given[2])
    return [
        [_around(offset * stride, size, ratio) for size in own_sizes for ratio in own_ratios]
        for stride, own_sizes, own_ratios in zip(strides, sizes, ratios, strict=True)
    ]


def _for_each_level(value: Any, levels: int, key: str) -> list[list[float]]:
    """Returns a list of numbers for each level. One list, or plain numbers, stand for all levels."""
    if isinstance(value, Unresolved) or not isinstance(value, list) or not value:
        raise UnusableValueError(f"{key} is no list, but {reprlib.repr(value)}")
    lists = [numbers(item) for item in value] if isinstance(value[0], list) else [numbers(value)]
    if len(lists) == 1:
        return lists * levels
    if len(lists) != levels:
        raise ValueError(f"{key} has {len(lists)} entries for {levels} levels")
    return lists


def _around(center: float, size: float, ratio: float) -> list[float]:
    width = math.sqrt(size * size / ratio)
    height = ratio * width
    return [center - width / 2, center - height / 2, center + width / 2, center + height / 2]


def _pad_multiple(reader: RuleReader) -> int | None:
    features = reader.get("MODEL.FPN.IN_FEATURES")
    backbone = reader.get("MODEL.BACKBONE.NAME")
    if backbone is not None and backbone not in _BACKBONES:
        raise UnusableValueError(
            f"MODEL.BACKBONE.NAME is {reprlib.repr(backbone)}, and the multiple to which it pads images is not known. "
            "It is backbone.size_divisibility in Python"
        )
    if features is None:
        return None
    last = re.fullmatch(r"res([2-5])", str(features[-1]))
    if last is None or whole(reader.get("MODEL.RESNETS.RES5_DILATION", 1)) != 1:
        raise ValueError(f"the stride of {reprlib.repr(features[-1])} is not known")
    return 1 << int(last[1])
