"""Error messages with the names that the user typed: `--score` instead of the Python parameter `score_threshold`."""

from __future__ import annotations

import argparse
import re

# The options of each parameter of the Python API; the first one that the command has is meant.
_OPTIONS: dict[str, tuple[str, ...]] = {
    "across_classes": ("--across-classes",),
    "annotations": ("--annotations",),
    "anchor_ratios": ("--anchor-ratios",),
    "anchor_scales": ("--anchor-scales",),
    "anchor_sizes": ("--anchor-sizes",),
    "base_anchors": ("--anchors",),
    "box_means": ("--box-means",),
    "box_weights": ("--box-weights",),
    "channel_order": ("--channel-order",),
    "config": ("--config",),
    "batch": ("--batch",),
    "box_format": ("--box-format",),
    "box_head": ("--box-head",),
    "classes": ("--classes", "--num-classes"),
    "cpus_per_worker": ("--cpus-per-worker",),
    "counted": ("--counted",),
    "deadline_s": ("--deadline",),
    "delay_ms": ("--delay",),
    "decoder": ("--decoder",),
    "device": ("--device",),
    "devices": ("--device",),
    "flavour": ("--flavour",),
    "first_attempts": ("--first-attempts",),
    "fused_score": ("--fused-score",),
    "gpus_per_worker": ("--gpus-per-worker",),
    "head_layout": ("--head-layout",),
    "ignore": ("--ignore",),
    "images_per_file": ("--images-per-file",),
    "images": ("--images",),
    "iou_threshold": ("--iou",),
    "instances": ("--instances",),
    "labels": ("--labels",),
    "mean": ("--mean",),
    "max_batch": ("--max-batch",),
    "max_ap_drop": ("--max-ap-drop",),
    "max_detections": ("--max-detections",),
    "max_fps": ("--max-fps",),
    "max_per_class": ("--max-per-class",),
    "min_agreement": ("--min-agreement",),
    "name": ("--name",),
    "nms_iou_threshold": ("--nms-iou",),
    "norm_eps": ("--norm-eps",),
    "opset": ("--opset",),
    "optimization_level": ("--level",),
    "output": ("--out",),
    "overlap": ("--overlap",),
    "pad_multiple": ("--pad-multiple",),
    "pixels": ("--pixels",),
    "policy": ("--policy",),
    "precision": ("--precision",),
    "precisions": ("--precision",),
    "published": ("--published",),
    "attempts": ("--attempts",),
    "resize": ("--resize",),
    "rounds": ("--rounds",),
    "rule": ("--suppression",),
    "score": ("--score-tolerance",),
    "score_threshold": ("--score", "--score-threshold"),
    "sigma": ("--sigma",),
    "sizes": ("--size",),
    "std": ("--std",),
    "strides": ("--strides",),
    "sweep_images": ("--sweep-images",),
    "threads": ("--threads",),
    "tiles": ("--tiles",),
    "torchvision_defaults": ("--torchvision-defaults",),
    "trusted": ("--trusted",),
    "top_k": ("--top-k",),
    "weights": ("--weights",),
    "workers": ("--workers",),
    "workspace_bytes": ("--workspace",),
}
# "score_threshold must be" and "devices are some of" at the beginning; "labels=" and "flavour='odtk'" anywhere.
_SUBJECT = re.compile(r"^([a-z_]+) (must|are(?= some of))\b")
_IN_PYTHON = re.compile(r" \(in Python: (?:[^()]|\([^()]*\))*\)")  # Behind the option, which says the same.
_KEYWORD = re.compile(r"(?<![\w.\[/&?(-])([a-z_]+)=(?:'([\w./-]+)')?(?=(\w?))")


def in_option_names(message: str, arguments: argparse.Namespace) -> str:
    """Replaces parameter names by the options of the command that was given.

    Args:
        message: The text of an error from the Python API.
        arguments: The parsed arguments, which tell the options that the command has.

    Returns:
        The message, in which "score_threshold must be ..." reads "--score must be ..." and "flavour='odtk'" reads
        "--flavour odtk". Hints for Python in brackets are left out.
    """
    message = _IN_PYTHON.sub("", message)
    subject = _SUBJECT.match(message)
    if subject is not None and (option := _option(subject[1], arguments)):
        message = f"{option} {'must' if subject[2] == 'must' else 'must be'}{message[subject.end() :]}"

    def replaced(found: re.Match[str]) -> str:
        option = _option(found[1], arguments)
        if option is None:
            return found[0]
        return f"{option} {found[2] or ''}" if found[2] or found[3] else option

    return _KEYWORD.sub(replaced, message)


def _option(parameter: str, arguments: argparse.Namespace) -> str | None:
    there = vars(arguments)
    options = _OPTIONS.get(parameter, ())
    return next((option for option in options if option.removeprefix("--").replace("-", "_") in there), None)
