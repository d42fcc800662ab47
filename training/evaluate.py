"""COCO AP of a checkpoint, with the post-processing of the SDK written in torch."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from anchors import all_anchors, decode, level_shapes
from backbone import MEAN, STD
from data import Photo, annotation_file, load_photos
from model import RetinaNet
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from recipe import Recipe, runs_dir
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import batched_nms

_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass(frozen=True)
class Scores:
    """`summary`: the 12 COCO numbers. `per_class`: AP, AP50 and the count of boxes by class."""

    summary: dict[str, float]
    per_class: dict[str, dict[str, float]]


@dataclass(frozen=True)
class PostProcess:
    """As the SDK's: scores above `threshold`, the best `top_k` pairs of a level, NMS, `most` detections."""

    threshold: float = 0.05
    top_k: int = 1000
    iou: float = 0.5
    most: int = 300


def prepare(pixels: np.ndarray, side: int, *, antialias: bool = True) -> tuple[Tensor, tuple[int, int]]:
    """The network's input (1, 3, H, W) of a photo (h, w, 3) uint8, and the resized photo's (height, width).

    The longest side becomes `side` pixels (0: no resizing); zero padding on the right and below to multiples of 128.
    """
    rows, columns = pixels.shape[:2]
    scale = side / max(rows, columns) if side else 1.0
    height, width = int(rows * scale), int(columns * scale)
    image = torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255
    if (height, width) != (rows, columns):
        image = F.interpolate(image, (height, width), mode="bilinear", align_corners=False, antialias=antialias)
    image = (image - MEAN) / STD
    return F.pad(image, (0, -width % 128, 0, -height % 128)), (height, width)


