"""Reads the configs of mmdetection 3 and 2: Python files, which are not executed, or their JSON and YAML dumps."""

from __future__ import annotations

import itertools
import math
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from retinasdk.convert.configs.config_file import read_json
from retinasdk.convert.configs.literals import read_python
from retinasdk.convert.configs.rules import (
    ConfigRules,
    RuleReader,
    Unresolved,
    UnusableValueError,
    data,
    is_number,
    number,
    numbers,
    optional,
    whole,
)
from retinasdk.convert.configs.yaml_file import read_yaml
from retinasdk.errors import ModelError

_HEAD = "model.bbox_head"
_BASE, _DELETE = "_base_", "_delete_"
_MAX_BASES = 16  # One behind another.
_MAX_FILES = 64
_HEADS = ("RetinaHead", "RetinaSepBNHead", "PISARetinaHead")
_NO_LIMIT = 1 << 20
_DUMPED = "Give the config that mmdetection wrote into work_dirs; it needs no other file"
# Steps of a test pipeline that change neither pixels nor sizes.
_NEUTRAL = ("LoadImageFromFile", "LoadImageFromNDArray", "LoadAnnotations", "PackDetInputs")
_NEUTRAL_2 = ("RandomFlip", "Normalize", "Pad", "ImageToTensor", "DefaultFormatBundle", "Collect")  # mmdetection 2.


def is_config(content: Mapping[str, Any]) -> bool:
    """Whether the content of a file looks like a config of mmdetection."""
    model = content.get("model")
    return _BASE in content or isinstance(model, Unresolved) or (isinstance(model, dict) and "bbox_head" in model)


def rules_of(path: Path, content: Mapping[str, Any]) -> ConfigRules:
    """Returns the rules in a config, with those of its base files.

    Raises:
        ModelError: It is the config of another kind of network, or has a rule that a model spec cannot state.
    """
    reader = RuleReader(path, _with_bases(path, content, 0, itertools.count(1)))
    test = "model.test_cfg" if reader.get("model.test_cfg") is not None else "test_cfg"
    _refuse_unknown(reader, test)
    reader.rule("score_threshold", f"{test}.score_thr", lambda: optional(reader.get(f"{test}.score_thr"), number))
    reader.rule("top_k", f"{test}.nms_pre", lambda: optional(reader.get(f"{test}.nms_pre"), _limit))
    reader.rule("max_detections", f"{test}.max_per_img", lambda: optional(reader.get(f"{test}.max_per_img"), _limit))
    key = f"{test}.nms.iou_threshold" if reader.get(f"{test}.nms.iou_thr") is None else f"{test}.nms.iou_thr"
    reader.rule("nms_iou_threshold", key, lambda: optional(reader.get(key), number))
    coder = f"{_HEAD}.bbox_coder"
    reader.rule("box_weights", f"{coder}.target_stds", lambda: _weights(reader.get(f"{coder}.target_stds")))
    reader.rule("box_means", f"{coder}.target_means", lambda: _four(reader.get(f"{coder}.target_means")))
    generator = f"{_HEAD}.anchor_generator"
    reader.rule("strides", f"{generator}.strides", lambda: optional(reader.get(f"{generator}.strides"), _strides))
    reader.rule("base_anchors", generator, lambda: _base_anchors(reader, generator))
    _pixels(reader)
    _labels(reader)
    smallest = reader.get(f"{test}.min_bbox_size", -1)
    drop_empty = "never" if is_number(smallest) and smallest < 0 else None
    return reader.rules("mmdet", "mmdeploy", classes=reader.get(f"{_HEAD}.num_classes"), drop_empty=drop_empty)


