"""Photos with boxes, held decoded in memory, and the endless seeded stream of training samples."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from anchors import all_anchors
from assign import assign
from augment import Canvas, draw_sample
from PIL import Image
from recipe import Recipe, data_root
from torch import Tensor

IGNORE = -1
"""Class of a box that marks a region neither to learn nor to punish."""

_COCO_GROUPS: dict[str, str] = {
    "wheels": "bicycle motorcycle",
    "vehicle": "car bus train truck boat airplane",
    "street": "traffic light,fire hydrant,stop sign,parking meter,bench",
    "animal": "bird cat dog horse sheep cow elephant bear zebra giraffe",
    "carried": "backpack umbrella handbag tie suitcase",
    "sport": "frisbee,skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket",
    "vessel": "bottle,wine glass,cup,vase,bowl",
    "table": "fork knife spoon scissors toothbrush",
    "food": "banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake",
    "furniture": "chair,couch,bed,dining table,toilet,potted plant",
    "electronic": "tv,laptop,mouse,remote,keyboard,cell phone,clock,book",
    "appliance": "microwave,oven,toaster,sink,refrigerator,hair drier,teddy bear",
}


def auxiliary_groups(name: str) -> dict[str, list[str]]:
    """Groups of labels that the head also learns, by the name that a recipe gives them."""
    if not name:
        return {}
    if name != "coco":
        raise ValueError(f"auxiliary groups wanted: 'coco' or '', got {name!r}")
    return {
        group: [n.strip() for n in (names.split(",") if "," in names else names.split())]
        for group, names in _COCO_GROUPS.items()
    }


@dataclass(frozen=True)
class Photo:
    """A photo and its boxes.

    `image_id`: its id in the annotations. `pixels`: (H, W, 3) uint8 RGB. `boxes`: (n, 4) float32 xyxy in
    pixels. `labels`: (n,) int64, class of the head or IGNORE.
    """

    image_id: int
    pixels: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray


def annotation_file(dataset: str, split: str) -> Path:
    """COCO JSON of a split."""
    return data_root() / dataset / "annotations" / f"{split}.json"


def load_photos(dataset: str, split: str, classes: tuple[str, ...], auxiliary: str = "") -> list[Photo]:
    """All photos of a split, decoded."""
    content = json.loads(annotation_file(dataset, split).read_text())
    label_of = {name: index for index, name in enumerate(classes)}
    for offset, names in enumerate(auxiliary_groups(auxiliary).values()):
        label_of.update({name: len(classes) + offset for name in names if name not in classes})
    names_by_id = {c["id"]: c["name"] for c in content["categories"]}
    found: dict[int, list[tuple[list[float], int]]] = {image["id"]: [] for image in content["images"]}
    for box in content["annotations"]:
        label = label_of.get(names_by_id[box["category_id"]])
        if label is None:
            continue
        x, y, w, h = box["bbox"]
        crowd = bool(box.get("iscrowd", 0))
        found[box["image_id"]].append(([x, y, x + w, y + h], IGNORE if crowd else label))
    photos = []
    for image in content["images"]:
        with Image.open(data_root() / dataset / "images" / image["file_name"]) as file:
            pixels = np.asarray(file.convert("RGB"))
        boxes = np.array([b for b, _ in found[image["id"]]], dtype=np.float32).reshape(-1, 4)
        labels = np.array([label for _, label in found[image["id"]]], dtype=np.int64)
        photos.append(Photo(image["id"], pixels, boxes, labels))
    return photos


@dataclass(frozen=True)
class Batch:
    """A training batch.

    `images`: (N, 3, S, S) uint8. `targets`: (N, M) int64, each anchor's class, or NEGATIVE or IGNORED.
    `boxes`: (P, 4) float32, the box of each positive anchor in row-major order of `targets`.
    """

    images: Tensor
    targets: Tensor
    boxes: Tensor


class Samples:
    """Batches by step number: batch `i` depends on the recipe, its seed and `i` alone, so a run resumes exactly.

    `rank`, `ranks`: this process's share of each batch is every `ranks`-th sample from `rank` on.
    """

    def __init__(self, recipe: Recipe, rank: int = 0, ranks: int = 1) -> None:
        self.recipe, self.rank, self.ranks = recipe, rank, ranks
        self.early = self._photos(recipe.splits)
        self.all = self.early + self._photos(recipe.late_splits)
        self.anchors = all_anchors(recipe.anchors, recipe.canvas, recipe.canvas)

    def _photos(self, splits: tuple[str, ...]) -> list[Photo]:
        recipe = self.recipe
        photos = [p for split in splits for p in load_photos(recipe.dataset, split, recipe.classes, recipe.auxiliary)]
        rare = [p for p in photos if len(recipe.classes) - 1 in p.labels]
        return photos + rare * (recipe.repeats - 1)

    def __getitem__(self, step: int) -> Batch:
        recipe = self.recipe
        late = step >= recipe.late_from * recipe.steps
        photos = self.all if late else self.early
        mosaic = recipe.mosaic if step < (1 - recipe.plain_end) * recipe.steps else 0.0
        jitter = recipe.late_jitter if late and recipe.late_jitter else recipe.jitter
        canvas = Canvas(
            side=recipe.canvas, long_side=recipe.long_side, jitter=jitter, mosaic=mosaic, turns=recipe.turns
        )
        images, targets, boxes = [], [], []
        for number in range(step * recipe.batch + self.rank, (step + 1) * recipe.batch, self.ranks):
            # Each pass over the photos is a new permutation; a mosaic draws its other three at random.
            lap, place = divmod(number, len(photos))
            first = int(np.random.default_rng([recipe.seed, lap, len(photos)]).permutation(len(photos))[place])
            sample = draw_sample(photos, first, canvas, np.random.default_rng([recipe.seed, number, 7]))
            keep = sample.labels >= 0
            wanted = torch.from_numpy(sample.boxes[keep])
            match = assign(self.anchors, wanted, torch.from_numpy(sample.boxes[~keep]), recipe.assigning)
            positive = match >= 0
            boxes.append(wanted[match[positive]])
            match[positive] = torch.from_numpy(sample.labels[keep])[match[positive]]
            images.append(torch.tensor(sample.pixels).permute(2, 0, 1))
            targets.append(match)
        return Batch(torch.stack(images), torch.stack(targets), torch.cat(boxes))
