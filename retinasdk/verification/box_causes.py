"""Guesses why two lists of boxes differ, by trying changes that make them equal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from retinasdk._util.box_matching import Boxes, are_left, pair_equal
from retinasdk.verification.expected_boxes import BOX_FORMATS, as_xyxy

if TYPE_CHECKING:
    import numpy.typing as npt

_FEW = 3  # Fewer differing boxes show no pattern.


def probable_causes(
    expected: Boxes,
    found: Boxes,
    *,
    box_format: str,
    size: tuple[int, int],
    max_detections: int,
    pixels: float,
    score: float,
) -> list[str]:
    """Explains differences.

    Args:
        expected: Boxes of the framework.
        found: Boxes of retinasdk.
        box_format: How the expected boxes were read.
        size: (height, width) of the image in pixels.
        max_detections: Maximum number of boxes of the model.
        pixels: Largest difference of an edge of equal boxes, in pixels.
        score: Largest difference of their scores.

    Returns:
        One sentence for each cause, the most likely first; an empty list if none is known.
    """
    pairs = pair_equal(expected, found, pixels=pixels, score=score)
    lost, more = (
        expected.take(are_left(len(expected), pairs[:, 0])),
        found.take(are_left(len(found), pairs[:, 1])),
    )
    causes: list[str] = []
    if min(len(lost), len(more)) >= _FEW:
        gains = []
        for text, changed, tolerance in _changes(lost, more, box_format, size, score):
            gains.append((len(pair_equal(changed, more, pixels=pixels, score=tolerance)), text))
        best, text = max(gains, key=lambda item: item[0], default=(0, ""))
        if 2 * best > min(len(lost), len(more)):
            causes.append(f"{best} of the {len(lost)} differing boxes are equal if {text}")
    return causes + _limits(expected, found, lost, more, max_detections)


def _changes(
    lost: Boxes, more: Boxes, box_format: str, size: tuple[int, int], score: float
) -> Iterator[tuple[str, Boxes, float]]:
    """Yields what might be different, the expected boxes without that difference, and the tolerance of scores."""

    def moved(xyxy: npt.NDArray[np.float64]) -> Boxes:
        return Boxes(xyxy, lost.scores, lost.class_ids)

    raw = lost.xyxy
    if box_format != "xyxy":
        size_part = raw[:, 2:] - raw[:, :2]
        start = raw[:, :2] if box_format == "xywh" else (raw[:, :2] + raw[:, 2:]) / 2
        raw = np.concatenate([start, size_part], axis=1)
    for other in BOX_FORMATS:
        if other != box_format:
            text = f"they are read as {other}: add --box-format {other} (in Python: box_format={other!r})"
            yield text, moved(as_xyxy(raw, other)), score
    height, width = size
    yield "x and y are exchanged: print boxes as x1, y1, x2, y2", moved(lost.xyxy[:, [1, 0, 3, 2]]), score
    in_pixels = lost.xyxy * np.array([width, height, width, height])
    yield "they are multiplied by the size of the image: print boxes in pixels", moved(in_pixels), score
    for step in (1, -1):
        text = (
            f"the class numbers are {'raised' if step > 0 else 'lowered'} by one: one side counts a background class. "
            "Give the import labels with or without '__background__' at index 0"
        )
        yield text, Boxes(lost.xyxy, lost.scores, lost.class_ids + step), score
        text = (
            f"x2 and y2 are {'raised' if step > 0 else 'lowered'} by one: one side names the last pixel of a box, the "
            "other its edge (inclusive_pixels in the spec)"
        )
        yield text, moved(lost.xyxy + np.array([0, 0, step, step])), score
    limits = np.array([width, height, width, height])
    yield "they are clipped to the image (clip in the spec)", moved(np.clip(lost.xyxy, 0, limits)), score
    yield from ((text, moved(xyxy), score) for text, xyxy in _fitted(lost, more))
    yield (
        "scores are left out: places agree and scores do not. Look at mean and std, channel order (RGB or BGR) and "
        "weights",
        lost,
        1.0,
    )


def _fitted(lost: Boxes, more: Boxes) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
    """Yields the shift and the scale that fit best, from boxes of one class with nearly the same score."""
    rows = []
    for index in range(len(lost)):
        near = np.flatnonzero(more.class_ids == lost.class_ids[index])
        if len(near):
            best = near[np.abs(more.scores[near] - lost.scores[index]).argmin()]
            rows.append((lost.xyxy[index], more.xyxy[best]))
    if len(rows) < _FEW:
        return
    theirs, ours = np.array(rows).transpose(1, 0, 2)
    shift = np.median((ours - theirs).reshape(-1, 2), axis=0)
    x, y = shift.tolist()
    yield (
        f"they are shifted by {x:g}, {y:g} pixels: one side counts pixels or anchors from their centers",
        lost.xyxy + np.tile(shift, 2),
    )
    sides = theirs[:, 2:] - theirs[:, :2]
    usable = (sides > 0).all(axis=1)
    if usable.any():
        ratio = np.median((ours[:, 2:] - ours[:, :2])[usable] / sides[usable], axis=0)
        yield (
            f"they are multiplied by {ratio[0]:.4g} in x and {ratio[1]:.4g} in y: they are in pixels of the resized "
            "image, or the image was another",
            lost.xyxy * np.tile(ratio, 2),
        )


def _limits(expected: Boxes, found: Boxes, lost: Boxes, more: Boxes, max_detections: int) -> list[str]:
    causes = []
    if len(more) and len(expected) and more.scores.max() < expected.scores.min():
        lowest = expected.scores.min()
        causes.append(
            f"retinasdk has {len(more)} more boxes, all with scores below the lowest expected one, {lowest:.4f}: the "
            f"score threshold or the maximum of detections ({len(expected)}?) of the framework is another. Compare "
            f"with --score {np.floor(lowest * 100) / 100:g}, or set it in the import (--score-threshold, "
            "--max-detections)"
        )
    if len(lost) and len(found) and lost.scores.max() < found.scores.min():
        reason = (
            f"the model is limited to {max_detections} detections (--max-detections of the import)"
            if len(found) == max_detections
            else "the score threshold of the model is higher (--score-threshold of the import)"
        )
        causes.append(f"{len(lost)} expected boxes have lower scores than all that retinasdk finds: {reason}")
    if len(lost) and not len(found):
        causes.append("retinasdk finds nothing: is it the same image, and the model of the same training?")
    return causes
