"""fuse(): against the oracle, against literals, against ensemble-boxes, and the CUDA kernel on the CPU against it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import INF, NAN, NmsCase, crowd, nms_case
from cuda_ops import CudaOps
from cuda_parity import as_batch, assert_same_fused
from emulated_cuda import emulated_native
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from overlap_cases import FAR, HALF, SQUARE, OverlapCase, fusion_cases
from reference import sigmoid
from reference_overlap import Fused
from reference_overlap import fuse as reference_fuse

from retinasdk import _native
from retinasdk.pipeline.rules import logit

CLOSE = 1e-5  # decisions nearer than this may fall otherwise in float32


def run(case: OverlapCase) -> Fused:
    boxes, scores, class_ids, counts = _native.fuse(*as_batch(case.candidates), **case.options())
    return Fused(boxes[0, : counts[0]], scores[0, : counts[0]], class_ids[0, : counts[0]], 0)


def expected(case: OverlapCase) -> Fused:
    options = {name: value for name, value in case.options().items() if name != "classes"}
    given = case.candidates
    return reference_fuse(given.boxes, sigmoid(given.logits), given.class_ids, **options)


def assert_same(ours: Fused, theirs: Fused) -> None:
    np.testing.assert_array_equal(ours.class_ids, theirs.class_ids)
    np.testing.assert_allclose(ours.scores, theirs.scores, rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours.boxes, theirs.boxes, rtol=1e-6, atol=1e-4)


def fused(candidates: NmsCase, fused_score: str = "mean", models: int = 1) -> Fused:
    return run(OverlapCase(candidates, {"fused_score": fused_score, "models": models, "classes": 5}))


@pytest.mark.parametrize("case", list(fusion_cases()), ids=str)
def test_is_what_the_oracle_says(case: OverlapCase) -> None:
    assert_same(run(case), expected(case))


@pytest.mark.parametrize("case", list(fusion_cases()), ids=str)
def test_cuda(case: OverlapCase) -> None:
    assert_same_fused(as_batch(case.candidates), CudaOps(emulated_native()), **case.options())


def test_by_hand() -> None:
    """Corners weighted by 0.9 and 0.6; the mean score is 0.75. The third is far away."""
    boxes = [[0, 0, 10, 10], [1, 1, 11, 11], FAR]
    found = fused(nms_case("", boxes, logits=[logit(0.9), logit(0.6), logit(0.5)]))
    assert found.boxes[0] == pytest.approx([0.4, 0.4, 10.4, 10.4], abs=1e-5)
    assert found.boxes[1].tolist() == FAR
    assert found.scores == pytest.approx([0.75, 0.5], abs=1e-6)


def test_the_best_score() -> None:
    found = fused(nms_case("", [SQUARE, [1, 1, 11, 11]], logits=[logit(0.9), logit(0.6)]), "best")
    assert found.scores == pytest.approx([0.9], abs=1e-6)


def test_what_few_models_found_counts_less() -> None:
    """Of three models two found the one, one the other: 0.75 x 2/3 and 0.8 x 1/3."""
    boxes = [[0, 0, 10, 10], [1, 1, 11, 11], FAR]
    found = fused(nms_case("", boxes, logits=[logit(0.9), logit(0.6), logit(0.8)]), models=3)
    assert found.scores == pytest.approx([0.5, 0.8 / 3], abs=1e-6)


def test_clusters_grow_from_the_fused_box_and_not_from_the_founder() -> None:
    """The third is nearer to the fused box than to the founder; without the second, it founds its own cluster."""
    chain = [[0, 0, 10, 10], [3, 0, 13, 10], [4, 0, 14, 10]]
    logits = [logit(0.9), logit(0.85), logit(0.8)]
    assert len(fused(nms_case("", chain, logits, iou_threshold=0.45)).scores) == 1
    assert len(fused(nms_case("", [chain[0], chain[2]], [logits[0], logits[2]], iou_threshold=0.45)).scores) == 2


def test_the_nearest_cluster_is_joined_and_of_equal_ones_the_oldest() -> None:
    row = [[0, 0, 10, 10], [8, 0, 18, 10], [4, 0, 14, 10]]
    found = fused(nms_case("", row, [3, 2, 1], iou_threshold=0.3), "best")  # 6/14 with either
    assert found.boxes[0][0] > 0
    assert found.boxes[1].tolist() == row[1]
    found = fused(nms_case("", [*row[:2], [5, 0, 15, 10]], [3, 2, 1], iou_threshold=0.3), "best")
    assert found.boxes[0].tolist() == row[0]


def test_iou_at_the_threshold() -> None:
    assert len(fused(nms_case("", [SQUARE, HALF], iou_threshold=0.5)).scores) == 2
    assert len(fused(nms_case("", [SQUARE, HALF], iou_threshold=0.5, or_equal=True)).scores) == 1


def test_a_cluster_across_classes_has_its_founders() -> None:
    found = fused(nms_case("", [SQUARE, SQUARE], [1, 2], [3, 4], across_classes=True))
    assert found.class_ids.tolist() == [4]


def test_probabilities_may_carry_weights() -> None:
    case = nms_case("", [SQUARE, [1, 1, 11, 11], FAR, FAR], [1.2, 0.3, 0.0, NAN])
    found = run(OverlapCase(case, {"fused_score": "mean", "models": 1, "classes": 5, "scale": "probability"}))
    assert found.boxes[0] == pytest.approx([0.2, 0.2, 10.2, 10.2], abs=1e-6)
    assert found.scores == pytest.approx([0.75], abs=1e-6)  # what has no weight is left out
    assert fused_probability(5.0) == 1.0


def fused_probability(score: float) -> float:
    case = nms_case("", [SQUARE], [score])
    rule = {"fused_score": "mean", "models": 1, "classes": 5, "scale": "probability"}
    return float(run(OverlapCase(case, rule)).scores[0])


whole_boxes = st.tuples(st.integers(-8, 24), st.integers(-8, 24), st.integers(0, 16), st.integers(0, 16))


@settings(derandomize=True, deadline=None, max_examples=100, database=None)
@given(
    candidates=st.lists(st.tuples(whole_boxes, st.floats(-4, 4, width=32), st.integers(0, 2)), max_size=30),
    fused_score=st.sampled_from(["mean", "best"]),
    models=st.integers(1, 4),
    iou_threshold=st.sampled_from([0.1, 0.3, 0.55, 0.7]),
    max_detections=st.integers(1, 50),
    max_per_class=st.integers(1, 50),
    inclusive_pixels=st.booleans(),
    across_classes=st.booleans(),
)
def test_any_candidates(candidates: list[Any], fused_score: str, models: int, **options: Any) -> None:
    boxes = [(x, y, x + w, y + h) for (x, y, w, h), _, _ in candidates]
    made = nms_case("any", boxes, [item[1] for item in candidates], [item[2] for item in candidates], **options)
    case = OverlapCase(made, {"fused_score": fused_score, "models": models, "classes": 3})
    assert_same_fused(as_batch(made), CudaOps(emulated_native()), **case.options())
    wanted = expected(case)
    assume(wanted.margin > CLOSE)
    assert_same(run(case), wanted)


@settings(derandomize=True, deadline=None, max_examples=40, database=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    batch=st.integers(1, 4),
    count=st.integers(1, 300),
    classes=st.integers(1, 5),
    extent=st.integers(1, 400),
    fused_score=st.sampled_from(["mean", "best"]),
    iou_threshold=st.floats(0, 1, width=32),
    max_detections=st.integers(1, 300),
    max_per_class=st.integers(1, 300),
    across_classes=st.booleans(),
    scale=st.sampled_from(["logit", "probability"]),
)
def test_cuda_any_fractions(seed: int, batch: int, count: int, classes: int, extent: int, **options: Any) -> None:
    random = np.random.default_rng(seed)
    data = [crowd(seed + i, count, classes=classes, extent=extent) for i in range(batch)]
    boxes, logits, class_ids = (np.stack(arrays) for arrays in zip(*data, strict=True))
    boxes += random.random(boxes.shape, dtype=np.float32)
    counts = random.integers(0, count + 1, batch).astype(np.int32)
    for image, behind in enumerate(counts):
        logits[image, behind:] = INF
    assert_same_fused([boxes, logits, class_ids, counts], CudaOps(emulated_native()), classes=classes, **options)


def test_cuda_finds_the_nearest_cluster_among_those_of_one_thread() -> None:
    """A thread looks at every 256th cluster. The last box overlaps clusters 0 and 256, the first of them more."""
    far = [(100 * i, 1000, 100 * i + 10, 1010) for i in range(1, 256)]
    boxes = [(0, 0, 10, 10), *far, (10, 0, 20, 10), (4, 0, 14, 10)]
    case = nms_case("", boxes, -np.arange(len(boxes)) / 64, iou_threshold=0.2, max_detections=300)
    assert_same_fused(as_batch(case), CudaOps(emulated_native()), classes=1, fused_score="mean", **case.options())
    found = fused(case)
    assert len(found.scores) == 257
    assert found.boxes[0][2] > 10  # The first cluster grew.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fused_score": "sum"}, "fused_score must be 'mean' or 'best', got 'sum'"),
        ({"scale": "percent"}, "scale must be 'logit' or 'probability', got 'percent'"),
        ({"models": 0}, "models must be "),
        ({"models": (1 << 20) + 1}, "models must be "),
        ({"classes": 0}, "classes must be 1 to 65536, got 0"),
        ({"iou_threshold": NAN}, "iou_threshold must be a number, got NaN"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_bad_arguments(changes: dict[str, Any], message: str, device: str) -> None:
    options = {"fused_score": "mean", "classes": 5, "iou_threshold": 0.5, "max_detections": 10, **changes}
    fuse: Any = _native.fuse if device == "cpu" else CudaOps(emulated_native()).fuse
    with pytest.raises(ValueError, match=message):
        fuse(*as_batch(nms_case("", [SQUARE])), **options)


def test_no_wide_cluster_is_founded_by_a_score_of_0() -> None:
    assert len(fused(nms_case("", [SQUARE, FAR], [-INF, 0])).scores) == 1


@pytest.mark.heavy
def test_is_what_ensemble_boxes_gives() -> None:
    """With one model and with three; its boxes must lie in 0..1, and its scores are rounded nowhere."""
    ensemble_boxes = pytest.importorskip("ensemble_boxes", reason="needs ensemble-boxes")
    random = np.random.default_rng(1)
    for models in (1, 3):
        lists = []
        for _ in range(models):
            corner = random.random((60, 2)) * 0.7
            boxes = np.concatenate([corner, corner + 0.05 + 0.2 * random.random((60, 2))], axis=1)
            lists.append((boxes, random.random(60), random.integers(0, 2, 60)))
        theirs = ensemble_boxes.weighted_boxes_fusion(
            *([item[i].tolist() for item in lists] for i in range(3)), iou_thr=0.55, skip_box_thr=0.0
        )
        boxes, scores, class_ids = (np.concatenate([item[i] for item in lists]) for i in range(3))
        made = nms_case("", boxes, scores, class_ids, iou_threshold=0.55)
        rule = {"fused_score": "mean", "models": models, "classes": 2, "scale": "probability"}
        ours = run(OverlapCase(made, rule))
        order = np.lexsort((theirs[0][:, 0], -theirs[1]))
        np.testing.assert_allclose(ours.scores, theirs[1][order], atol=1e-6)
        np.testing.assert_allclose(ours.boxes, theirs[0][order], atol=1e-5)
        np.testing.assert_array_equal(ours.class_ids, theirs[2][order])
