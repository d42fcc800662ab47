"""Options of `retinasdk import` and `export` that name rules of the model, and the arguments that they become."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import Any

from retinasdk._util.json_text import parse_json
from retinasdk.cli.file_arguments import Input
from retinasdk.errors import ModelError

_CHANNEL_ORDERS = ("RGB", "BGR")
# Options that have the same name as the argument of `import_onnx`.
_RULES = (
    *("anchor_sizes", "anchor_ratios", "anchor_scales", "strides", "box_weights", "box_means", "resize", "mean"),
    *("std", "pad_multiple", "channel_order", "score_threshold", "top_k", "max_detections"),
)


def add_rules(
    parser: argparse.ArgumentParser,
    *,
    default: str = "what the graph contains, else the framework's",
    leave_out: Collection[str] = (),
) -> None:
    """Adds the options for anchors, images and thresholds. `rules_of` reads them.

    Args:
        parser: Parser of the command.
        default: What holds for an option that is not given, for the help page.
        leave_out: Arguments of `import_onnx` that the command does not have.
    """
    anchors = parser.add_argument_group("Anchors", f"Default: {default}.")
    anchors.add_argument(
        "--anchors",
        action=Input,
        type=Path,
        metavar="FILE.json",
        help='one entry per level, finest first: [{"stride": 8, "anchors": [[x1, y1, x2, y2], ...]}, ...], boxes in '
        "pixels of the network input around cell (0, 0)",
    )
    anchors.add_argument(
        "--anchor-sizes", type=_numbers, metavar="N,N,...", help="base size of each level in pixels, finest level first"
    )
    anchors.add_argument(
        "--anchor-ratios", type=_numbers, metavar="R,R,...", help="height / width of the anchors, such as 0.5,1,2"
    )
    anchors.add_argument(
        "--anchor-scales", type=_numbers, metavar="S,S,...", help="factors of the base sizes, such as 1,1.26,1.59"
    )
    if "strides" not in leave_out:
        anchors.add_argument("--strides", type=_numbers, metavar="N,N,...", help="stride of each level in pixels")
    if "box_weights" not in leave_out:
        anchors.add_argument(
            "--box-weights",
            type=_numbers,
            metavar="X,Y,W,H",
            help="what the four box deltas are divided by (1 / std), such as 10,10,5,5",
        )
    if "box_means" not in leave_out:
        anchors.add_argument(
            "--box-means", type=_numbers, metavar="X,Y,W,H", help="what is added to the four box deltas after that"
        )
    images = parser.add_argument_group("Preprocessing", f"Default: {default}.")
    images.add_argument(
        "--resize",
        metavar="RULE",
        help="shortest:800,1333 (shorter side, longer side at most), longest:768, native:1333, squash:HEIGHTxWIDTH or "
        "fit:HEIGHTxWIDTH; squash and fit need no size if the network has a fixed one",
    )
    images.add_argument("--mean", type=_numbers, metavar="M,M,M", help="mean of each channel, pixels of 0 to 255")
    images.add_argument("--std", type=_numbers, metavar="S,S,S", help="standard deviation of each channel")
    images.add_argument("--channel-order", choices=_CHANNEL_ORDERS, help="order of the channels of the network")
    if "pad_multiple" not in leave_out:
        images.add_argument(
            "--pad-multiple", type=int, metavar="N", help="the input is padded to a multiple of N pixels"
        )
    limits = parser.add_argument_group("Post-processing", f"Default: {default}.")
    limits.add_argument("--score-threshold", type=float, metavar="SCORE", help="minimum score of a detection, 0 to 1")
    limits.add_argument("--nms-iou", type=float, metavar="IOU", help="IoU above which NMS removes a box, 0 to 1")
    limits.add_argument("--top-k", type=int, metavar="N", help="candidates per feature level")
    limits.add_argument("--max-detections", type=int, metavar="N", help="detections per image")


def rules_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the keyword arguments of `import_onnx` for the options of `add_rules` that the command has.

    Raises:
        ModelError: The file of anchors cannot be read, or is given together with strides.
    """
    rules = {name: getattr(arguments, name) for name in _RULES if hasattr(arguments, name)}
    rules["nms_iou_threshold"] = arguments.nms_iou
    if arguments.anchors is not None:
        base_anchors, strides = read_anchors_file(arguments.anchors)
        if strides is not None and rules.get("strides") is not None:
            raise ModelError(f"strides are given twice: by --strides and in {arguments.anchors}. Leave one of them out")
        rules["base_anchors"] = base_anchors
        rules["strides"] = rules.get("strides") or strides
    return rules


def read_anchors_file(path: Path) -> tuple[list[list[list[float]]], list[float] | None]:
    """Reads base anchors and strides from a JSON file.

    Returns:
        The anchors of each level, and the stride of each level, or None if the file has no strides.

    Raises:
        ModelError: The file cannot be read, or has another structure.
    """
    expected = 'expected a list with one entry per level, such as [{"stride": 8, "anchors": [[-16, -16, 16, 16]]}, ...]'
    try:
        levels = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as a JSON file of anchors: {error}; {expected}") from error
    try:
        anchors = [[[float(side) for side in box] for box in level["anchors"]] for level in levels]
        strides = [level.get("stride") for level in levels]
        are_boxes = bool(anchors) and all(len(box) == 4 for level in anchors for box in level)
        has_strides = any(stride is not None for stride in strides)
        steps = [float(stride) for stride in strides] if has_strides else None
    except (TypeError, KeyError, AttributeError, ValueError, OverflowError) as error:
        raise ModelError(f"{path} is no file of anchors; {expected}") from error
    if not are_boxes:
        raise ModelError(f"{path} is no file of anchors: a box is not [x1, y1, x2, y2]; {expected}")
    return anchors, steps


def _numbers(text: str) -> list[float]:
    """Reads "8,16,32"."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers, such as 8,16,32") from None
