"""What several commands need: the model argument, checks of what will be written, a progress bar."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from retinasdk._util.lazy import require
from retinasdk.backends.base import DEVICES
from retinasdk.pipeline.suppression import AS_FRAMEWORK, FUSED_SCORES, RULES, Suppression
from retinasdk.tiling.grid import Tiles, TilesOption

_MANY_ITEMS = 5  # from here on a progress bar


def add_model(parser: argparse.ArgumentParser) -> None:
    """`--model` and `--device`."""
    parser.add_argument("--model", help="a bundled name or an ONNX file (default: people)")
    parser.add_argument("--device", choices=DEVICES, default="auto")


def add_filters(parser: argparse.ArgumentParser) -> None:
    """`--classes`, `--score` and `--ignore`."""
    parser.add_argument("--classes", type=names, help="only these, e.g. person,chair")
    parser.add_argument(
        "--score",
        type=score_threshold,
        metavar="SCORE",
        help="report scores above this, 0 to 1, or by label: person=0.5,chair=0.3 (default: the model's)",
    )
    parser.add_argument(
        "--ignore",
        type=region,
        action="append",
        default=[],
        metavar="X1,Y1,X2,Y2",
        help="leave out what lies more than half in this region, in pixels of each image; again for more",
    )


def add_suppression(parser: argparse.ArgumentParser) -> None:
    """The fields of `Suppression`, each a switch; `suppression_of` makes one of them."""
    given = parser.add_argument_group("boxes that overlap (default: what the model's framework does)")
    given.add_argument("--suppression", choices=RULES, default=AS_FRAMEWORK.rule, help="the rule (%(default)s)")
    given.add_argument("--across-classes", action="store_true", help="boxes of different classes are rivals, too")
    given.add_argument("--iou", type=float, metavar="IOU", help="boxes overlap above this (default: the model's)")
    given.add_argument("--sigma", type=float, default=AS_FRAMEWORK.sigma, help="of soft_gaussian (%(default)s)")
    given.add_argument(
        "--fused-score", choices=FUSED_SCORES, default=AS_FRAMEWORK.fused_score, help="of fusion (%(default)s)"
    )
    given.add_argument("--max-per-class", type=int, metavar="N", help="report at most N of each class")
    given.add_argument("--max-detections", type=int, metavar="N", help="... of each image (default: the model's)")


def suppression_of(arguments: argparse.Namespace) -> Suppression:
    """Of the switches of `add_suppression`. Raises `ValueError`."""
    return Suppression(
        rule=arguments.suppression,
        across_classes=arguments.across_classes,
        iou_threshold=arguments.iou,
        sigma=arguments.sigma,
        fused_score=arguments.fused_score,
        max_per_class=arguments.max_per_class,
        max_detections=arguments.max_detections,
    )


def score_threshold(text: str) -> float | dict[str, float]:
    """The number in "0.5", or the numbers by label in "person=0.5, chair=0.3"."""
    try:
        if "=" not in text:
            return float(text)
        pairs = [part.rpartition("=") for part in names(text)]
        return {label.strip(): float(score) for label, _, score in pairs}
    except ValueError:
        wanted = "wanted is a score, or scores by label such as person=0.5,chair=0.3"
        raise argparse.ArgumentTypeError(f"invalid float value: {text!r}; {wanted}") from None


def region(text: str) -> tuple[float, ...]:
    """(x1, y1, x2, y2) in "0,0,640,120"."""
    try:
        x1, y1, x2, y2 = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"four numbers are wanted, such as 0,0,640,120; got {text!r}") from None
    return x1, y1, x2, y2


def add_tiles(parser: argparse.ArgumentParser) -> None:
    """`--tiles`, `--overlap` and `--whole-image`."""
    parser.add_argument(
        "--tiles",
        type=_tile_size,
        metavar="SIZE",
        help="cut large images into tiles of so many pixels (640, 480x640: height x width), or auto",
    )
    parser.add_argument(
        "--overlap", type=_overlap, help="of tiles: a share of their side (0.2, the default) or pixels (128)"
    )
    parser.add_argument("--whole-image", action="store_true", help="with --tiles SIZE: look at the whole image as well")


def tiles_of(arguments: argparse.Namespace) -> TilesOption:
    """What `add_tiles` brought. Raises `ValueError`."""
    if isinstance(arguments.tiles, (int, tuple)):
        overlap = {} if arguments.overlap is None else {"overlap": arguments.overlap}
        return Tiles(arguments.tiles, whole_image=arguments.whole_image, **overlap)
    if arguments.overlap is not None or arguments.whole_image:
        raise ValueError("--overlap and --whole-image belong to --tiles with a size, such as --tiles 640")
    return None if arguments.tiles is None else "auto"


def _tile_size(text: str) -> int | tuple[int, int] | str:
    if text == "auto":
        return text
    return int(text) if text.isdigit() else image_size(text)


def _overlap(text: str) -> int | float:
    return int(text) if text.isdigit() else float(text)


def names(text: str) -> list[str]:
    """The names in "person, chair"."""
    return [name.strip() for name in text.split(",") if name.strip()]


def labels(text: str) -> list[str]:
    """The names in "person, chair", or in a text file with a name a line."""
    if not text.endswith(".txt"):
        return names(text)
    try:
        lines = Path(text).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"{text}: wanted a text file with a name a line: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def image_size(text: str) -> tuple[int, int]:
    """(height, width) in "1080x1920"."""
    height, separator, width = text.lower().partition("x")
    if not separator or not (height.isdigit() and width.isdigit()):
        raise argparse.ArgumentTypeError(f"height and width are wanted, such as 1080x1920; got {text!r}")
    return int(height), int(width)


def make_folder(folder: Path) -> None:
    """Makes a folder to write to. Raises `ValueError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder}: wanted a folder to write to, but it cannot be made: {error.strerror}") from error
    check_writable(folder)


def check_writable(folder: Path) -> None:
    """Raises `ValueError` unless files can be written to the folder."""
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(f"{folder}: wanted a folder that can be written to; make it, or choose another")


def check_file(path: Path) -> None:
    """Raises `ValueError` unless a file of that name can be written: found out before the work, not after it."""
    if path.is_dir():
        raise ValueError(f"{path}: wanted the name of a file to write, got a folder")
    check_writable(path.parent)


def progress(title: str, unit: str) -> Callable[[Sequence[Any]], Iterable[Any]]:
    """A bar on a terminal when there is much to do, nothing otherwise."""

    def wrap(items: Sequence[Any]) -> Iterable[Any]:
        if len(items) < _MANY_ITEMS:
            return items
        bar: Iterable[Any] = require("tqdm", "the progress bar").tqdm(items, desc=title, unit=unit, disable=None)
        return bar

    return wrap
