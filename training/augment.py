"""Random crops, scales, mosaics, flips and colours: one training sample from photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageEnhance

if TYPE_CHECKING:
    from data import Photo

_KEPT = 0.35
"""A box of which less than this share is in view is ignored."""
_DROPPED = 0.08
"""A box of which less than this share is in view leaves no trace."""
_SMALLEST = 3.0
"""Shorter sides, in pixels of the sample, are ignored."""
_FILL = 127


@dataclass(frozen=True)
class Canvas:
    """How samples are drawn; fields as in `Recipe`. `side`: pixels of a sample's side."""

    side: int
    long_side: int
    jitter: tuple[float, float]
    mosaic: float
    turns: bool


@dataclass(frozen=True)
class Sample:
    """`pixels` (S, S, 3) uint8, `boxes` (n, 4) float32 xyxy in its pixels, `labels` (n,) int64, -1 to ignore."""

    pixels: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray


def draw_sample(photos: Sequence[Photo], first: int, canvas: Canvas, rng: np.random.Generator) -> Sample:
    """A sample whose (first) photo is `photos[first]`."""
    if rng.random() >= canvas.mosaic:
        sample = _patch(photos[first], canvas.side, canvas.side, canvas, 1.0, rng)
    else:
        sample = _mosaic(photos, first, canvas, rng)
    if rng.random() < 0.5:
        sample = _flip(sample)
    if canvas.turns:
        sample = _turn(sample, int(rng.integers(4)))
    return Sample(_colours(sample.pixels, rng), sample.boxes, sample.labels)


def _patch(photo: Photo, width: int, height: int, canvas: Canvas, shrink: float, rng: np.random.Generator) -> Sample:
    """A window of `width` x `height` on the photo at a random scale, grey where it reaches past the photo."""
    rows, columns = photo.pixels.shape[:2]
    nominal = canvas.long_side / max(rows, columns) if canvas.long_side else 1.0
    low, high = np.log(canvas.jitter[0]), np.log(canvas.jitter[1])
    scale = nominal * shrink * float(np.exp(rng.uniform(low, high)))
    stretch = float(np.exp(rng.uniform(-0.1, 0.1)))
    scale_x, scale_y = scale * stretch, scale / stretch
    # The window's corner in photo pixels. A window larger than the photo is placed so that it holds all of it.
    window_w, window_h = width / scale_x, height / scale_y
    left = float(rng.uniform(min(0.0, columns - window_w), max(0.0, columns - window_w)))
    top = float(rng.uniform(min(0.0, rows - window_h), max(0.0, rows - window_h)))
    if len(photo.boxes) and rng.random() < 0.5:
        # Half of the windows hold the centre of a random box, so that few samples are empty.
        box = photo.boxes[int(rng.integers(len(photo.boxes)))]
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        if columns > window_w:
            left = float(np.clip(x - rng.uniform(0.1, 0.9) * window_w, 0, columns - window_w))
        if rows > window_h:
            top = float(np.clip(y - rng.uniform(0.1, 0.9) * window_h, 0, rows - window_h))
    x0, y0 = max(left, 0.0), max(top, 0.0)
    x1, y1 = min(left + window_w, columns), min(top + window_h, rows)
    put_x, put_y = round((x0 - left) * scale_x), round((y0 - top) * scale_y)
    put_w = max(1, min(width - put_x, round((x1 - x0) * scale_x)))
    put_h = max(1, min(height - put_y, round((y1 - y0) * scale_y)))
    # PIL's bilinear filter averages when it shrinks; every other sample uses plain two-tap bilinear instead, so that
    # the model fits both filters that the SDK's resize offers.
    image = Image.fromarray(photo.pixels)
    if scale < 0.8 and rng.random() < 0.5:
        matrix = ((x1 - x0) / put_w, 0.0, x0, 0.0, (y1 - y0) / put_h, y0)
        part = image.transform((put_w, put_h), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    else:
        part = image.resize((put_w, put_h), Image.Resampling.BILINEAR, box=(x0, y0, x1, y1))
    pixels = np.full((height, width, 3), _FILL, dtype=np.uint8)
    pixels[put_y : put_y + put_h, put_x : put_x + put_w] = np.asarray(part)
    moved = (photo.boxes - np.array([left, top, left, top], dtype=np.float32)) * np.array(
        [scale_x, scale_y, scale_x, scale_y], dtype=np.float32
    )
    return _clipped(pixels, moved, photo.labels)


def _clipped(pixels: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> Sample:
    height, width = pixels.shape[:2]
    limit = np.array([width, height, width, height], dtype=np.float32)
    inside = np.clip(boxes, 0, limit)
    sides = inside[:, 2:] - inside[:, :2]
    share = sides.prod(1) / np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(1), 1e-6)
    labels = np.where((share < _KEPT) | (sides.min(1, initial=1e9) < _SMALLEST), -1, labels)
    keep = (share >= _DROPPED) & (sides.prod(1) > 0)
    return Sample(pixels, inside[keep].astype(np.float32), labels[keep].astype(np.int64))


def _mosaic(photos: Sequence[Photo], first: int, canvas: Canvas, rng: np.random.Generator) -> Sample:
    """Four photos around a random point, each somewhat smaller than it would be alone."""
    side = canvas.side
    x, y = (int(v) for v in rng.integers(int(side * 0.35), int(side * 0.65), 2))
    chosen = [first, *(int(v) for v in rng.integers(len(photos), size=3))]
    pixels = np.empty((side, side, 3), dtype=np.uint8)
    boxes, labels = [], []
    for index, (left, top, width, height) in zip(
        chosen, [(0, 0, x, y), (x, 0, side - x, y), (0, y, x, side - y), (x, y, side - x, side - y)], strict=True
    ):
        part = _patch(photos[index], width, height, canvas, 0.7, rng)
        pixels[top : top + height, left : left + width] = part.pixels
        boxes.append(part.boxes + np.array([left, top, left, top], dtype=np.float32))
        labels.append(part.labels)
    return Sample(pixels, np.concatenate(boxes), np.concatenate(labels))


def _flip(sample: Sample) -> Sample:
    width = sample.pixels.shape[1]
    boxes = sample.boxes.copy()
    boxes[:, [0, 2]] = width - sample.boxes[:, [2, 0]]
    return Sample(np.ascontiguousarray(sample.pixels[:, ::-1]), boxes, sample.labels)


def _turn(sample: Sample, quarters: int) -> Sample:
    """`quarters` quarter turns, counter-clockwise, of a square sample."""
    pixels, boxes = sample.pixels, sample.boxes
    side = pixels.shape[0]
    for _ in range(quarters):
        boxes = np.stack([boxes[:, 1], side - boxes[:, 2], boxes[:, 3], side - boxes[:, 0]], axis=1)
    return Sample(np.ascontiguousarray(np.rot90(pixels, quarters)), boxes.astype(np.float32), sample.labels)


def _colours(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.25:
        return pixels
    image = Image.fromarray(pixels)
    for enhance, spread in ((ImageEnhance.Brightness, 0.35), (ImageEnhance.Contrast, 0.35), (ImageEnhance.Color, 0.5)):
        image = enhance(image).enhance(1.0 + float(rng.uniform(-spread, spread)))
    if rng.random() < 0.1:
        image = image.convert("L").convert("RGB")
    return np.asarray(image)
