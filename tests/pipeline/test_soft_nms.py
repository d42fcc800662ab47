"""soft_nms(): against the oracle, against literals, and the CUDA kernel on the CPU against it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from cases import INF, NAN, NmsCase, crowd, nms_case
from cuda_ops import CudaOps
from cuda_parity import as_batch, assert_same_soft
from emulated_cuda import emulated_native
from hypothesis import given, settings
from hypothesis import strategies as st
from overlap_cases import FAR, HALF, SQUARE, OverlapCase, soft_cases
from reference_overlap import soft_nms as reference_soft_nms

from retinasdk import _native
from retinasdk.pipeline.rules import logit


def run(case: OverlapCase) -> tuple[list[int], list[float]]:
    kept, counts, scores = _native.soft_nms(*as_batch(case.candidates), **case.options())
    assert (kept[0, counts[0] :] == -1).all()
    return kept[0, : counts[0]].tolist(), scores[0, : counts[0]].tolist()


def soft(
    candidates: NmsCase, decay: str, *, sigma: float = 0.5, threshold: float = 0.0
) -> tuple[list[int], list[float]]:
    thresholds = np.full(5, threshold, np.float32)
    return run(OverlapCase(candidates, {"decay": decay, "sigma": sigma, "score_thresholds": thresholds}))


@pytest.mark.parametrize("case", list(soft_cases()), ids=str)
def test_is_what_the_oracle_says(case: OverlapCase) -> None:
    given = case.candidates
    assert run(case) == reference_soft_nms(given.boxes, given.logits, given.class_ids, **case.options())


@pytest.mark.parametrize("case", list(soft_cases()), ids=str)
def test_cuda(case: OverlapCase) -> None:
    assert_same_soft(as_batch(case.candidates), CudaOps(emulated_native()), **case.options())


LOGITS = [logit(0.9), logit(0.8), logit(0.7)]


def test_linear_by_hand() -> None:
    """0.9; 0.8 falls to 0.8 x (1 - 0.5) = 0.4, below the 0.7 of the box far away."""
    indices, scores = soft(nms_case("", [SQUARE, HALF, FAR], logits=LOGITS, iou_threshold=0.3), "linear")
    assert indices == [0, 2, 1]
    assert scores == pytest.approx([0.9, 0.7, 0.4], abs=1e-6)


def test_linear_leaves_alone_what_overlaps_no_more_than_the_threshold() -> None:
    indices, scores = soft(nms_case("", [SQUARE, HALF, FAR], logits=LOGITS, iou_threshold=0.5), "linear")
    assert indices == [0, 1, 2]
    assert scores == pytest.approx([0.9, 0.8, 0.7], abs=1e-6)


def test_gaussian_by_hand() -> None:
    indices, scores = soft(nms_case("", [SQUARE, HALF, FAR], logits=LOGITS, iou_threshold=1.0), "gaussian", sigma=0.5)
    assert indices == [0, 2, 1]
    assert scores == pytest.approx([0.9, 0.7, 0.8 * math.exp(-0.5)], abs=1e-6)


def test_each_better_box_lets_a_score_fall_again() -> None:
    """The third box overlaps both others by 1/3, and keeps (2/3)^2 of its 0.7."""
    row = nms_case("", [[0, 0, 10, 10], [10, 0, 20, 10], [5, 0, 15, 10]], logits=LOGITS, iou_threshold=0.3)
    indices, scores = soft(row, "linear")
    assert indices == [0, 1, 2]
    assert scores == pytest.approx([0.9, 0.8, 0.7 * 4 / 9], abs=1e-6)


def test_what_falls_to_the_threshold_is_dropped_and_what_does_not_fall_stays() -> None:
    pair = nms_case("", [SQUARE, HALF, FAR], logits=[logit(0.9), logit(0.8), logit(0.2)], iou_threshold=0.3)
    assert soft(pair, "linear", threshold=0.39)[0] == [0, 1, 2]
    assert soft(pair, "linear", threshold=0.41)[0] == [0, 2]
    twins = nms_case("", [SQUARE, SQUARE], iou_threshold=0.3)
    assert soft(twins, "linear", threshold=0.0)[0] == [0]  # 1 - IoU is 0, and 0 is not above 0


def test_each_class_has_its_threshold() -> None:
    case = nms_case("", [SQUARE, HALF, SQUARE, HALF], [2, 1, 2, 1], [0, 0, 1, 1], iou_threshold=0.3)
    rule = {"decay": "linear", "sigma": 1.0, "score_thresholds": np.array([0.5, 0.3], np.float32)}
    assert run(OverlapCase(case, rule))[0] == [0, 2, 3]


def test_without_overlaps_it_is_plain_nms() -> None:
    boxes, logits, class_ids = crowd(5, 400, classes=400, extent=4000)
    batch = as_batch(NmsCase("", boxes, logits, class_ids))
    kept, counts = _native.nms(*batch, iou_threshold=0.9999, max_detections=300)
    thresholds = np.full(400, 0.999, np.float32)  # above every score: what never falls is never asked
    soft_kept, soft_counts, scores = _native.soft_nms(
        *batch, score_thresholds=thresholds, decay="linear", sigma=1.0, iou_threshold=0.9999, max_detections=300
    )
    np.testing.assert_array_equal(soft_kept, kept)
    np.testing.assert_array_equal(soft_counts, counts)
    np.testing.assert_allclose(scores[0], 1 / (1 + np.exp(-logits[kept[0]].astype(np.float64))), rtol=1e-7)


whole_boxes = st.tuples(st.integers(-8, 24), st.integers(-8, 24), st.integers(0, 16), st.integers(0, 16))


@settings(derandomize=True, deadline=None, max_examples=100, database=None)
@given(
    candidates=st.lists(
        st.tuples(whole_boxes, st.sampled_from([-1.5, -0.0, 0.0, 2.0]), st.integers(0, 2)), max_size=70
    ),
    decay=st.sampled_from(["linear", "gaussian"]),
    sigma=st.sampled_from([0.01, 0.3, 0.5, 2.0]),
    thresholds=st.lists(st.sampled_from([0.0, 0.125, 0.5]), min_size=3, max_size=3),
    iou_threshold=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),
    max_detections=st.integers(1, 80),
    max_per_class=st.integers(1, 80),
    or_equal=st.booleans(),
    inclusive_pixels=st.booleans(),
    across_classes=st.booleans(),
)
def test_any_candidates(
    candidates: list[Any], decay: str, sigma: float, thresholds: list[float], **options: Any
) -> None:
    boxes = [(x, y, x + w, y + h) for (x, y, w, h), _, _ in candidates]
    made = nms_case("any", boxes, [item[1] for item in candidates], [item[2] for item in candidates], **options)
    rule = {"decay": decay, "sigma": sigma, "score_thresholds": np.array(thresholds, np.float32)}
    case = OverlapCase(made, rule)
    kept, scores = run(case)
    assert (kept, scores) == reference_soft_nms(made.boxes, made.logits, made.class_ids, **case.options())
    assert scores == sorted(scores, reverse=True)
    assert_same_soft(as_batch(made), CudaOps(emulated_native()), **case.options())


@settings(derandomize=True, deadline=None, max_examples=40, database=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    batch=st.integers(1, 4),
    count=st.integers(1, 300),
    classes=st.integers(1, 5),
    extent=st.integers(1, 400),
    decay=st.sampled_from(["linear", "gaussian"]),
    sigma=st.sampled_from([0.01, 0.3, 0.5, 2.0]),
    iou_threshold=st.floats(0, 1, width=32),
    max_detections=st.integers(1, 300),
    max_per_class=st.integers(1, 300),
    across_classes=st.booleans(),
)
def test_cuda_any_fractions(seed: int, batch: int, count: int, classes: int, extent: int, **options: Any) -> None:
    """Boxes between pixels, images with counts of their own, and what lies behind them is no candidate."""
    random = np.random.default_rng(seed)
    data = [crowd(seed + i, count, classes=classes, extent=extent) for i in range(batch)]
    boxes, logits, class_ids = (np.stack(arrays) for arrays in zip(*data, strict=True))
    boxes += random.random(boxes.shape, dtype=np.float32)
    counts = random.integers(0, count + 1, batch).astype(np.int32)
    for image, behind in enumerate(counts):
        logits[image, behind:] = INF
    thresholds = random.random(classes, dtype=np.float32)
    batch_of = [boxes, logits, class_ids, counts]
    assert_same_soft(batch_of, CudaOps(emulated_native()), score_thresholds=thresholds, **options)


@pytest.mark.parametrize("max_detections", [40, 1200])
def test_cuda_with_more_candidates_than_threads(max_detections: int) -> None:
    """A thread has two or three candidates, of which either the first or a later one is the best."""
    boxes, logits, class_ids = crowd(9, 1200, classes=3, extent=1500)
    batch = [np.stack([array] * 2) for array in (boxes, logits, class_ids)]
    batch[1] = np.sort(batch[1], axis=1)
    batch[1][1] = batch[1][1, ::-1]
    assert_same_soft(
        [*batch, np.array([1200, 1100], np.int32)],
        CudaOps(emulated_native()),
        score_thresholds=np.full(3, 0.05, np.float32),
        decay="gaussian",
        sigma=0.5,
        iou_threshold=0.5,
        max_detections=max_detections,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decay": "cubic"}, "decay must be 'linear' or 'gaussian', got 'cubic'"),
        ({"sigma": 0.0}, "sigma must be above 0"),
        ({"sigma": NAN}, "sigma must be above 0"),
        ({"iou_threshold": NAN}, "iou_threshold must be a number, got NaN"),
        ({"max_per_class": 0}, "max_per_class must be "),
        ({"score_thresholds": np.zeros(0, np.float32)}, "classes must be 1 to 65536, got 0"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_bad_arguments(changes: dict[str, Any], message: str, device: str) -> None:
    rule: dict[str, Any] = {"score_thresholds": np.zeros(5, np.float32), "decay": "linear", "sigma": 1.0}
    options = {**rule, "iou_threshold": 0.5, "max_detections": 10, **changes}
    soft_nms: Any = _native.soft_nms if device == "cpu" else CudaOps(emulated_native()).soft_nms
    with pytest.raises(ValueError, match=message):
        soft_nms(*as_batch(nms_case("", [SQUARE])), **options)


def test_classes_that_have_no_threshold_are_refused() -> None:
    with pytest.raises(ValueError, match="class id must be 0 to 2, got 3"):
        _native.soft_nms(
            *as_batch(nms_case("", [SQUARE], class_ids=[3])),
            score_thresholds=np.zeros(3, np.float32),
            decay="linear",
            sigma=1.0,
            iou_threshold=0.5,
            max_detections=10,
        )
