"""What the parsers of several commands share: the help layout, the model, detection options, types of values."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retinasdk.backends.base import DEVICES
from retinasdk.cli.command_list import SUMMARIES
from retinasdk.cli.file_arguments import Input, Output, add_overwrite, model_files
from retinasdk.pipeline.suppression import AS_FRAMEWORK, FUSED_SCORES, RULES, Suppression
from retinasdk.tiling.grid import Tiles, TilesOption

# What argument groups have in common with the parser itself: `add_argument`.
Group = argparse._ArgumentGroup
_TEXT_WIDTH = 78  # fits into a terminal of 80 columns


def add_command(
    commands: Any,
    name: str,
    *,
    description: str,
    examples: Sequence[tuple[str, str]],
    notes: str = "",
    takes_long: bool = True,
) -> argparse.ArgumentParser:
    """Adds the parser of one command, with the same help layout for all.

    Args:
        commands: The subparsers of the `retinasdk` parser.
        name: The name of the command.
        description: What it does, in two or three sentences.
        examples: For each example, what it does and the command line.
        notes: Preformatted text after the examples, such as the example of a file.
        takes_long: Whether it shows progress, so that it has the option `--quiet`.

    Returns:
        The parser, for the options to be added in groups.
    """
    lines = ["examples:"]
    for purpose, command in examples:
        lines += [*textwrap.wrap(f"{purpose}:", _TEXT_WIDTH, initial_indent="  ", subsequent_indent="  ")]
        lines += [f"    {line}" for line in command.splitlines()]
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=next(group[name] for group in SUMMARIES.values() if name in group),
        description=textwrap.fill(description, _TEXT_WIDTH),
        epilog="\n".join(lines) + (f"\n\n{notes.rstrip()}" if notes else ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--verbose",
        action="store_true",
        help="show the messages of other libraries (OpenCV, FFmpeg, ONNX Runtime); as does RETINASDK_VERBOSE=1",
    )
    if takes_long:
        parser.add_argument(
            "-q", "--quiet", action="store_true", help="show no progress and no estimates; errors remain"
        )
    parser.set_defaults(parser=parser)  # for `check_files`
    return parser


def add_model(group: Group) -> None:
    """Adds `--model`."""
    group.add_argument(
        "--model",
        action=Input,
        files=model_files,
        help="ONNX file, TensorRT engine, or name of a bundled model as listed by 'retinasdk models'; default: people",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Adds `--device`, in a group of its own."""
    parser.add_argument_group("Device").add_argument(
        "--device",
        choices=DEVICES,
        default="auto",
        help="where to run; auto uses the GPU if it can, else the CPU; default: auto",
    )


def add_json(group: Group, content: str) -> None:
    """Adds `--json` and `--overwrite`."""
    group.add_argument(
        "--json",
        action=Output,
        type=Path,
        metavar="FILE",
        help=f"write {content} as JSON; - writes it to standard output, and other text to standard error",
    )
    add_overwrite(group)


def add_classes_and_score(group: Group) -> None:
    """Adds `--classes` and `--score`."""
    group.add_argument(
        "--classes", type=names, metavar="A,B", help="report only these classes, such as person,chair; default: all"
    )
    group.add_argument(
        "--score",
        type=score_threshold,
        metavar="SCORE",
        help="report detections with a confidence score above this, 0 to 1; or one per class, such as "
        "person=0.5,chair=0.3; default: the model's own threshold",
    )


def add_filters(group: Group) -> None:
    """Adds `--classes`, `--score` and `--ignore`."""
    add_classes_and_score(group)
    group.add_argument(
        "--ignore",
        type=region,
        action="append",
        default=[],
        metavar="X1,Y1,X2,Y2",
        help="drop detections that lie more than half inside this rectangle, in pixels of the image (repeatable)",
    )


def add_suppression(parser: argparse.ArgumentParser) -> None:
    """Adds a group with the fields of `Suppression`, which `suppression_of` reads."""
    group = parser.add_argument_group(
        "Overlapping boxes", "The default is the non-maximum suppression (NMS) of the model's framework."
    )
    group.add_argument(
        "--suppression",
        choices=RULES,
        default=AS_FRAMEWORK.rule,
        metavar="RULE",
        help="greedy: remove a box that overlaps a better one; soft_linear, soft_gaussian: lower its score (Soft-NMS); "
        "fusion: average the boxes, weighted by score; default: %(default)s",
    )
    group.add_argument(
        "--across-classes",
        action="store_true",
        help="class-agnostic NMS: boxes of different classes suppress each other too",
    )
    group.add_argument(
        "--iou",
        type=float,
        metavar="IOU",
        help="intersection over union, 0 to 1, above which two boxes overlap; default: the model's",
    )
    group.add_argument(
        "--sigma",
        type=float,
        default=AS_FRAMEWORK.sigma,
        help="width of soft_gaussian, above 0; smaller lowers scores more; default: %(default)s",
    )
    group.add_argument(
        "--fused-score",
        choices=FUSED_SCORES,
        default=AS_FRAMEWORK.fused_score,
        help="score of a box made by fusion: the mean or the best of its members; default: %(default)s",
    )
    group.add_argument(
        "--max-per-class", type=int, metavar="N", help="report at most N detections of each class; default: no limit"
    )
    group.add_argument(
        "--max-detections", type=int, metavar="N", help="report at most N detections per image; default: the model's"
    )


