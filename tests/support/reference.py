"""The oracle: preprocess, decode and NMS again in plain float64 NumPy, from the prose of csrc/ops.h and spec.py.

Shares no code with csrc/ or retinasdk/, and prefers the obvious to the quick: dense weight matrices, full sorts, lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
FLOAT32_MAX = float(np.finfo(np.float32).max)


# -- preprocess --------------------------------------------------------------------------------------------------------


def resize_weights(size_in: int, size_out: int, *, antialias: bool, source_step: float = 0.0) -> Array:
    """Row i holds the weight of each source position in output position i: (size_out, size_in), rows add up to 1."""
    scale = source_step or size_in / size_out
    centres = (np.arange(size_out) + 0.5) * scale
    if antialias and scale > 1:
        distance = np.abs(np.arange(size_in)[None, :] + 0.5 - centres[:, None]) / scale
        triangle = np.maximum(1.0 - distance, 0.0)
        return triangle / triangle.sum(axis=1, keepdims=True)
    weights = np.zeros((size_out, size_in))
    for i, centre in enumerate(centres):
        # Pixel centres lie at .5; beyond the outermost centres the edge pixel goes on.
        position = min(max(centre - 0.5, 0.0), size_in - 1.0)
        lower = int(position)
        weights[i, lower] += 1.0 - (position - lower)
        weights[i, min(lower + 1, size_in - 1)] += position - lower
    return weights


def preprocess(
    image: npt.NDArray[np.uint8],
    *,
    resized: tuple[int, int],
    padded: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    reverse_channels: bool = False,
    antialias: bool = False,
    source_step: float = 0.0,
) -> Array:
    """(H, W, 3) uint8 to (3, *padded): resized, normalised, zeros to the right and below."""
    rows = resize_weights(image.shape[0], resized[0], antialias=antialias, source_step=source_step)
    columns = resize_weights(image.shape[1], resized[1], antialias=antialias, source_step=source_step)
    channels = image[:, :, ::-1] if reverse_channels else image
    canvas = np.zeros((3, *padded))
    for c in range(3):
        pixels = rows @ channels[:, :, c].astype(np.float64) @ columns.T
        canvas[c, : resized[0], : resized[1]] = (pixels - mean[c]) / std[c]
    return canvas


# -- decode ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Level:
    """One level of one image: logits (A * K, H, W), deltas (A * 4, H, W), base_anchors (A, 4), stride (y, x)."""

    logits: npt.NDArray[np.floating]
    deltas: npt.NDArray[np.floating]
    base_anchors: npt.NDArray[np.floating]
    stride: tuple[float, float]


@dataclass(frozen=True)
class Found:
    """boxes (n, 4) xyxy, logits (n,), class_ids (n,), in the order of the contract."""

    boxes: Array
    logits: Array
    class_ids: npt.NDArray[np.int64]

    def __getitem__(self, index: npt.NDArray[np.int64]) -> Found:
        return Found(self.boxes[index], self.logits[index], self.class_ids[index])


def sigmoid(logits: npt.NDArray[np.floating]) -> Array:
    with np.errstate(over="ignore"):
        return 1.0 / (1.0 + np.exp(-np.asarray(logits, dtype=np.float64)))


def anchors(base_anchors: npt.NDArray[np.floating], stride: tuple[float, float], rows: int, columns: int) -> Array:
    """(rows * columns * A, 4): cell by cell in reading order, inside a cell in the order of the base anchors."""
    boxes = []
    for row in range(rows):
        for column in range(columns):
            shift = np.array([column * stride[1], row * stride[0], column * stride[1], row * stride[0]])
            boxes.append(np.asarray(base_anchors, dtype=np.float64) + shift)
    return np.concatenate(boxes)


@dataclass(frozen=True)
class Coder:
    """How deltas become boxes. kind: "center" or "corner"; inclusive_pixels: x2 and y2 are the last pixels inside."""

    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)
    clamp_max: float = float("inf")
    clamp_min: float = -float("inf")
    means: Sequence[float] = (0.0, 0.0, 0.0, 0.0)
    kind: str = "center"
    inclusive_pixels: bool = False


def apply_deltas(anchor: Array, deltas: Array, coder: Coder) -> Array:
    """Anchors (n, 4) xyxy moved by deltas (n, 4).

    "center": dx and dy in anchor sides, dw and dh as logarithms. "corner": each corner in anchor sides.
    """
    more = 1.0 if coder.inclusive_pixels else 0.0
    sides = anchor[:, 2:] - anchor[:, :2] + more
    with np.errstate(invalid="ignore", over="ignore"):
        deltas = deltas / np.asarray(coder.weights) + np.asarray(coder.means)
        if coder.kind == "corner":
            return anchor + deltas * np.tile(sides, 2)
        centres = anchor[:, :2] + sides / 2 + deltas[:, :2] * sides
        half = np.exp(np.clip(deltas[:, 2:], coder.clamp_min, coder.clamp_max)) * sides / 2
        return np.concatenate([centres - half, centres + half - more], axis=1)


def _decode_level(
    level: Level,
    clip_size: tuple[float, float],
    passes: npt.NDArray[np.bool_],
    top_k: int,
    coder: Coder,
    class_ids: Sequence[int],
    drop_empty: bool,
    top_k_anchors: bool,
) -> Found:
    count, rows, columns = len(level.base_anchors), *level.logits.shape[1:]
    classes = level.logits.shape[0] // count

    def by_anchor(channels: npt.NDArray[np.floating], width: int) -> npt.NDArray[np.floating]:
        """(A * width, H, W) to (H * W * A, width), so that rows are the anchors in the order of anchors()."""
        return channels.reshape(count, width, rows, columns).transpose(2, 3, 0, 1).reshape(-1, width)

    pair_logits = by_anchor(level.logits, classes).astype(np.float64)
    allowed = by_anchor(passes, classes).copy()
    if len(class_ids):
        allowed[:, [k for k in range(classes) if k not in class_ids]] = False
    pairs = np.flatnonzero(allowed)
    # lexsort: the last key counts most. Pairs are ascending already, so equal logits stay by (anchor, class).
    order = np.lexsort((pairs, -pair_logits.reshape(-1)[pairs]))
    best = pairs[order][:top_k]
    if top_k_anchors:
        # The anchors in the order of their best pair, then all their pairs.
        order = np.lexsort((pairs // classes, -pair_logits.reshape(-1)[pairs]))
        chosen = list(dict.fromkeys((pairs // classes)[order].tolist()))[:top_k]
        best = np.array([pair for anchor in chosen for pair in pairs[pairs // classes == anchor]], dtype=np.int64)
    anchor_index, class_index = best // classes, best % classes
    boxes = apply_deltas(
        anchors(level.base_anchors, level.stride, rows, columns)[anchor_index],
        by_anchor(level.deltas, 4).astype(np.float64)[anchor_index],
        coder,
    )
    # The SDK computes in float32, so what leaves its range is not finite there.
    usable = np.all(np.abs(boxes) <= FLOAT32_MAX, axis=1)
    for axis, size in ((1, clip_size[0]), (0, clip_size[1])):
        if size >= 0:
            boxes[:, axis::2] = np.clip(boxes[:, axis::2], 0.0, size)
    if drop_empty:
        usable &= ~is_empty(boxes, coder.inclusive_pixels)
    return Found(boxes, pair_logits.reshape(-1)[best], class_index)[np.flatnonzero(usable)]


def is_empty(boxes: Array, inclusive_pixels: bool) -> npt.NDArray[np.bool_]:
    """(n,) of boxes (n, 4): those without area, once they are rounded to float32 as the SDK's are."""
    with np.errstate(invalid="ignore", over="ignore"):
        boxes = boxes.astype(np.float32).astype(np.float64)
        return ~(boxes[:, 2:] - boxes[:, :2] + (1.0 if inclusive_pixels else 0.0) > 0).all(axis=1)


