"""Detects objects in one large image: cuts it into tiles, runs them on all cores, and merges the results."""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk import _native
from retinasdk._util.progress import Progress, ProgressCallback
from retinasdk.detections import Detections
from retinasdk.pipeline.call_options import Thresholds
from retinasdk.pipeline.postprocess import as_detections, to_original
from retinasdk.pipeline.preprocess import Transform
from retinasdk.pipeline.rules import suppresses_across_classes, suppression_op
from retinasdk.pipeline.stage_timing import stage
from retinasdk.pipeline.suppression import Suppression
from retinasdk.pipeline.types import Kept
from retinasdk.spec import ModelSpec
from retinasdk.tiling.grid import TileGrid, Tiles
from retinasdk.tiling.windows import Windows

if TYPE_CHECKING:
    import numpy.typing as npt

    from retinasdk.backends.base import Backend

_AHEAD = 2  # Batches for each worker: one in progress, and one that it can start without waiting for the caller.
# See Note [Cut boxes] in csrc/math/tile_math.h. The slack is the distance to an edge in pixels of the network's input.
_CUT_SLACK = 4.0
_COVER_LIMIT = 0.5


@dataclass(frozen=True)
class _Part:
    """A tile or the whole image. `number` is as in the contract of `merge_tiles`; `pixels` is a view."""

    number: int
    pixels: Any
    transform: Transform
    left: int = 0
    top: int = 0


def detect_tiled(
    windows: Windows,
    tiles: Tiles,
    backend: Backend,
    *,
    batch: int,
    score_threshold: Thresholds,
    class_ids: Sequence[int],
    ignore: npt.NDArray[np.float32],
    suppression: Suppression,
    progress: ProgressCallback | None = None,
) -> Detections:
    """Detects objects in one image by tiles.

    At most 2 * `batch` tiles for each worker are in progress or waiting at a time. They are views of the image.

    Args:
        windows: The image.
        tiles: How the image is cut.
        backend: The network.
        batch: Number of tiles for each run of the network.
        score_threshold: Lowest confidence score, for all classes or for each class index.
        class_ids: Indices of the classes to detect. Empty: all classes.
        ignore: (R, 4) float32 xyxy regions in pixels of the image whose boxes are dropped. If R is not 0, `batch` must
            be 1, because the regions are relative to a tile.
        suppression: How overlapping boxes of different tiles are resolved.
        progress: Called with a `Progress` for each batch of tiles, in this thread; the whole image counts as one.

    Returns:
        The detections, best first, in pixels of the image.

    Raises:
        DeviceError: If the backend is closed or the device fails.
        ImageError: If a part of the image cannot be decoded.
        ModelError: If the network fails.
        ValueError: If there are too many tiles.
    """
    grid = tiles.plan(*windows.size)
    spec = backend.spec
    worker, workers = backend.for_workers()

    total = len(grid) + (tiles.whole_image and len(grid) > 1)

    def show() -> None:
        if progress is not None:
            progress(Progress("detect", len(found), total, "tile"))

    def detect(parts: Sequence[_Part]) -> list[Kept]:
        images, transforms = [worker.read(part.pixels) for part in parts], [part.transform for part in parts]
        # If there are regions, the batch has one part.
        regions = ignore - np.array([parts[0].left, parts[0].top] * 2, np.float32)
        kept = worker.detect(images, transforms, score_threshold=score_threshold, class_ids=class_ids, ignore=regions)
        return to_original(kept, spec, transforms)

    found: list[tuple[_Part, Kept]] = []
    pending: deque[tuple[Sequence[_Part], Future[list[Kept]]]] = deque()
    show()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="retinasdk-tiles")
    try:
        for parts in _batches(windows, grid, tiles, spec, batch):
            while len(pending) >= _AHEAD * workers:
                _take(pending, found)
                show()
            pending.append((parts, pool.submit(contextvars.copy_context().run, detect, parts)))
        while pending:
            _take(pending, found)
            show()
    finally:  # Also if a tile or `progress` fails.
        pool.shutdown(cancel_futures=True)
    with stage("postprocess"):
        return _merge(found, grid, spec, suppression)


def _take(pending: deque[tuple[Sequence[_Part], Future[list[Kept]]]], found: list[tuple[_Part, Kept]]) -> None:
    parts, future = pending.popleft()
    for part, kept in zip(parts, future.result(), strict=True):
        found.append((replace(part, pixels=None), kept))  # The pixels can be released now.