@torch.no_grad()
def detect(
    model: RetinaNet, recipe: Recipe, photo: Photo, side: int, post: PostProcess, *, antialias: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (n, 4) xyxy in pixels of the photo, scores (n,), classes (n,); best first."""
    image, (height, width) = prepare(photo.pixels, side, antialias=antialias)
    image = image.contiguous(memory_format=torch.channels_last)
    logits, deltas = model(image)
    anchors = all_anchors(recipe.anchors, *image.shape[2:])
    kept_boxes, kept_scores, kept_classes = [], [], []
    offset = 0
    classes = len(recipe.classes)
    for level_logits, level_deltas, (rows, columns) in zip(logits, deltas, level_shapes(*image.shape[2:]), strict=True):
        cells = rows * columns * recipe.anchors.per_cell
        scores = level_logits[0].permute(1, 2, 0).reshape(cells, -1)[:, :classes].sigmoid().flatten()
        flat_deltas = level_deltas[0].permute(1, 2, 0).reshape(cells, 4)
        best, index = scores.topk(min(post.top_k, len(scores)))
        index = index[best > post.threshold]
        row = index // classes
        kept_boxes.append(decode(anchors[offset + row], flat_deltas[row]))
        kept_scores.append(scores[index])
        kept_classes.append(index % classes)
        offset += cells
    boxes, scores, labels = torch.cat(kept_boxes), torch.cat(kept_scores), torch.cat(kept_classes)
    boxes = torch.minimum(boxes.clamp(min=0), torch.tensor([width, height, width, height]).float())
    keep = batched_nms(boxes, scores, labels, post.iou)[: post.most]
    back = torch.tensor([photo.pixels.shape[1] / width, photo.pixels.shape[0] / height]).repeat(2)
    return boxes[keep] * back, scores[keep], labels[keep]


def evaluate(
    model: RetinaNet,
    recipe: Recipe,
    split: str,
    *,
    side: int | None = None,
    post: PostProcess | None = None,
    counted: int = 100,
    antialias: bool = True,
) -> Scores:
    """COCO AP of the exported classes on a split.

    Scores down to `post.threshold` (0.01 unless given) and the best `counted` detections of an image count.
    """
    was_training = model.training
    model.eval()
    side = recipe.eval_side if side is None else side
    post = post or PostProcess(threshold=0.01, top_k=recipe.top_k, most=max(counted, recipe.max_detections))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotation_file(recipe.dataset, split)))
    id_of = {c["name"]: c["id"] for c in truth.dataset["categories"]}
    ids = [id_of[name] for name in recipe.classes]
    results = []
    for photo in load_photos(recipe.dataset, split, recipe.classes):
        boxes, scores, labels = detect(model, recipe, photo, side, post, antialias=antialias)
        for (x0, y0, x1, y1), score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True):
            results.append(
                {
                    "image_id": photo.image_id,
                    "category_id": ids[label],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "score": score,
                }
            )
    model.train(was_training)
    if not results:
        return Scores(dict.fromkeys(_NAMES, 0.0), {})
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.params.catIds = ids
        evaluation.params.maxDets = [1, 10, counted]
        evaluation.evaluate()
        evaluation.accumulate()
    return Scores(_summary(evaluation), _per_class(evaluation, truth, recipe.classes, ids))


def _summary(evaluation: COCOeval) -> dict[str, float]:
    # COCOeval.summarize() looks for exactly 100 detections; read its tables instead.
    precision, recall = (
        evaluation.eval["precision"],
        evaluation.eval["recall"],
    )  # (T, R, K, area, most), (T, K, area, most)

    def mean(values: np.ndarray) -> float:
        values = values[values > -1]
        return float(values.mean()) if values.size else -1.0

    numbers = [mean(precision[:, :, :, 0, 2]), mean(precision[0, :, :, 0, 2]), mean(precision[5, :, :, 0, 2])]
    numbers += [mean(precision[:, :, :, area, 2]) for area in (1, 2, 3)]
    numbers += [mean(recall[:, :, 0, most]) for most in (0, 1, 2)]
    numbers += [mean(recall[:, :, area, 2]) for area in (1, 2, 3)]
    return dict(zip(_NAMES, numbers, strict=True))


def _per_class(
    evaluation: COCOeval, truth: COCO, names: tuple[str, ...], ids: list[int]
) -> dict[str, dict[str, float]]:
    order = list(evaluation.params.catIds)
    found = {}
    for name, category in zip(names, ids, strict=True):
        table = evaluation.eval["precision"][:, :, order.index(category), 0, 2]
        boxes = truth.loadAnns(truth.getAnnIds(catIds=[category], iscrowd=False))
        found[name] = {"AP": float(table.mean()), "AP50": float(table[0].mean()), "boxes": float(len(boxes))}
    return found


def load_checkpoint(path: Path) -> tuple[RetinaNet, Recipe, int]:
    """The averaged model of a checkpoint, its recipe and its step."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    recipe = Recipe.from_json(state["recipe"])
    model = RetinaNet(
        recipe.head_classes, channels=recipe.channels, depth=recipe.depth, frozen_blocks=recipe.frozen_blocks
    )
    model.load_state_dict(state["ema"])
    return model.eval(), recipe, int(state["step"])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="name of a run in training/runs")
    parser.add_argument("--split", default="val")
    parser.add_argument("--side", type=int, nargs="*", help="longest sides to try; default: the recipe's")
    parser.add_argument("--threshold", type=float, default=0.01)
    parser.add_argument("--iou", type=float, default=0.5)
    parser.add_argument("--counted", type=int, default=100, help="detections of an image that count")
    parser.add_argument("--no-antialias", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, recipe, step = load_checkpoint(runs_dir() / arguments.run / "last.pt")
    for side in arguments.side or [recipe.eval_side]:
        most = max(arguments.counted, recipe.max_detections)
        post = PostProcess(arguments.threshold, recipe.top_k, arguments.iou, most)
        scores = evaluate(model, recipe, arguments.split, side=side, post=post, antialias=not arguments.no_antialias)
        print(json.dumps({"step": step, "side": side, **asdict(scores)}, default=float))


if __name__ == "__main__":
    main()
