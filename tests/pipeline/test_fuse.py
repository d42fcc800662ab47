"""`retinasdk.fuse`: the detections of several models as one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from reference_overlap import fuse as reference_fuse

import retinasdk
from retinasdk import Detections

LABELS = ("cat", "dog")


def found(*objects: tuple[list[float], float, int]) -> Detections:
    boxes = np.array([item[0] for item in objects], np.float32).reshape(-1, 4)
    return Detections(boxes, [item[1] for item in objects], [item[2] for item in objects], LABELS)  # type: ignore[arg-type]


def test_two_models_by_hand() -> None:
    """Both know the cat, with 0.9 and 0.6; the dog is known to one, so half of its 0.8 is left."""
    first = found(([0, 0, 10, 10], 0.9, 0), ([50, 50, 60, 60], 0.8, 1))
    second = found(([1, 1, 11, 11], 0.6, 0))
    fused = retinasdk.fuse([first, second])
    assert fused.names.tolist() == ["cat", "dog"]
    assert fused.scores == pytest.approx([0.75, 0.4], abs=1e-6)
    assert fused.xyxy[0] == pytest.approx([0.4, 0.4, 10.4, 10.4], abs=1e-5)
    assert fused.xyxy[1].tolist() == [50, 50, 60, 60]
    assert fused.labels == LABELS


@pytest.mark.parametrize("weights", [[2, 1], [20, 10], [0.2, 0.1]])
def test_only_the_ratios_of_weights_matter(weights: list[float]) -> None:
    """Corners weighted by 2 x 0.9 and 1 x 0.6; what only the first found keeps two thirds, the second one third."""
    first = found(([0, 0, 10, 10], 0.9, 0), ([50, 50, 60, 60], 0.6, 1))
    second = found(([1, 1, 11, 11], 0.6, 0), ([80, 50, 90, 60], 0.6, 1))
    fused = retinasdk.fuse([first, second], weights=weights)
    assert fused.scores == pytest.approx([(2 * 0.9 + 0.6) / 3, 0.4, 0.2], abs=1e-6)
    assert fused.xyxy[0] == pytest.approx([0.25, 0.25, 10.25, 10.25], abs=1e-5)


def test_the_threshold_and_ties() -> None:
    half = [found(([0, 0, 10, 10], 0.5, 0)), found(([0, 0, 10, 5], 0.5, 0))]  # IoU 0.5
    assert len(retinasdk.fuse(half)) == 2
    assert retinasdk.fuse(half, iou_threshold=0.5).xyxy[0].tolist() == [0, 0, 10, 10]  # equal scores: the first model's
    assert len(retinasdk.fuse(half, iou_threshold=0.45)) == 1


def test_many_against_the_oracle() -> None:
    random = np.random.default_rng(3)
    models = []
    for _ in range(4):
        corner = random.random((40, 2)) * 200
        boxes = np.concatenate([corner, corner + 20 + 60 * random.random((40, 2))], axis=1)
        models.append(Detections(boxes, random.random(40), random.integers(0, 2, 40), LABELS))
    wanted = reference_fuse(
        np.concatenate([item.xyxy for item in models]),
        np.concatenate([item.scores for item in models]),
        np.concatenate([item.class_ids for item in models]),
        fused_score="mean",
        models=4,
        iou_threshold=0.4,
        max_detections=1000,
    )
    assert wanted.margin > 1e-6
    fused = retinasdk.fuse(models, iou_threshold=0.4)
    assert fused.class_ids.tolist() == wanted.class_ids.tolist()
    np.testing.assert_allclose(fused.scores, wanted.scores, atol=1e-6)
    np.testing.assert_allclose(fused.xyxy, wanted.boxes, atol=1e-4)


def test_nothing_found() -> None:
    empty = Detections.empty(LABELS)
    one = found(([0, 0, 10, 10], 0.9, 0))
    assert retinasdk.fuse([empty, empty]) == empty
    assert retinasdk.fuse([one]) == one
    assert retinasdk.fuse([empty, one]).scores == pytest.approx([0.45])


@pytest.mark.parametrize(
    ("detections", "options", "error", "message"),
    [
        ([], {}, ValueError, "one entry for each model, got an empty list"),
        (found(), {}, TypeError, "detections must be a list of Detections, one for each model"),
        ([found(), 3], {}, TypeError, "detections must be a list of Detections, one for each model"),
        ([found(), Detections.empty(["cat"])], {}, ValueError, "the same labels in the same order"),
        ([found()], {"weights": [1, 2]}, ValueError, r"weights must be 1 numbers above 0.* got \[1, 2\]"),
        ([found()], {"weights": [0]}, ValueError, "weights must be 1 numbers above 0"),
        ([found()], {"iou_threshold": 2}, ValueError, "iou_threshold must be from 0 to 1, got 2"),
    ],
)
def test_bad_arguments(detections: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        retinasdk.fuse(detections, **options)