def _refuse_unknown(reader: RuleReader, test: str) -> None:
    """Raises `ModelError` for what no option of the import can replace."""
    smallest = reader.get(f"{test}.min_bbox_size", 0)
    for key, is_known, expected in (
        ("model.type", _kind(reader, "model") in ("RetinaNet", "SingleStageDetector"), "only RetinaNet is supported"),
        (f"{_HEAD}.type", _kind(reader, _HEAD) in _HEADS, f"only the heads {', '.join(_HEADS)} are supported"),
        (
            f"{_HEAD}.loss_cls.use_sigmoid",
            reader.get(f"{_HEAD}.loss_cls.use_sigmoid", _kind(reader, f"{_HEAD}.loss_cls") != "CrossEntropyLoss"),
            "scores by softmax, with a background class, are not supported, only scores by sigmoid",
        ),
        (
            f"{_HEAD}.bbox_coder.type",
            _kind(reader, f"{_HEAD}.bbox_coder", "DeltaXYWHBBoxCoder") == "DeltaXYWHBBoxCoder",
            "only DeltaXYWHBBoxCoder is supported",
        ),
        (
            f"{_HEAD}.bbox_coder.clip_border",
            reader.get(f"{_HEAD}.bbox_coder.clip_border", True) is True,
            "only boxes that are clipped to the image are supported",
        ),
        (
            f"{_HEAD}.bbox_coder.add_ctr_clamp",
            not reader.get(f"{_HEAD}.bbox_coder.add_ctr_clamp", False),
            "a clamp of the centers of boxes is not supported",
        ),
        (f"{test}.nms.type", _kind(reader, f"{test}.nms", "nms") == "nms", "only the type 'nms' is supported"),
        (
            f"{test}.nms.class_agnostic",
            not reader.get(f"{test}.nms.class_agnostic", False),
            "it must be False here; use --across-classes of retinasdk detect instead",
        ),
        (
            f"{test}.min_bbox_size",
            is_number(smallest) and smallest <= 0,
            "a minimum size of boxes is not supported; set it to 0, and filter the detections yourself",
        ),
        (
            "model.data_preprocessor.pad_value",
            reader.get("model.data_preprocessor.pad_value", 0) == 0,
            "only a padding of 0 after the normalization is supported",
        ),
    ):
        reader.refuse(bool(is_known), key, expected)


