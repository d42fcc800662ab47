"""`retinasdk detect`: detects objects in images and prints, draws or writes them."""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import os
import shlex
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from retinasdk import Detections, Detector, ImageError, list_images
from retinasdk._util.picture_files import write_picture
from retinasdk._util.progress import Progress
from retinasdk.cli.arguments import (
    add_command,
    add_device,
    add_filters,
    add_json,
    add_model,
    add_suppression,
    add_tiles,
    suppression_of,
    tiles_of,
)
from retinasdk.cli.file_arguments import Input, Output
from retinasdk.cli.output import make_folder, out_of_memory, print_now, text_stream, write_json
from retinasdk.cli.progress import Display
from retinasdk.cli.tile_estimate import MOST_TILES, TileEstimates
from retinasdk.images import as_rgb
from retinasdk.tiling.grid import TilesOption
from retinasdk.tiling.windows import FileWindows, open_windows

_PICTURE_SIDE = 4096  # pixels of the drawn copy of an image that is never decoded whole
_SOME_FAILED, _ALL_FAILED = 1, 2  # exit status
_MANY_ROWS = 20  # above this many detections, counts per class are printed instead of a row for each
_VIDEO_SUFFIXES = (
    *(".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm", ".wmv"),
    *(".db3", ".mcap"),
)


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "detect",
        description="Detects objects in images and prints each one with its score, class and box in pixels, image by "
        "image. It can also draw the boxes into copies of the images and write the detections as JSON. For videos, "
        "cameras and streams use 'retinasdk live'.",
        examples=[
            (
                "Print the people in a photo, and draw them into out/street_detections.jpg",
                "retinasdk detect street.jpg --out out",
            ),
            (
                "Run your own model on a folder, only for two classes, and keep the detections",
                "retinasdk detect photos/ --model model.onnx --classes car,truck \\\n    --score 0.5 --json found.json",
            ),
            (
                "Find small objects in a large aerial image",
                "retinasdk detect aerial.tif --model tree-crowns --tiles 640",
            ),
        ],
    )
    images = parser.add_argument_group("Input")
    images.add_argument("images", action=Input, nargs="+", metavar="IMAGE", help="image files, or folders of images")
    images.add_argument(
        "--strict",
        action="store_true",
        help="stop at the first image that cannot be read; default: report it, continue, and exit with status 1",
    )
    detection = parser.add_argument_group("Detection")
    add_model(detection)
    add_filters(detection)
    output = parser.add_argument_group("Output")
    output.add_argument(
        "--out",
        action=Output,
        files=lambda folder, arguments: _picture_paths(folder, _image_paths(arguments.images)),
        is_folder=True,
        type=Path,
        metavar="DIR",
        help="draw the boxes into copies of the images, written to this folder as NAME_detections.jpg; copies of large "
        f"images that are read in parts have at most {_PICTURE_SIDE} pixels a side",
    )
    add_json(output, "the detections of all images")
    add_tiles(parser)
    parser.add_argument_group("Long work").add_argument(
        "--yes",
        action="store_true",
        help=f"detect also in images that are cut into more than {MOST_TILES:,} tiles, or into hundreds that the "
        "network would have to enlarge 6 times or more; default: refuse them, with an estimate of the time",
    )
    add_suppression(parser)
    add_device(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command.

    Returns:
        The exit status: 0, 1 if some of the images could not be read, or 2 if none could.

    Raises:
        RetinaSdkError: An error of `Detector`, or, with `--strict`, an image that cannot be read.
        ValueError: An option is out of range.
        OSError: A file cannot be written.
    """
    paths = _image_paths(arguments.images)
    tiles = tiles_of(arguments)
    text = text_stream(arguments.json)
    entries: list[dict[str, Any]] = []
    failed = 0
    with Display(quiet=arguments.quiet) as progress:
        progress.update("load the model")
        detector = Detector(
            arguments.model,
            device=arguments.device,
            score_threshold=arguments.score,
            suppression=suppression_of(arguments),
        )
        call = functools.partial(detector, classes=arguments.classes, ignore=arguments.ignore, tiles=tiles)
        estimates = TileEstimates(detector, tiles, is_allowed=arguments.yes, progress=progress, quiet=arguments.quiet)
        targets: Iterable[Path | None] = itertools.repeat(None)
        if arguments.out is not None:
            make_folder(arguments.out)
            targets = _picture_paths(arguments.out, paths)
        for number, (path, target) in enumerate(zip(paths, targets, strict=False)):
            progress(Progress("detect", number, len(paths), "image"))
            try:
                image, (height, width) = _read(path, tiles)
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", ".*; choose larger tiles", UserWarning)  # The estimate says it.
                    estimates.announce(path, image, (height, width))
                    found = call(image, progress=functools.partial(_show_tiles, progress, number, len(paths)))
                print_now(_table(f"{path}  {width} x {height}", found), text)
                if target is not None:
                    write_picture(target, _marked(path, found, tiles), quality=92)
                    print_now(f"wrote {target}", text)
            except (ImageError, MemoryError) as error:
                if arguments.strict:
                    raise
                reason = " ".join(str(error).split())
                if isinstance(error, MemoryError):
                    reason = f"{path}: {out_of_memory(error)}"
                print_now(f"retinasdk: error: {reason}", sys.stderr)
                entries.append({"image": path, "width": None, "height": None, "detections": None, "error": reason})
                failed += 1
            else:
                entries.append({"image": path, "width": width, "height": height, "detections": found.to_dicts()})
    write_json(arguments.json, json.dumps(entries, indent=1) + "\n")
    return 0 if not failed else _SOME_FAILED if failed < len(paths) else _ALL_FAILED


def _show_tiles(progress: Display, number: int, images: int, report: Progress) -> None:
    """Shows the tiles of one image: as they are if it is the only image, else as a share of the work on all images."""
    if report.unit != "tile" or report.fraction is None:
        return
    if images == 1:
        progress(report)
    else:
        note = f"{number:,} of {images:,} images and {report.done:,} of {report.total:,} tiles"
        progress.update("detect", (number + report.fraction) / images, note)


def _read(path: str, tiles: TilesOption) -> tuple[Any, tuple[int, int]]:
    """Returns the image for the detector (its path if tiles read it in windows), and its (height, width)."""
    if tiles is None:
        image = as_rgb(path)
        return image, image.shape[:2]
    with open_windows(path, as_rgb) as windows:
        return path if isinstance(windows, FileWindows) else windows.whole(windows.size), windows.size


def _marked(path: str, detections: Detections, tiles: TilesOption) -> Any:
    """Returns the picture with boxes; a smaller one if the image was read in windows."""
    if tiles is None:
        return detections.draw(path)
    with open_windows(path, as_rgb) as windows:
        height, width = windows.size
        scale = min(1.0, _PICTURE_SIDE / max(height, width)) if isinstance(windows, FileWindows) else 1.0
        picture = windows.whole((max(1, round(height * scale)), max(1, round(width * scale))))
        return detections.scaled(scale).draw(picture)


def _image_paths(inputs: Iterable[str]) -> list[str]:
    paths: list[str] = []
    for item in inputs:
        if "://" in item or item.lower().endswith(_VIDEO_SUFFIXES):
            raise ImageError(
                f"{item}: this is a video or a stream, and detect reads images; run: retinasdk live {shlex.quote(item)}"
            )
        if os.path.isdir(item):
            inside = list_images(item)
            if not inside:
                raise ImageError(f"{item}: no images in this folder (folders inside it are not searched)")
            paths += inside
        elif os.path.exists(item):
            paths.append(item)
        else:
            raise ImageError(f"{item}: no such file or folder")
    return paths


def _picture_paths(folder: Path, paths: Sequence[str]) -> list[Path]:
    """Returns a name for each image, all different, none of which would replace a source."""
    taken = {Path(path).resolve() for path in paths}
    targets = []
    for path in paths:
        suffixes = itertools.chain([""], (f"_{number}" for number in itertools.count(2)))
        names = (f"{Path(path).stem}{suffix}_detections.jpg" for suffix in suffixes)
        target = next(folder / name for name in names if (folder / name).resolve() not in taken)
        taken.add(target.resolve())
        targets.append(target)
    return targets


def _table(title: str, detections: Detections) -> str:
    count = len(detections)
    lines = [f"{title}  {count} detection{'' if count == 1 else 's'}"]
    if count > _MANY_ROWS:
        for label, number in Counter(detections.names).most_common():
            scores = detections.filter(classes=[label]).scores
            lines.append(f"  {number:5d} x {label:20s} scores {scores[0]:.2f} to {scores[-1]:.2f}")
    else:
        for item in detections:
            x1, y1, x2, y2 = item.xyxy
            turned = "" if item.xywhr is None else f", turned by {math.degrees(item.xywhr[4]):.0f} degrees"
            lines.append(f"  {item.score:.2f}  {item.label:20s} ({x1:.0f}, {y1:.0f}) to ({x2:.0f}, {y2:.0f}){turned}")
    return "\n".join(lines)
