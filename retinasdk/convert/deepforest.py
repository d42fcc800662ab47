"""Exports DeepForest models: torchvision's RetinaNet with thresholds and class names of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retinasdk._util.lazy import require
from retinasdk._util.progress import ProgressCallback
from retinasdk.convert.checkpoint_file import read_checkpoint
from retinasdk.convert.export_torch import DEFAULT_OPSET, ExportReport, export_torchvision
from retinasdk.convert.importing.report import Finding
from retinasdk.convert.torchvision_checkpoint import build
from retinasdk.errors import ModelError

DEFAULT_MODEL = "weecology/deepforest-tree"
# The configuration that comes with DeepForest 2, which overrides that of a model of Hugging Face.
_SCORE_THRESHOLD, _NMS_THRESHOLD = 0.1, 0.05
_ARCHITECTURE = "retinanet_resnet50_fpn"
# Arguments of torchvision's RetinaNet that a Hugging Face configuration of DeepForest may hold.
_MODEL_ARGUMENTS = ("min_size", "max_size", "image_mean", "image_std", "topk_candidates", "detections_per_img")
_KNOWN = ("num_classes", "nms_thresh", "score_thresh", "label_dict")


def export_deepforest(
    model: Any,
    output: str | os.PathLike[str],
    *,
    name: str | None = None,
    opset: int = DEFAULT_OPSET,
    progress: ProgressCallback | None = None,
) -> ExportReport:
    """Exports a DeepForest model to ONNX with raw head outputs, and writes its spec.

    All rules are read from the model, as `predict_image` applies them, and the class names from its `label_dict`.

    Example:
        ```py
        forest = deepforest.main.deepforest()
        forest.load_model("weecology/deepforest-tree")
        export_deepforest(forest, "trees.onnx")
        ```

    Args:
        model: A deepforest.main.deepforest with a RetinaNet, or its `model`. It is not changed.
        output: The ONNX file to write. The spec is written beside it, with the suffix .json, and into it.
        name: Name of the model, for people. Defaults to "DeepForest".
        opset: ONNX opset, 13 to 20.
        progress: Called with a `retinasdk.Progress` at the beginning of each step.

    Returns:
        The file, the spec, and the largest difference from PyTorch.

    Raises:
        ModelError: The model has no class names, or the ONNX file gives other values than PyTorch. Nothing is written.
        TypeError: `model` is not a DeepForest RetinaNet.
        MissingDependencyError: torch, torchvision, onnx or onnxruntime is missing.
        OSError: The output cannot be written.
    """
    network = model.model if hasattr(model, "label_dict") and hasattr(model, "model") else model
    labels = getattr(model, "label_dict", None) or getattr(network, "label_dict", None)
    names = class_names(labels, int(network.head.classification_head.num_classes), "the model")
    return export_torchvision(network, output, labels=names, name=name or "DeepForest", opset=opset, progress=progress)


def class_names(label_dict: Any, classes: int, owner: str) -> list[str]:
    """Returns the class names in the order of their indices. DeepForest has no background class.

    Raises:
        ModelError: There is not one name for each index.
    """
    if not isinstance(label_dict, Mapping) or sorted(label_dict.values()) != list(range(classes)):
        raise ModelError(
            f"{owner} has {classes} classes, but the label_dict {label_dict}; it must have one name for each index "
            "from 0 on. Give the names with --labels A,B (in Python: call set_labels before the export)"
        )
    return sorted(label_dict, key=label_dict.__getitem__)


def load_deepforest(source: str, *, labels: list[str] | None = None) -> tuple[Any, list[str], list[Finding]]:
    """Loads a DeepForest model.

    Args:
        source: A checkpoint of Lightning (.ckpt, .pl, .pt), a folder with config.json and model.safetensors as Hugging
            Face has it, or the name of a model there, which the package deepforest downloads.
        labels: Class names in place of those in the file.

    Returns:
        The torchvision.models.detection.RetinaNet, its class names, and where its rules come from.

    Raises:
        ModelError: The model cannot be read or downloaded.
        MissingDependencyError: torch or torchvision is missing, or deepforest for a name.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _from_folder(path, labels)
    if path.exists() or path.suffix in (".ckpt", ".pl", ".pt", ".pth"):
        return _from_checkpoint(path, labels)
    return _from_name(source, labels)