def _with_bases(path: Path, content: Mapping[str, Any], depth: int, count: Iterator[int]) -> dict[str, Any]:
    """Returns a config merged into those that it names as its base. `count` counts all of them."""
    own = {name: value for name, value in content.items() if name != _BASE}
    bases = content.get(_BASE, [])
    merged: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, (str, Unresolved)) else bases:
        if not isinstance(base, str) or "::" in base or depth >= _MAX_BASES:
            text = base.text if isinstance(base, Unresolved) else base
            raise ModelError(
                f"{path}: {_BASE} names {reprlib.repr(text)}, which cannot be found without mmdetection. {_DUMPED}"
            )
        if next(count) > _MAX_FILES:  # Two that name each other twice would be thousands.
            raise ModelError(f"{path} and its bases name more than {_MAX_FILES} files as their {_BASE}. {_DUMPED}")
        other = path.parent / base
        readers = {".py": read_python, ".yaml": read_yaml, ".yml": read_yaml}
        try:
            read = readers.get(other.suffix, read_json)(other)
        except (OSError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
            raise ModelError(f"{path}: its {_BASE} {base!r} cannot be read: {error}. {_DUMPED}") from error
        if isinstance(read, dict):
            merged = _merged(merged, _with_bases(other, read, depth + 1, count))
    return _merged(merged, own)


def _merged(base: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Merges as mmengine does: dictionaries entry by entry, unless they say `_delete_=True`; all else is replaced."""
    merged = dict(base)
    for name, value in own.items():
        before = merged.get(name)
        if not isinstance(value, dict):
            merged[name] = value
        elif isinstance(before, dict) and not value.get(_DELETE, False):
            merged[name] = _merged(before, value)
        else:
            merged[name] = {key: item for key, item in value.items() if key != _DELETE}
    return merged


def _kind(reader: RuleReader, key: str, default: str = "") -> str:
    """Returns the type of a part of the config, without the name of the package."""
    return str(reader.get(f"{key}.type", default)).rpartition(".")[2]


def _limit(value: Any) -> int:
    count = whole(value)
    return count if count > 0 else _NO_LIMIT


def _weights(value: Any) -> list[float] | None:
    return None if value is None else [float(f"{1 / std:.12g}") for std in numbers(value, 4)]


def _four(value: Any) -> list[float] | None:
    means = None if value is None else numbers(value, 4)
    return means if means is not None and any(means) else None


def _strides(value: Any) -> list[float]:
    pairs = [numbers(item if isinstance(item, list) else [item, item], 2) for item in value]
    if any(x != y for x, y in pairs):
        raise ValueError("strides that differ between the axes are not supported")
    return [x for x, _ in pairs]


def _base_anchors(reader: RuleReader, generator: str) -> list[list[list[float]]] | None:
    if reader.get(generator) is None:
        return None
    if (kind := _kind(reader, generator)) != "AnchorGenerator":
        raise UnusableValueError(f"{generator}.type is {kind!r}; only the anchors of AnchorGenerator are known")
    strides = _strides(reader.get(f"{generator}.strides") or [])
    sizes = optional(reader.get(f"{generator}.base_sizes"), numbers) or strides
    ratios = numbers(reader.get(f"{generator}.ratios") or [])
    scales = _scales(reader, generator)
    offset = number(reader.get(f"{generator}.center_offset", 0.0))
    centers = reader.get(f"{generator}.centers")
    is_scale_inner = bool(reader.get(f"{generator}.scale_major", True))
    if not (strides and ratios and scales) or len(sizes) != len(strides):
        raise UnusableValueError(f"{generator} lacks strides, ratios or scales, or has another number of base sizes")
    levels = []
    for index, size in enumerate(sizes):
        x, y = (offset * size, offset * size) if centers is None else numbers(centers[index], 2)
        pairs = [(ratio, scale) for ratio in ratios for scale in scales]
        if not is_scale_inner:
            pairs = [(ratio, scale) for scale in scales for ratio in ratios]
        levels.append([_around(x, y, size * scale, ratio) for ratio, scale in pairs])
    return levels


def _scales(reader: RuleReader, generator: str) -> list[float]:
    base = reader.get(f"{generator}.octave_base_scale")
    if base is None:
        return numbers(reader.get(f"{generator}.scales") or [])
    count = whole(reader.get(f"{generator}.scales_per_octave"))
    return [number(base) * 2 ** (octave / count) for octave in range(min(count, 64))]


def _around(x: float, y: float, size: float, ratio: float) -> list[float]:
    """Returns the box of an anchor; a ratio is height / width."""
    half_width, half_height = size / math.sqrt(ratio) / 2, size * math.sqrt(ratio) / 2
    return [x - half_width, y - half_height, x + half_width, y + half_height]


def _labels(reader: RuleReader) -> None:
    """Reads the names of the classes, which mmdetection 3 keeps with the data set."""
    keys = ("test_dataloader.dataset.metainfo.classes", "test_dataloader.dataset.metainfo.CLASSES", "metainfo.classes")
    for key in (*keys, "metainfo.CLASSES", "data.test.classes", "classes"):
        names = None
        try:
            names = reader.get(key)
        except UnusableValueError:
            continue
        if isinstance(names, str):
            names = [names]
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            reader.values["labels"], reader.keys["labels"] = names, key
            return


# -- pixels ------------------------------------------------------------------------------------------------------------


def _pixels(reader: RuleReader) -> None:
    """Reads normalization, padding and resize: of `data_preprocessor` (3) or of the test pipeline (2)."""
    key = "model.data_preprocessor"
    is_new = reader.get(key) is not None
    pipeline_key, steps = _pipeline(reader)
    if not is_new:
        key = f"{pipeline_key}: Normalize"
    normalise = reader.get(key) if is_new else next((step for step in steps if _step(step) == "Normalize"), None)
    read = RuleReader(reader.path, normalise if isinstance(normalise, Mapping) else {})
    if normalise is not None:
        reader.rule("mean", f"{key}.mean", lambda: numbers(read.get("mean", [0.0, 0.0, 0.0]), 3))
        reader.rule("std", f"{key}.std", lambda: numbers(read.get("std", [1.0, 1.0, 1.0]), 3))
        if is_new:
            reader.rule(
                "channel_order",
                f"{key}.bgr_to_rgb",
                lambda: "RGB" if read.get("bgr_to_rgb", False) or read.get("rgb_to_bgr", False) else "BGR",
            )
        else:
            reader.rule("channel_order", f"{key}.to_rgb", lambda: "RGB" if read.get("to_rgb", True) else "BGR")
    if is_new:
        reader.rule("pad_multiple", f"{key}.pad_size_divisor", lambda: whole(read.get("pad_size_divisor", 1)))
    else:
        pad = next((step for step in steps if _step(step) == "Pad"), None)
        reader.rule(
            "pad_multiple",
            f"{pipeline_key}: Pad.size_divisor",
            lambda: None if pad is None else whole(pad.get("size_divisor")),
        )
    reader.rule("resize", f"{pipeline_key}: Resize", lambda: _resize(steps, is_new))


def _pipeline(reader: RuleReader) -> tuple[str, list[Mapping[str, Any]]]:
    """Returns the steps of the test pipeline, and where they stand. The steps of MultiScaleFlipAug are inlined."""
    for key in ("test_dataloader.dataset.pipeline", "test_pipeline", "data.test.pipeline"):
        try:
            steps = reader.get(key)
        except UnusableValueError:
            continue
        if isinstance(steps, list) and all(isinstance(step, Mapping) for step in steps):
            found: list[Mapping[str, Any]] = []
            for step in steps:
                inner = step.get("transforms") if _step(step) == "MultiScaleFlipAug" else None
                if isinstance(inner, list) and all(isinstance(item, Mapping) for item in inner):
                    scale = {"scale": step.get("img_scale")}
                    found += [{**scale, **item} if _step(item) == "Resize" else item for item in inner]
                else:
                    found.append(step)
            return key, found
    return "test_pipeline", []


def _step(step: Mapping[str, Any]) -> str:
    return str(step.get("type")).rpartition(".")[2]


def _resize(steps: list[Mapping[str, Any]], is_new: bool) -> str | None:
    """Returns the resize rule of the pipeline. Raises `UnusableValueError` for a step that is not known."""
    known = _NEUTRAL if is_new else (*_NEUTRAL, *_NEUTRAL_2)
    others = [step for step in steps if _step(step) not in known]
    if not others:
        return None
    step, *more = others
    if more or _step(step) != "Resize":
        names = ", ".join(_step(step) for step in others)
        raise UnusableValueError(f"the test pipeline has the steps {names}; only one Resize is known")
    scale = step.get("scale", step.get("img_scale"))
    if isinstance(scale, list) and len(scale) == 1 and isinstance(scale[0], list):
        scale = scale[0]
    if step.get("interpolation", "bilinear") != "bilinear" or not isinstance(scale, list):
        raise UnusableValueError(
            f"the Resize of the test pipeline is {reprlib.repr(dict(step))}; only a bilinear one to a scale is known"
        )
    width, height = (whole(side) for side in numbers(scale, 2))
    # In mmdetection 2 the aspect ratio is kept unless the config says otherwise.
    if data(step.get("keep_ratio", not is_new), "keep_ratio of the Resize in the test pipeline"):
        return f"shortest:{min(width, height)},{max(width, height)}"
    return f"squash:{height}x{width}"
