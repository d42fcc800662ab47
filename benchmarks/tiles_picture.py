"""The picture docs/tiles_tree_crowns.jpg: the same part of a large photo, looked at whole, by tiles, and as annotated.

    python benchmarks/tiles_picture.py PHOTO COCO.json [--out docs/tiles_tree_crowns.jpg]

Above each part stands what is in the whole photo: boxes, and AP50 with 1,000 detections counted. Thick yellow boxes are
right (IoU 0.5), thin orange ones are not.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from retinasdk import Detections, Detector, Resize, Tiles
from retinasdk.evaluation.annotations import read_annotations
from retinasdk.evaluation.coco import CocoScorer
from retinasdk.images import as_rgb

TILE, COUNTED, LOW = 640, 1000, 0.05
PANEL, HEADER, GAP = 480, 54, 10
RIGHT, WRONG, TRUE = ((255, 230, 0), 3), ((255, 140, 60), 1), ((120, 230, 255), 2)  # colours and widths


def panel(image: Image.Image, part: tuple[int, int, int, int], groups: list[tuple[np.ndarray, Any]]) -> Image.Image:
    """The part (x1, y1, x2, y2) of the image with its boxes, PANEL pixels wide."""
    scale = PANEL / (part[2] - part[0])
    picture = image.crop(part).resize((PANEL, round((part[3] - part[1]) * scale)), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(picture)
    for boxes, (color, width) in groups:
        for box in (boxes - np.array([part[0], part[1]] * 2)) * scale:
            draw.rectangle([*map(float, box)], outline=color, width=width)
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/tiles_tree_crowns.jpg"))
    parser.add_argument("--part", type=int, nargs=4, default=(1350, 1150, 1950, 1750), metavar=("X1", "Y1", "X2", "Y2"))
    arguments = parser.parse_args()
    truth = read_annotations(arguments.annotations)
    boxes = truth.boxes[[path.name for path in truth.paths(arguments.photo.parent)].index(arguments.photo.name)]
    boxes = tuple(box._replace(category=0) for box in boxes)
    detector = Detector("tree-crowns")
    spec = detector.spec.replace(resize=Resize("longest", (TILE,), antialias=True))
    pixels = as_rgb(arguments.photo)

    def shown(title: str, detections: Detections, low: Detections) -> tuple[str, str, list[tuple[np.ndarray, Any]]]:
        scorer = CocoScorer(("Tree",), COUNTED)
        scorer.add(boxes, low[:COUNTED])
        right = scorer.matches(boxes, detections[:COUNTED]).true
        groups = [(detections[:COUNTED].xyxy[~right], WRONG), (detections[:COUNTED].xyxy[right], RIGHT)]
        numbers = f"{len(detections)} found, {right.sum()} of them right; AP50 {scorer.numbers().metrics['AP50']:.3f}"
        return title, numbers, groups

    columns = []
    with Detector("tree-crowns", spec=spec) as fixed:
        for title, tiles in (
            (f"whole photo at {TILE} pixels", None),
            (f"tiles of {TILE} pixels", Tiles(TILE)),
        ):
            low = fixed(pixels, tiles=tiles, score_threshold=LOW)
            columns.append(shown(title, low.filter(min_score=fixed.spec.score_threshold), low))
    true = np.array([box.xywh for box in boxes])
    true[:, 2:] += true[:, :2]
    columns.append(("annotated", f"{len(true)} trees", [(true, TRUE)]))

    photo = Image.fromarray(pixels)
    pictures = [panel(photo, tuple(arguments.part), groups) for _, _, groups in columns]
    height = pictures[0].height
    page = Image.new("RGB", (len(columns) * PANEL + (len(columns) - 1) * GAP, HEADER + height), "white")
    draw = ImageDraw.Draw(page)
    for number, ((title, numbers, _), picture) in enumerate(zip(columns, pictures, strict=True)):
        left = number * (PANEL + GAP)
        page.paste(picture, (left, HEADER))
        draw.text((left + 2, 3), title, font=ImageFont.load_default(size=22), fill="black")
        draw.text((left + 2, 30), numbers, font=ImageFont.load_default(size=17), fill=(90, 90, 90))
    page.save(arguments.out, quality=60, optimize=True)
    print(f"wrote {arguments.out}: {page.width} x {page.height}, {arguments.out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