def _from_checkpoint(path: Path, labels: list[str] | None) -> tuple[Any, list[str], list[Finding]]:
    checkpoint = read_checkpoint(path)
    config = checkpoint.extra.get("hyper_parameters", {}).get("config", {})
    if not isinstance(config, Mapping) or not {"score_thresh", "nms_thresh", "model"} <= config.keys():
        raise ModelError(
            f"{path} holds no configuration of DeepForest 2, so its thresholds are not known. Load it with DeepForest "
            "and export it in Python: retinasdk.export_deepforest(main.deepforest.load_from_checkpoint(FILE), OUT)"
        )
    if config.get("architecture", "retinanet") != "retinanet":
        raise ModelError(
            f"{path} is a DeepForest model with the architecture {config['architecture']!r}; only 'retinanet' can be "
            "exported"
        )
    # Without a named model, DeepForest starts from torchvision's COCO weights, whose batch norms have an epsilon of 0.
    named = config["model"].get("name") is not None
    model = build(_ARCHITECTURE, checkpoint.state, path, norm_eps=1e-5 if named else 0.0)
    model.score_thresh, model.nms_thresh = float(config["score_thresh"]), float(config["nms_thresh"])
    label_dict = checkpoint.extra.get("label_dict") or config.get("label_dict")
    findings = _findings(model, "read", "the configuration in the checkpoint")
    findings.append(
        Finding("concluded", "norm_eps", f"the epsilon of the batch norms {1e-5 if named else 0:g}, from model.name")
    )
    return model, labels or class_names(label_dict, _classes(model), str(path)), findings


def _from_folder(path: Path, labels: list[str] | None) -> tuple[Any, list[str], list[Finding]]:
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        known = {key: value for key, value in config.items() if key in (*_KNOWN, *_MODEL_ARGUMENTS)}
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{path} is no model folder of DeepForest: {error}. It needs config.json and model.safetensors"
        ) from error
    if unknown := sorted(config.keys() - known.keys()):
        raise ModelError(
            f"{path / 'config.json'} has settings that are unknown here: {', '.join(unknown)}. Load the model with "
            "DeepForest and export it in Python: retinasdk.export_deepforest(model, OUT)"
        )
    weights = path / "model.safetensors"
    model = build(_ARCHITECTURE, read_checkpoint(weights).state, weights, norm_eps=1e-5)
    model.score_thresh, model.nms_thresh = _SCORE_THRESHOLD, _NMS_THRESHOLD
    for key in ("topk_candidates", "detections_per_img"):
        setattr(model, key, config.get(key, getattr(model, key)))
    for key in ("max_size", "image_mean", "image_std"):
        setattr(model.transform, key, config.get(key, getattr(model.transform, key)))
    if "min_size" in config:
        model.transform.min_size = config["min_size"] if isinstance(config["min_size"], list) else [config["min_size"]]
    findings = _findings(model, "concluded", "DeepForest's own configuration, which overrides config.json")
    return model, labels or class_names(config.get("label_dict"), _classes(model), str(path)), findings


def _from_name(name: str, labels: list[str] | None) -> tuple[Any, list[str], list[Finding]]:
    main = require("deepforest.main", f"downloading {name}")
    try:
        forest = main.deepforest(config_args={"model": {"name": name}})
    except Exception as error:  # From huggingface_hub, requests, torch or DeepForest.
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{name} cannot be downloaded ({first}). Is it the name of a file that does not exist? Download "
            f"config.json and model.safetensors from https://huggingface.co/{name} on another machine, put both into "
            "one folder, and give that: deepforest:FOLDER"
        ) from error
    findings = _findings(forest.model, "read", "the model, as DeepForest loaded it")
    return forest.model, labels or class_names(forest.label_dict, _classes(forest.model), name), findings


def _classes(model: Any) -> int:
    return int(model.head.classification_head.num_classes)


def _findings(model: Any, kind: Any, where: str) -> list[Finding]:
    findings = [
        Finding(kind, "score_threshold", f"score_threshold {model.score_thresh:g}, from {where}"),
        Finding(kind, "nms_iou_threshold", f"nms_iou_threshold {model.nms_thresh:g}, from {where}"),
        Finding("concluded", "base_anchors", "torchvision's anchors, sizes and normalization, as in all of DeepForest"),
    ]
    if _classes(model) > 1:
        text = (
            "NMS within each class, as predict_file does; predict_image then suppresses across classes, too, and "
            "truncates the boxes to whole pixels if an image has several classes"
        )
        findings.append(Finding("concluded", "nms_across_classes", text))
    return findings
