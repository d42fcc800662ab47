"""The `retinasdk` command."""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from retinasdk import (
    Detections,
    Detector,
    ImageError,
    RetinaSdkError,
    __version__,
    list_images,
    list_models,
)
from retinasdk._files import write_atomically
from retinasdk._lazy import require
from retinasdk.backends import DEVICES
from retinasdk.evaluate import DEFAULT_SCORE_THRESHOLD, Evaluation, evaluate
from retinasdk.images import as_rgb

_MANY_IMAGES = 5  # from here on a progress bar
_MANY_ROWS = 20  # from here on a table gives counts instead of a row for each object
_BAD_INPUT = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0, or 2 with one line on stderr for bad input."""
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:  # --help and --version: 0, unusable arguments: 2
        return int(stop.code or 0)
    try:
        arguments.run(arguments)
    except (RetinaSdkError, ValueError, OSError) as error:
        print(f"retinasdk: error: {' '.join(str(error).split())}", file=sys.stderr)
        return _BAD_INPUT
    except KeyboardInterrupt:
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other error of the command."""

    def error(self, message: str) -> NoReturn:
        print(f"retinasdk: error: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(_BAD_INPUT)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="retinasdk", description="RetinaNet detections from ONNX models.")
    parser.add_argument("--version", action="version", version=f"retinasdk {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    detect = commands.add_parser("detect", help="detect objects in images")
    detect.add_argument("images", nargs="+", metavar="IMAGE", help="image files, or folders of them")
    _add_model(detect)
    detect.add_argument("--classes", type=_names, help="only these, e.g. person,chair")
    detect.add_argument("--score", type=float, help="report scores above this, 0 to 1 (default: the model's)")
    detect.add_argument("--out", type=Path, metavar="DIR", help="write marked pictures here")
    detect.add_argument("--json", type=Path, metavar="FILE", help="write the detections as JSON")
    detect.set_defaults(run=_detect)

    models = commands.add_parser("models", help="list the bundled models with their cards")
    models.set_defaults(run=_models)

    score = commands.add_parser("eval", help="COCO average precision on annotated images")
    _add_model(score)
    score.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of the images")
    score.add_argument("--annotations", type=Path, required=True, metavar="COCO.json", help="boxes in COCO's format")
    score.add_argument(
        "--score", type=float, default=DEFAULT_SCORE_THRESHOLD, help="count scores above this (%(default)s)"
    )
    score.add_argument("--json", type=Path, metavar="FILE", help="write the numbers as JSON")
    score.set_defaults(run=_eval)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="a bundled name or an ONNX file (default: people)")
    parser.add_argument("--device", choices=DEVICES, default="auto")


def _detect(arguments: argparse.Namespace) -> None:
    paths = _image_paths(arguments.images)
    detector = Detector(arguments.model, device=arguments.device, score_threshold=arguments.score)
    call = functools.partial(detector, classes=arguments.classes)
    # A folder that cannot be written is found out before the work, and nothing is written before all of it succeeded.
    if arguments.json is not None:
        _check_file(arguments.json)
    if arguments.out is not None:
        _make_folder(arguments.out)
    found: list[tuple[str, int, int, Detections]] = []
    for path in _progress("detect", "image")(paths):
        image = as_rgb(path)
        found.append((path, image.shape[1], image.shape[0], call(image)))

    for path, width, height, detections in found:
        print(_table(f"{path}  {width} x {height}", detections))
    if arguments.out is not None:
        for target, (path, _, _, detections) in zip(_picture_paths(arguments.out, paths), found, strict=True):
            detections.draw(path).save(target, quality=92)
            print(f"wrote {target}")
    if arguments.json is not None:
        entries = [
            {"image": path, "width": width, "height": height, "detections": detections.to_dicts()}
            for path, width, height, detections in found
        ]
        write_atomically(arguments.json, (json.dumps(entries, indent=1) + "\n").encode())
        print(f"wrote {arguments.json}")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


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


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder}: wanted a folder to write to, but it cannot be made: {error.strerror}") from error
    _check_writable(folder)


def _check_writable(folder: Path) -> None:
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(f"{folder}: wanted a folder that can be written to; make it, or choose another")


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"{path}: wanted the name of a file to write, got a folder")
    _check_writable(path.parent)


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


def _models(arguments: argparse.Namespace) -> None:
    for model in list_models():
        size = model.path.stat().st_size / 1e6
        print(f"{model.name}  ({', '.join(model.spec.labels)}; {size:.1f} MB)\n")
        print("\n".join(f"  {line}".rstrip() for line in model.card.strip().splitlines()), end="\n\n")


def _eval(arguments: argparse.Namespace) -> None:
    if arguments.json is not None:
        _check_file(arguments.json)
    with Detector(arguments.model, device=arguments.device) as detector:
        result = evaluate(
            detector,
            arguments.images,
            arguments.annotations,
            score_threshold=arguments.score,
            progress=_progress("eval", "batch"),
        )
    print(_report(result))
    if arguments.json is not None:
        write_atomically(arguments.json, (json.dumps(result.to_dict(), indent=1) + "\n").encode())
        print(f"wrote {arguments.json}")


def _report(result: Evaluation) -> str:
    def shown(value: float | None) -> str:
        return "    -" if value is None else f"{value:.3f}"

    lines = [f"{result.images} images"]
    lines += [f"  {name:6s} {shown(value)}" for name, value in result.metrics.items()]
    lines.append(f"  {'class':20s} {'AP':>5s} {'AP50':>6s} {'boxes':>6s}")
    for name, item in result.per_class.items():
        lines.append(f"  {name:20s} {shown(item.AP)}  {shown(item.AP50)} {item.boxes:6d}")
    if result.left_out:
        lines.append(f"left out, since the model does not know them: {', '.join(result.left_out)}")
    return "\n".join(lines)


def _progress(title: str, unit: str) -> Callable[[Sequence[Any]], Iterable[Any]]:
    """A bar on a terminal when there is much to do, nothing otherwise."""

    def wrap(items: Sequence[Any]) -> Iterable[Any]:
        if len(items) < _MANY_IMAGES:
            return items
        bar: Iterable[Any] = require("tqdm", "the progress bar").tqdm(items, desc=title, unit=unit, disable=None)
        return bar

    return wrap


if __name__ == "__main__":
    sys.exit(main())