def decode(
    levels: Sequence[Level],
    *,
    clip_size: tuple[float, float],
    top_k: int,
    logit_threshold: float | None = None,
    score_threshold: float | None = None,
    coder: Coder = Coder(),
    class_ids: Sequence[int] = (),
    or_equal: bool = False,
    drop_empty: bool = False,
    class_thresholds: npt.NDArray[np.floating] | None = None,
    ignored: npt.NDArray[np.floating] | None = None,
    level_clips: Sequence[tuple[float, float]] = (),
    top_k_anchors: bool = False,
) -> Found:
    """Candidates of one image. The threshold is given as a logit or as a score; both are exclusive, unless or_equal.

    class_thresholds: (K,) logits that each class is held to besides. ignored: (R, 4) regions that a box may lie in with
    at most half of its area; those from the first without area on do not count. level_clips: in place of clip_size,
    where not negative. top_k_anchors: the best anchors, with all their pairs that pass.
    """
    parts = []
    for index, level in enumerate(levels):
        limits_of_level = level_clips[index] if level_clips else (-1.0, -1.0)
        size = tuple(own if own >= 0 else whole for own, whole in zip(limits_of_level, clip_size, strict=True))
        if score_threshold is not None:
            values, threshold = sigmoid(level.logits), np.float64(score_threshold)
        else:
            values, threshold = level.logits.astype(np.float64), np.float64(np.float32(logit_threshold))
        passes = values > threshold
        if or_equal:
            passes |= (values == threshold) & (level.logits > -np.inf)
        if class_thresholds is not None:
            limits = np.tile(class_thresholds, len(level.base_anchors))[:, None, None].astype(np.float64)
            passes &= (level.logits > limits) | (or_equal & (level.logits == limits) & (level.logits > -np.inf))
        parts.append(_decode_level(level, size, passes, top_k, coder, class_ids, drop_empty, top_k_anchors))
    found = Found(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.logits for part in parts]),
        np.concatenate([part.class_ids for part in parts]),
    )
    return (
        found if ignored is None else found[np.flatnonzero(~_is_ignored(found.boxes, ignored, coder.inclusive_pixels))]
    )