def suppression_of(arguments: argparse.Namespace) -> Suppression:
    """Reads the options of `add_suppression`.

    Raises:
        ValueError: A value is out of range.
    """
    return Suppression(
        rule=arguments.suppression,
        across_classes=arguments.across_classes,
        iou_threshold=arguments.iou,
        sigma=arguments.sigma,
        fused_score=arguments.fused_score,
        max_per_class=arguments.max_per_class,
        max_detections=arguments.max_detections,
    )


def add_tiles(parser: argparse.ArgumentParser) -> None:
    """Adds a group with `--tiles`, `--overlap` and `--whole-image`, which `tiles_of` reads."""
    group = parser.add_argument_group("Large images")
    group.add_argument(
        "--tiles",
        type=_tile_size,
        metavar="SIZE",
        help="detect in overlapping tiles of this many pixels: 640, or 480x640 for height x width; auto chooses the "
        "size and leaves small images whole; default: no tiles",
    )
    group.add_argument(
        "--overlap",
        type=_overlap,
        metavar="SHARE|PIXELS",
        help="overlap of neighboring tiles: a share of their side such as 0.2, or pixels such as 128; at least the "
        "size of the objects; default: 0.2",
    )
    group.add_argument(
        "--whole-image",
        action="store_true",
        help="with --tiles SIZE: also detect in the whole image, for objects larger than a tile",
    )


def tiles_of(arguments: argparse.Namespace) -> TilesOption:
    """Reads the options of `add_tiles`.

    Raises:
        ValueError: The options do not fit together, or a value is out of range.
    """
    if isinstance(arguments.tiles, (int, tuple)):
        overlap = {} if arguments.overlap is None else {"overlap": arguments.overlap}
        return Tiles(arguments.tiles, whole_image=arguments.whole_image, **overlap)
    if arguments.overlap is not None or arguments.whole_image:
        raise ValueError("--overlap and --whole-image need --tiles with a size, such as --tiles 640")
    return None if arguments.tiles is None else "auto"


# -- types of values ---------------------------------------------------------------------------------------------------


def score_threshold(text: str) -> float | dict[str, float]:
    """Reads "0.5" as a number, and "person=0.5,chair=0.3" as numbers by label."""
    try:
        if "=" not in text:
            return float(text)
        pairs = [part.rpartition("=") for part in names(text)]
        return {label.strip(): float(score) for label, _, score in pairs}
    except ValueError:
        expected = "expected a score such as 0.5, or scores by class such as person=0.5,chair=0.3"
        raise argparse.ArgumentTypeError(f"invalid float value: {text!r}; {expected}") from None


def region(text: str) -> tuple[float, ...]:
    """Reads "0,0,640,120" as (x1, y1, x2, y2)."""
    try:
        x1, y1, x2, y2 = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected four numbers such as 0,0,640,120, got {text!r}") from None
    return x1, y1, x2, y2


def _tile_size(text: str) -> int | tuple[int, int] | str:
    if text == "auto":
        return text
    return int(text) if text.isdigit() else image_size(text)


def _overlap(text: str) -> int | float:
    return int(text) if text.isdigit() else float(text)


def names(text: str) -> list[str]:
    """Reads "person, chair" as a list of names."""
    return [name.strip() for name in text.split(",") if name.strip()]


class Labels(list[str]):
    """Names of classes, and the file that they were read from, if any."""

    file: Path | None = None


def labels(text: str) -> Labels:
    """Reads names separated by commas, or those of a text file with one name per line."""
    if not text.endswith(".txt"):
        return Labels(names(text))
    try:
        lines = Path(text).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"{text}: expected a text file with one name per line: {error}") from error
    found = Labels(line.strip() for line in lines if line.strip())
    found.file = Path(text)
    return found


def add_labels(group: Group, explanation: str) -> None:
    """Adds `--labels`, of a command that writes a model."""
    group.add_argument(
        "--labels",
        action=Input,
        files=lambda value, _: [] if value.file is None else [value.file],
        type=labels,
        metavar="A,B|FILE.txt",
        help=explanation,
    )


def image_size(text: str) -> tuple[int, int]:
    """Reads "1080x1920" as (height, width)."""
    height, separator, width = text.lower().partition("x")
    if not separator or not (height.isdigit() and width.isdigit()):
        raise argparse.ArgumentTypeError(f"expected height x width in pixels such as 1080x1920, got {text!r}")
    return int(height), int(width)