def _batches(windows: Windows, grid: TileGrid, tiles: Tiles, spec: ModelSpec, size: int) -> Iterator[Sequence[_Part]]:
    """Yields the whole image first if it is used, because it takes longest, and then the tiles row by row."""
    if tiles.whole_image and len(grid) > 1:
        transform = Transform.plan(grid.image, spec)
        yield [_Part(len(grid), windows.whole(transform.resized), transform)]
    parts = _parts(windows, grid, spec)
    while members := list(islice(parts, size)):
        yield members


def _parts(windows: Windows, grid: TileGrid, spec: ModelSpec) -> Iterator[_Part]:
    height, width = grid.tile
    transform = Transform.plan(grid.tile, spec)
    number = 0
    for top in grid.tops.tolist():
        band = windows.rows(top, top + height)
        for left in grid.lefts.tolist():
            yield _Part(number, band[:, left : left + width], transform, left, top)
            number += 1


def _merge(
    found: Sequence[tuple[_Part, Kept]], grid: TileGrid, spec: ModelSpec, suppression: Suppression
) -> Detections:
    """Resolves overlapping boxes of different parts. All boxes are converted to pixels of the whole image."""
    boxes = np.concatenate([kept.boxes + np.array([p.left, p.top] * 2, np.float32) for p, kept in found])
    scores = np.concatenate([kept.scores for _, kept in found])
    class_ids = np.concatenate([kept.class_ids for _, kept in found])
    tiles = np.repeat(np.array([part.number for part, _ in found], np.int32), [len(kept.scores) for _, kept in found])
    resized = Transform.plan(grid.tile, spec).resized
    op, rules = suppression_op(suppression, spec)
    best, joined = _native.merge_tiles(
        boxes,
        scores,
        np.zeros_like(class_ids) if suppresses_across_classes(suppression, spec) else class_ids,
        tiles,
        tops=grid.tops,
        lefts=grid.lefts,
        tile_size=grid.tile,
        image_size=grid.image,
        cut_slack=(_CUT_SLACK * grid.tile[0] / resized[0], _CUT_SLACK * grid.tile[1] / resized[1]),
        cover_limit=_COVER_LIMIT,
        **{name: rules[name] for name in ("iou_threshold", "or_equal", "inclusive_pixels")},
    )
    merged = Kept(boxes[best], scores[best], class_ids[best])
    if op == "fuse":
        fused_boxes, means = _fused(boxes, scores, best, joined)
        merged = Kept(fused_boxes, means if suppression.fused_score == "mean" else merged.scores, merged.class_ids)
    return as_detections(_limited(merged, suppression), spec)


def _fused(
    boxes: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float32],
    best: npt.NDArray[np.int32],
    joined: npt.NDArray[np.int32],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Averages the boxes that `merge_tiles` assigns to one object, weighted by their scores.

    Args:
        boxes: (n, 4) float32 xyxy of all parts.
        scores: (n,) float32.
        best: (m,) int32, as `merge_tiles` returns it.
        joined: (n,) int32, as `merge_tiles` returns it.

    Returns:
        Boxes (m, 4) and mean scores (m,), float32, in the order of `best`. The sums are computed in float64.
    """
    place = np.full(len(scores), len(best))
    place[best] = np.arange(len(best))
    members = np.flatnonzero(joined >= 0)
    group = place[joined[members]]

    def total(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.bincount(group, values, minlength=len(best)).astype(np.float64, copy=False)

    weights = scores[members].astype(np.float64)
    sums = total(weights)
    corners = np.stack([total(weights * boxes[members, side]) for side in range(4)], axis=1)
    weighed = sums > 0  # A box whose score is 0 is not changed.
    averaged = boxes[best].astype(np.float64)
    averaged[weighed] = corners[weighed] / sums[weighed, None]
    means = sums / total(np.ones(len(members)))
    return averaged.astype(np.float32), means.astype(np.float32)


def _limited(merged: Kept, suppression: Suppression) -> Kept:
    """Sorts the boxes, best first, and applies the limits for each class and for the image."""
    order = np.argsort(-merged.scores, kind="stable")
    if suppression.max_per_class is not None:
        by_class = np.argsort(merged.class_ids[order], kind="stable")
        sorted_ids = merged.class_ids[order][by_class]
        rank = np.empty(len(order), dtype=np.int64)
        rank[by_class] = np.arange(len(order)) - np.searchsorted(sorted_ids, sorted_ids)
        order = order[rank < suppression.max_per_class]
    order = order[: suppression.max_detections]
    return Kept(merged.boxes[order], merged.scores[order], merged.class_ids[order])