def _is_ignored(boxes: Array, regions: npt.NDArray[np.floating], inclusive_pixels: bool) -> npt.NDArray[np.bool_]:
    """(n,) of boxes (n, 4)."""
    more = 1.0 if inclusive_pixels else 0.0
    result = np.zeros(len(boxes), dtype=bool)
    for region in regions.astype(np.float64):
        if not (region[2:] > region[:2]).all():
            break
        sides = np.minimum(boxes[:, 2:] + more, region[2:]) - np.maximum(boxes[:, :2], region[:2])
        shared = np.where((sides > 0).all(axis=1), sides.prod(axis=1), 0.0)
        result |= (shared > 0) & (shared > (boxes[:, 2:] - boxes[:, :2] + more).prod(axis=1) / 2)
    return result


# -- NMS ---------------------------------------------------------------------------------------------------------------


def iou(box: Array, others: Array, *, inclusive_pixels: bool = False) -> Array:
    """Of one box (4,) with each of (n, 4); boxes without a common area give 0.

    Edges are continuous, or with inclusive_pixels x2 and y2 are the last pixels inside.
    """
    more = 1.0 if inclusive_pixels else 0.0
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]) + more
    intersection = np.where((sides > 0).all(axis=1), sides.prod(axis=1), 0.0)
    areas = (others[:, 2:] - others[:, :2] + more).prod(axis=1)
    union = (box[2:] - box[:2] + more).prod() + areas - intersection
    return np.where(intersection > 0, intersection / np.where(union > 0, union, 1.0), 0.0)


def nms(
    boxes: npt.NDArray[np.floating],
    logits: npt.NDArray[np.floating],
    class_ids: npt.NDArray[np.integer],
    *,
    iou_threshold: float,
    max_detections: int,
    or_equal: bool = False,
    inclusive_pixels: bool = False,
    across_classes: bool = False,
    max_per_class: int = 1 << 20,
) -> list[int]:
    """The textbook's: take the best that is left, drop its neighbours of the same class, repeat.

    across_classes: neighbours of any class. A class of which max_per_class are kept is out of it altogether.
    """
    boxes, logits = boxes.astype(np.float64), logits.astype(np.float64)
    usable = np.flatnonzero(np.isfinite(boxes).all(axis=1) & ~np.isnan(logits))
    left = usable[np.lexsort((usable, -logits[usable]))]
    kept: list[int] = []
    while len(left) and len(kept) < max_detections:
        best, left = left[0], left[1:]
        kept.append(int(best))
        overlaps = iou(boxes[best], boxes[left], inclusive_pixels=inclusive_pixels)
        near = overlaps >= iou_threshold if or_equal else overlaps > iou_threshold
        dropped = near & (across_classes | (class_ids[left] == class_ids[best]))
        if np.count_nonzero(class_ids[kept] == class_ids[best]) == max_per_class:
            dropped |= class_ids[left] == class_ids[best]
        left = left[~dropped]
    return kept


