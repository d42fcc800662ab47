"""`retinasdk detect`: images to tables, marked pictures and JSON."""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retinasdk import Detections, Detector, ImageError, list_images
from retinasdk._util.files import write_atomically
from retinasdk.cli.arguments import (
    add_filters,
    add_model,
    add_suppression,
    add_tiles,
    check_file,
    make_folder,
    progress,
    suppression_of,
    tiles_of,
)
from retinasdk.images import as_rgb
from retinasdk.tiling.grid import TilesOption
from retinasdk.tiling.windows import FileWindows, open_windows

_PICTURE_SIDE = 4096  # of a picture of an image that is never decoded whole
_MANY_ROWS = 20  # from here on a table gives counts instead of a row for each object


def add_parser(commands: Any) -> None:
    """Adds the command."""
    detect = commands.add_parser("detect", help="detect objects in images")
    detect.add_argument("images", nargs="+", metavar="IMAGE", help="image files, or folders of them")
    add_model(detect)
    add_filters(detect)
    add_suppression(detect)
    add_tiles(detect)
    detect.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"write marked pictures here; of images that are read in windows, at most {_PICTURE_SIDE} pixels a side",
    )
    detect.add_argument("--json", type=Path, metavar="FILE", help="write the detections as JSON")
    detect.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Does it. Raises the errors of `Detector`, `ValueError` and `OSError`."""
    paths = _image_paths(arguments.images)
    detector = Detector(
        arguments.model,
        device=arguments.device,
        score_threshold=arguments.score,
        suppression=suppression_of(arguments),
    )
    tiles = tiles_of(arguments)
    call = functools.partial(detector, classes=arguments.classes, ignore=arguments.ignore, tiles=tiles)
    # A folder that cannot be written is found out before the work, and nothing is written before all of it succeeded.
    if arguments.json is not None:
        check_file(arguments.json)
    if arguments.out is not None:
        make_folder(arguments.out)
    found: list[tuple[str, int, int, Detections]] = []
    for path in progress("detect", "image")(paths):
        image, (height, width) = _read(path, tiles)
        found.append((path, width, height, call(image)))

    for path, width, height, detections in found:
        print(_table(f"{path}  {width} x {height}", detections))
    if arguments.out is not None:
        for target, (path, _, _, detections) in zip(_picture_paths(arguments.out, paths), found, strict=True):
            _marked(path, detections, tiles).save(target, quality=92)
            print(f"wrote {target}")
    if arguments.json is not None:
        entries = [
            {"image": path, "width": width, "height": height, "detections": detections.to_dicts()}
            for path, width, height, detections in found
        ]
        write_atomically(arguments.json, (json.dumps(entries, indent=1) + "\n").encode())
        print(f"wrote {arguments.json}")


def _read(path: str, tiles: TilesOption) -> tuple[Any, tuple[int, int]]:
    """The image as the detector is to get it, which is the path where tiles read it in windows; (height, width)."""
    if tiles is None:
        image = as_rgb(path)
        return image, image.shape[:2]
    with open_windows(path, as_rgb) as windows:
        return path if isinstance(windows, FileWindows) else windows.whole(windows.size), windows.size


def _marked(path: str, detections: Detections, tiles: TilesOption) -> Any:
    """The picture with boxes; smaller where the image was read in windows."""
    if tiles is None:
        return detections.draw(path)
    with open_windows(path, as_rgb) as windows:
        height, width = windows.size
        scale = min(1.0, _PICTURE_SIDE / max(height, width)) if isinstance(windows, FileWindows) else 1.0
        picture = windows.whole((max(1, round(height * scale)), max(1, round(width * scale))))
        boxes = detections.xyxy * np.float32(scale)
        return Detections(boxes, detections.scores, detections.class_ids, detections.labels).draw(picture)


def _image_paths(inputs: Iterable[str]) -> list[str]:
    paths: list[str] = []
    for item in inputs:
        if os.path.isdir(item):
            inside = list_images(item)
            if not inside:
                raise ImageError(
                    f"{item}: wanted a folder with images, found none in it (folders inside are not searched)"
                )
            paths += inside
        elif os.path.exists(item):
            paths.append(item)
        else:
            raise ImageError(f"{item}: no such file or folder")
    return paths


def _picture_paths(folder: Path, paths: Sequence[str]) -> list[Path]:
    """One name for each image, none twice, and none that would replace a source."""
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
            lines.append(f"  {item.score:.2f}  {item.label:20s} ({x1:.0f}, {y1:.0f}) to ({x2:.0f}, {y2:.0f})")
    return "\n".join(lines)
