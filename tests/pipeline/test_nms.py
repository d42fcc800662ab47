"""nms(): against the oracle, against literals, and against itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import reference
from cases import INF, NAN, NmsCase, crowd, nms_case, nms_cases
from hypothesis import given, settings
from hypothesis import strategies as st

from retinasdk import _native


def run(case: NmsCase) -> list[int]:
    kept, counts = _native.nms(
        case.boxes[None],
        case.logits[None],
        case.class_ids[None],
        np.array([len(case.boxes)], dtype=np.int32),
        **case.options(),
    )
    assert (kept[0, counts[0] :] == -1).all()
    return kept[0, : counts[0]].tolist()


def expected(case: NmsCase) -> list[int]:
    return reference.nms(case.boxes, case.logits, case.class_ids, **case.options())


@pytest.mark.parametrize("case", list(nms_cases()), ids=lambda case: case.name)
def test_is_what_the_oracle_says(case: NmsCase) -> None:
    assert run(case) == expected(case)


SQUARE = [0, 0, 10, 10]


@pytest.mark.parametrize(
    ("case", "kept"),
    [
        (nms_case("empty", []), []),
        (nms_case("one", [SQUARE]), [0]),
        (nms_case("twins", [SQUARE, SQUARE]), [0]),
        (nms_case("twins, the second better", [SQUARE, SQUARE], logits=[1, 2]), [1]),
        (nms_case("twins, as good", [SQUARE, SQUARE], logits=[1, 1]), [0]),
        (nms_case("classes do not see each other", [SQUARE, SQUARE], class_ids=[0, 1]), [0, 1]),
        # 50 of 100 is exactly 0.5, and only what is above 0.5 goes.
        (nms_case("exactly the threshold", [SQUARE, [0, 0, 10, 5]], iou_threshold=0.5), [0, 1]),
        (nms_case("just above it", [SQUARE, [0, 0, 10, 5.001]], iou_threshold=0.5), [0]),
        # 1/3 of the union; with the old "+ 1" widths it would be 66 / 176 = 0.375.
        (nms_case("no + 1", [SQUARE, [5, 0, 15, 10]], iou_threshold=0.35), [0, 1]),
        (nms_case("+ 1", [SQUARE, [5, 0, 15, 10]], iou_threshold=0.35, inclusive_pixels=True), [0]),
        (nms_case("+ 1, just below", [SQUARE, [5, 0, 15, 10]], iou_threshold=0.376, inclusive_pixels=True), [0, 1]),
        (nms_case("a pixel each", [[5, 5, 5, 5], [5, 5, 5, 5]], inclusive_pixels=True), [0]),
        (
            nms_case(
                "neighbours share a column of pixels",
                [SQUARE, [10, 0, 20, 10]],
                iou_threshold=0.0,
                inclusive_pixels=True,
            ),
            [0],
        ),
        (
            nms_case("neighbours share none", [SQUARE, [11, 0, 20, 10]], iou_threshold=0.0, inclusive_pixels=True),
            [0, 1],
        ),
        (nms_case("exactly the threshold goes, too", [SQUARE, [0, 0, 10, 5]], or_equal=True), [0]),
        (nms_case("just below the threshold stays", [SQUARE, [0, 0, 10, 4.999]], or_equal=True), [0, 1]),
        (
            nms_case("at 0 only one of a class is left", [SQUARE, [50, 0, 60, 10]], iou_threshold=0.0, or_equal=True),
            [0],
        ),
        (nms_case("touching", [SQUARE, [10, 0, 20, 10]], iou_threshold=0.0), [0, 1]),
        (nms_case("chain", [SQUARE, [3, 0, 13, 10], [6, 0, 16, 10]]), [0, 2]),
        (nms_case("+infinity is best", [SQUARE, [20, 0, 30, 10]], logits=[5, INF]), [1, 0]),
        (nms_case("NaN logits are left out", [SQUARE, SQUARE], logits=[NAN, -5]), [1]),
        (nms_case("no NaN box keeps or drops", [[NAN, 0, 10, 10], SQUARE]), [1]),
        (nms_case("no infinite box keeps or drops", [[-INF, -INF, INF, INF], SQUARE]), [1]),
        (nms_case("best first", [SQUARE, [20, 0, 30, 10], [40, 0, 50, 10]], logits=[2, 1, 3]), [2, 0, 1]),
        (nms_case("stops", [SQUARE, [20, 0, 30, 10], [40, 0, 50, 10]], logits=[2, 1, 3], max_detections=2), [2, 0]),
    ],
    ids=lambda value: value.name if isinstance(value, NmsCase) else "",
)
def test_by_hand(case: NmsCase, kept: list[int]) -> None:
    assert run(case) == kept


def test_images_have_their_own_counts_and_nothing_behind_them_matters() -> None:
    boxes, logits, class_ids = crowd(30, 200, classes=3)
    counts = np.array([200, 0, 63, 1], dtype=np.int32)
    batch = [np.stack([array] * 4) for array in (boxes, logits, class_ids)]
    for image, count in enumerate(counts):
        batch[0][image, count:] = NAN
        batch[1][image, count:] = INF
        batch[2][image, count:] = -7
    kept, kept_counts = _native.nms(*batch, counts, iou_threshold=0.5, max_detections=300)
    assert kept.shape == (4, 200)  # never more room than candidates
    for image, count in enumerate(counts):
        alone = NmsCase("alone", boxes[:count], logits[:count], class_ids[:count])
        assert kept[image, : kept_counts[image]].tolist() == expected(alone)


def test_a_smaller_max_detections_gives_the_beginning() -> None:
    data = crowd(31, 800, classes=4, extent=400)
    everything = run(NmsCase("all", *data, max_detections=800))
    assert len(everything) > 100
    for maximum in (1, 63, 64, 65, 100):
        assert run(NmsCase("some", *data, max_detections=maximum)) == everything[:maximum]


def test_the_order_of_candidates_matters_for_ties_only() -> None:
    boxes, _, class_ids = crowd(32, 300, classes=2)
    random = np.random.default_rng(33)
    logits = random.permutation(300).astype(np.float32)
    order = random.permutation(300)
    shuffled = run(NmsCase("shuffled", boxes[order], logits[order], class_ids[order]))
    assert order[shuffled].tolist() == run(NmsCase("as they were", boxes, logits, class_ids))


whole_boxes = st.tuples(st.integers(-8, 24), st.integers(-8, 24), st.integers(0, 16), st.integers(0, 16))
few_logits = st.sampled_from([-1.5, -0.0, 0.0, 2.0])


@settings(derandomize=True, deadline=None, max_examples=200, database=None)
@given(
    candidates=st.lists(
        st.tuples(whole_boxes, st.sampled_from([-1.5, -0.0, 0.0, 2.0]), st.integers(0, 2)), max_size=70
    ),
    # Thresholds that float32 holds exactly, so that the oracle's float64 meets the same ties.
    iou_threshold=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),
    max_detections=st.integers(1, 80),
    or_equal=st.booleans(),
    inclusive_pixels=st.booleans(),
)
def test_any_candidates(
    candidates: list[Any], iou_threshold: float, max_detections: int, or_equal: bool, inclusive_pixels: bool
) -> None:
    boxes = [(x, y, x + w, y + h) for (x, y, w, h), _, _ in candidates]
    case = nms_case(
        "any",
        boxes,
        [logit for _, logit, _ in candidates],
        [class_id for _, _, class_id in candidates],
        iou_threshold=iou_threshold,
        max_detections=max_detections,
        or_equal=or_equal,
        inclusive_pixels=inclusive_pixels,
    )
    kept = run(case)
    assert kept == expected(case)
    # What is kept is ordered, and no two of a class overlap more than allowed: true without the oracle's loop too.
    ranks = [(-case.logits[i], i) for i in kept]
    assert ranks == sorted(ranks)
    for place, i in enumerate(kept):
        same = [j for j in kept[:place] if case.class_ids[j] == case.class_ids[i]]
        others = case.boxes[same].astype(np.float64).reshape(-1, 4)
        overlaps = reference.iou(case.boxes[i].astype(np.float64), others, inclusive_pixels=inclusive_pixels)
        assert (overlaps < iou_threshold if or_equal else overlaps <= iou_threshold).all()


def arguments(**changes: Any) -> tuple[list[npt.NDArray[Any]], dict[str, Any]]:
    arrays: dict[str, Any] = {
        "boxes": np.zeros((1, 5, 4), dtype=np.float32),
        "logits": np.zeros((1, 5), dtype=np.float32),
        "class_ids": np.zeros((1, 5), dtype=np.int32),
        "counts": np.array([5], dtype=np.int32),
    }
    options: dict[str, Any] = {"iou_threshold": 0.5, "max_detections": 10}
    for name, value in changes.items():
        (arrays if name in arrays else options)[name] = value
    return list(arrays.values()), options


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"boxes": np.zeros((1, 5, 5), np.float32)},
            r"boxes must be \(N, C, 4\) float32, C-cont.* got \(1, 5, 5\)",
        ),
        ({"boxes": np.zeros((1, 5, 4))}, r"boxes must be .* got \(1, 5, 4\) float64"),
        ({"logits": np.zeros((1, 6), np.float32)}, r"logits must be \(N, C\) float32.* got \(1, 6\)"),
        ({"class_ids": np.zeros((1, 5), np.int64)}, r"class_ids must be \(N, C\) int32.* got \(1, 5\) int64"),
        ({"counts": np.zeros(2, np.int32)}, r"counts must be \(N,\) int32.* got \(2,\)"),
        ({"counts": np.array([6], np.int32)}, "candidate count must be 0 to 5, got 6"),
        ({"counts": np.array([-1], np.int32)}, "candidate count must be 0 to 5, got -1"),
        ({"class_ids": np.full((1, 5), -1, np.int32)}, "class id must be 0 to 65535, got -1"),
        ({"class_ids": np.full((1, 5), 65_536, np.int32)}, "class id must be 0 to 65535, got 65536"),
        ({"max_detections": 0}, "max_detections must be at least 1, got 0"),
        ({"iou_threshold": NAN}, "iou_threshold must be a number, got NaN"),
    ],
)
def test_bad_arguments(changes: dict[str, Any], message: str) -> None:
    arrays, options = arguments(**changes)
    with pytest.raises(ValueError, match=message):
        _native.nms(*arrays, **options)


def test_arguments_of_the_wrong_type() -> None:
    arrays, options = arguments(boxes=[[SQUARE]])
    with pytest.raises(TypeError, match=r"boxes must be \(N, C, 4\) float32, got <class 'list'>"):
        _native.nms(*arrays, **options)