# -- tiles -------------------------------------------------------------------------------------------------------------


def clear_of(span: tuple[int, int], extent: int, low: float, high: float, slack: float) -> bool:
    """Does low..high keep off the edges of span that are not those of 0..extent?"""
    return (span[0] == 0 or low - span[0] > slack) and (span[1] == extent or span[1] - high > slack)


def merge_tiles(
    boxes: npt.NDArray[np.floating],
    logits: npt.NDArray[np.floating],
    class_ids: npt.NDArray[np.integer],
    tiles: npt.NDArray[np.integer],
    *,
    tops: Sequence[int],
    lefts: Sequence[int],
    tile_size: tuple[int, int],
    image_size: tuple[int, int],
    iou_threshold: float,
    cut_slack: tuple[float, float],
    cover_limit: float,
    or_equal: bool = False,
    inclusive_pixels: bool = False,
) -> tuple[list[int], list[int]]:
    """By pairs: tile by tile for what is cut and who shows it whole, then one box against all kept.

    Returns what is kept, best first, and for each box the kept one that it is or goes into, or -1.
    """
    rows = [(int(top), int(top) + tile_size[0]) for top in tops]
    columns = [(int(left), int(left) + tile_size[1]) for left in lefts]
    spans = [(row, column) for row in rows for column in columns]
    more = 1.0 if inclusive_pixels else 0.0
    boxes, logits = boxes.astype(np.float64), logits.astype(np.float64)

    def is_clear(i: int, span: tuple[tuple[int, int], tuple[int, int]]) -> bool:
        x1, y1, x2, y2 = boxes[i]
        in_y = clear_of(span[0], image_size[0], y1, y2 + more, cut_slack[0])
        return in_y and clear_of(span[1], image_size[1], x1, x2 + more, cut_slack[1])

    whole, cut = [], []
    for i in range(len(boxes)):
        if not np.isfinite(boxes[i]).all() or np.isnan(logits[i]):
            continue
        if tiles[i] == len(spans) or is_clear(i, spans[tiles[i]]):
            whole.append(i)
        elif not any(is_clear(i, span) for span in spans):
            cut.append(i)
    kept: list[int] = []
    joined = [-1] * len(boxes)
    for group in (whole, cut):
        for i in sorted(group, key=lambda i: (-logits[i], i)):
            others = [j for j in kept if class_ids[j] == class_ids[i] and tiles[j] != tiles[i]]
            overlaps = iou(boxes[i], boxes[others].reshape(-1, 4), inclusive_pixels=inclusive_pixels)
            near = overlaps >= iou_threshold if or_equal else overlaps > iou_threshold
            dropped = near.any()
            if dropped and group is whole:
                rivals = [
                    (-overlap, -logits[j], j)
                    for overlap, j, is_near in zip(overlaps, others, near, strict=True)
                    if is_near
                ]
                joined[i] = min(rivals)[2]
            if group is cut:
                sides = np.minimum(boxes[i, 2:], boxes[others][:, 2:]) - np.maximum(boxes[i, :2], boxes[others][:, :2])
                shared = np.where((sides + more > 0).all(axis=1), (sides + more).prod(axis=1), 0.0)
                area = (boxes[i, 2:] - boxes[i, :2] + more).prod()
                dropped |= bool((shared > cover_limit * area).any())
            if not dropped:
                kept.append(i)
                joined[i] = i
    return sorted(kept, key=lambda i: (-logits[i], i)), joined


def fuse_tiles(
    boxes: npt.NDArray[np.floating], scores: npt.NDArray[np.floating], kept: Sequence[int], joined: Sequence[int]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Boxes and mean scores of what goes together, in the order of `kept`."""
    corners, means = np.zeros((len(kept), 4)), np.zeros(len(kept))
    for place, leader in enumerate(kept):
        members = [i for i, other in enumerate(joined) if other == leader]
        corners[place] = np.average(boxes[members].astype(np.float64), axis=0, weights=scores[members])
        means[place] = scores[members].astype(np.float64).mean()
    return corners, means


# -- the whole of it ---------------------------------------------------------------------------------------------------


def postprocess(
    levels: Sequence[Level],
    *,
    original: tuple[int, int],
    resized: tuple[int, int],
    clip_size: tuple[float, float],
    score_threshold: float,
    top_k: int,
    iou_threshold: float,
    max_detections: int,
    coder_clamp_max: float = float("inf"),
    coder: Coder | None = None,
    class_ids: Sequence[int] = (),
    last_clip: tuple[float, float] = (-1, -1),
    drop_empty: str = "never",
) -> tuple[Array, Array, npt.NDArray[np.int64]]:
    """(xyxy in pixels of the original image, scores, class ids) of one image, best first.

    coder: the plain one with `coder_clamp_max` unless given. last_clip: height, width that boxes are clipped to when
    they are back in the original image. drop_empty: "never", "before_nms" or "after_nms".
    """
    coder = coder or Coder(clamp_max=coder_clamp_max)
    found = decode(
        levels,
        clip_size=clip_size,
        top_k=top_k,
        score_threshold=score_threshold,
        coder=coder,
        class_ids=class_ids,
        drop_empty=drop_empty == "before_nms",
    )
    kept = nms(
        found.boxes,
        found.logits,
        found.class_ids,
        iou_threshold=iou_threshold,
        max_detections=max_detections,
        inclusive_pixels=coder.inclusive_pixels,
    )
    best = found[np.array(kept, dtype=np.int64)]
    ratio_y, ratio_x = original[0] / resized[0], original[1] / resized[1]
    boxes = best.boxes * [ratio_x, ratio_y, ratio_x, ratio_y]
    for axis, size in ((1, last_clip[0]), (0, last_clip[1])):
        if size >= 0:
            boxes[:, axis::2] = np.clip(boxes[:, axis::2], 0.0, size)
    reported = (
        ~is_empty(boxes, coder.inclusive_pixels) if drop_empty == "after_nms" else np.ones(len(boxes), dtype=bool)
    )
    return boxes[reported], sigmoid(best.logits)[reported], best.class_ids[reported]


# -- comparing lists of detections -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Listed:
    """Detections of one image, best first: boxes (n, 4), scores (n,), class_ids (n,)."""

    boxes: npt.NDArray[np.floating]
    scores: npt.NDArray[np.floating]
    class_ids: npt.NDArray[np.integer]


def assert_same_detections(
    ours: Listed, theirs: Listed, *, tie: float = 0.0, box_tolerance: float = 1e-2, score_tolerance: float = 1e-5
) -> None:
    """Same boxes within `box_tolerance` pixels, scores within `score_tolerance`, classes and order.

    tie: neighbours in their list whose scores differ by no more may have changed places; 0: only equal scores.
    """
    assert len(ours.scores) == len(theirs.scores), f"{len(ours.scores)} detections, wanted {len(theirs.scores)}"
    np.testing.assert_allclose(ours.scores, theirs.scores, rtol=0, atol=score_tolerance)
    runs = np.cumsum(-np.diff(theirs.scores.astype(np.float64), prepend=theirs.scores[:1]) > tie)
    order = np.arange(len(runs))
    for run in np.unique(runs[:-1][np.diff(runs) == 0]):  # those with more than one member
        left = np.flatnonzero(runs == run).tolist()
        for place in np.flatnonzero(runs == run):
            distance = np.abs(ours.boxes[left] - theirs.boxes[place]).max(axis=1)
            other_class = ours.class_ids[left] != theirs.class_ids[place]
            order[place] = left.pop(int(np.argmin(distance + 1e6 * other_class)))
    np.testing.assert_array_equal(ours.class_ids[order], theirs.class_ids)
    np.testing.assert_allclose(ours.boxes[order], theirs.boxes, rtol=0, atol=box_tolerance)
