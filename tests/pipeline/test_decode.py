"""decode(): against the oracle, against boxes computed by hand, and against itself."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cases import BASE, CLAMP_MAX, INF, NAN, DecodeCase, decode_cases, random_heads, sprinkled, with_rules
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import anchors

from retinasdk import ModelError, _native
from retinasdk.convert.flavours import flavour_spec
from retinasdk.pipeline.postprocess import decode
from retinasdk.pipeline.preprocess import Transform
from retinasdk.pipeline.rules import logit
from retinasdk.pipeline.types import HeadOutputs

Decoded = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int32], npt.NDArray[np.int32]]


def run(case: DecodeCase) -> Decoded:
    return _native.decode(case.logits, case.deltas, case.base_anchors, **case.options())


def found(decoded: Decoded, image: int = 0) -> tuple[npt.NDArray[Any], ...]:
    """(boxes, logits, class_ids) of one image without the unused room."""
    boxes, logits, class_ids, counts = decoded
    return tuple(array[image, : counts[image]] for array in (boxes, logits, class_ids))


def assert_same(one: Decoded, other: Decoded) -> None:
    """Bit for bit, in what the counts say is there."""
    np.testing.assert_array_equal(one[3], other[3])
    for image in range(len(one[3])):
        for mine, theirs in zip(found(one, image), found(other, image), strict=True):
            assert mine.tobytes() == theirs.tobytes()


def assert_as_expected(case: DecodeCase) -> None:
    decoded = run(case)
    for image in range(case.batch):
        expected = case.expected(image)
        boxes, logits, class_ids = found(decoded, image)
        np.testing.assert_array_equal(logits, expected.logits.astype(np.float32))
        np.testing.assert_array_equal(class_ids, expected.class_ids)
        # float32 keeps 24 bits of the larger of box and centre.
        np.testing.assert_allclose(boxes, expected.boxes, rtol=2e-6, atol=1e-3)


@pytest.mark.parametrize("case", list(decode_cases()), ids=lambda case: case.name)
def test_is_what_the_oracle_says(case: DecodeCase) -> None:
    assert_as_expected(case)


def one_cell(deltas: list[float], **options: Any) -> npt.NDArray[np.float32]:
    """The box of one anchor 32 wide and 16 high around (0, 0), unclipped unless options say so."""
    arguments: dict[str, Any] = {
        "strides": [(8.0, 8.0)],
        "clip_sizes": np.full((1, 2), -1.0, dtype=np.float32),
        "logit_threshold": 0.0,
        "top_k": 1,
        "coder_weights": (1.0, 1.0, 1.0, 1.0),
        "coder_clamp_max": CLAMP_MAX,
        "class_ids": [],
    }
    decoded = _native.decode(
        [np.ones((1, 1, 1, 1), dtype=np.float32)],
        [np.array(deltas, dtype=np.float32).reshape(1, 4, 1, 1)],
        [np.array([[-16, -8, 16, 8]], dtype=np.float32)],
        **{**arguments, **options},
    )
    return found(decoded)[0]


KERAS = {"coder_kind": "corner", "coder_weights": (5.0, 5.0, 5.0, 5.0)}


@pytest.mark.parametrize(
    ("deltas", "options", "box"),
    [
        ([0, 0, 0, 0], {}, [-16, -8, 16, 8]),
        ([0.5, -0.25, 0, 0], {}, [0, -12, 32, 4]),
        ([0, 0, math.log(2), math.log(0.5)], {}, [-32, -4, 32, 4]),
        ([5, 0, 0, 0], {"coder_weights": (10.0, 10.0, 5.0, 5.0)}, [0, -8, 32, 8]),
        ([0, 0, 5 * math.log(2), 0], {"coder_weights": (10.0, 10.0, 5.0, 5.0)}, [-32, -8, 32, 8]),
        # The clamp is ln(1000 / 16), so a side grows by 62.5 at the most: 32 -> 2000 and 16 -> 1000.
        ([0, 0, 9, 9], {}, [-1000, -500, 1000, 500]),
        ([0, 0, INF, 4.2], {}, [-1000, -500, 1000, 500]),
        ([0, 0, math.log(100), 0], {"coder_clamp_max": INF}, [-1600, -8, 1600, 8]),
        ([0, 0, -INF, 0], {}, [0, -8, 0, 8]),  # only bounded from above
        # mmdetection bounds from below, too: a side shrinks to 32 / 62.5 and 16 / 62.5 at the least.
        ([0, 0, -9, -INF], {"coder_clamp_min": -CLAMP_MAX}, [-0.256, -0.128, 0.256, 0.128]),
        ([0, 0, 9, -9], {"coder_clamp_min": -CLAMP_MAX}, [-1000, -0.128, 1000, 0.128]),
        ([2, 0, 0, 0], {"coder_weights": (4.0, 1.0, 1.0, 1.0), "coder_means": (0.5, 0.25, 0.0, 0.0)}, [16, -4, 48, 12]),
        # keras-retinanet: corners move by 0.2 of a side, without exp(), whatever the clamp.
        ([1, 1, 1, 1], KERAS, [-9.6, -4.8, 22.4, 11.2]),
        ([-5, 0, 5, 0], KERAS, [-48, -8, 48, 8]),
        ([0, 0, -5, -5], KERAS, [-16, -8, -16, -8]),
        ([0, 0, -10, 0], KERAS, [-16, -8, -48, 8]),  # crossed corners stay as they are
        ([1, 0, 1, 0], {**KERAS, "coder_means": (0.3, 0.0, 0.3, 0.0)}, [0, -8, 32, 8]),
        # ODTK: the anchor's pixels -16..16 are 33, its centre lies at 0.5, and x2 is the last pixel again.
        ([0, 0, 0, 0], {"inclusive_pixels": True}, [-16, -8, 16, 8]),
        ([1, 0, 0, 0], {"inclusive_pixels": True}, [17, -8, 49, 8]),
        ([0, 0, math.log(2), math.log(3)], {"inclusive_pixels": True}, [-32.5, -25, 32.5, 25]),
        ([0, 0, -INF, 0], {"inclusive_pixels": True}, [0.5, -8, -0.5, 8]),
        ([0, 0, 0, 0], {"clip_sizes": np.array([[6, 12]], dtype=np.float32)}, [0, 0, 12, 6]),
        ([9, 9, 0, 0], {"clip_sizes": np.array([[6, 12]], dtype=np.float32)}, [12, 6, 12, 6]),
        ([0, 0, 0, 0], {"clip_sizes": np.array([[-1, 12]], dtype=np.float32)}, [0, -8, 12, 8]),
        ([0, 0, 0, 0], {"clip_sizes": np.array([[6, -1]], dtype=np.float32)}, [-16, 0, 16, 6]),
    ],
)
def test_boxes_computed_by_hand(deltas: list[float], options: dict[str, Any], box: list[float]) -> None:
    np.testing.assert_allclose(one_cell(deltas, **options), [box], rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(
    ("deltas", "options", "is_left"),
    [
        ([0, 0, 0, 0], {}, True),
        ([0, 0, -INF, 0], {}, False),
        ([0, 0, 0, -INF], {}, False),
        ([0, 0, -INF, 0], {"coder_clamp_min": -CLAMP_MAX}, True),
        ([9, 0, 0, 0], {"clip_sizes": np.array([[6, 12]], dtype=np.float32)}, False),  # all of it beyond the edge
        ([-0.5, 0, 0, 0], {"clip_sizes": np.array([[6, 12]], dtype=np.float32)}, False),  # it ends at the edge
        ([-0.25, 0, 0, 0], {"clip_sizes": np.array([[6, 12]], dtype=np.float32)}, True),
        ([0, 0, -10, 0], KERAS, False),  # crossed corners
        (
            [9, 0, 0, 0],
            {"inclusive_pixels": True, "clip_sizes": np.array([[6, 12]], dtype=np.float32)},
            True,
        ),  # one pixel wide
        ([0, 0, -INF, 0], {"inclusive_pixels": True}, False),
    ],
)
def test_boxes_without_area_are_dropped_where_that_is_asked(
    deltas: list[float], options: dict[str, Any], is_left: bool
) -> None:
    assert len(one_cell(deltas, **options)) == 1
    assert len(one_cell(deltas, drop_empty=True, **options)) == is_left


@pytest.mark.parametrize(
    ("threshold", "above", "at_or_above"),
    [
        (-INF, [-2, 0, 0, 1, INF], [-2, 0, 0, 1, INF]),  # there is no logit of -infinity to speak of
        (-2.0, [0, 0, 1, INF], [-2, 0, 0, 1, INF]),
        (0.0, [1, INF], [0, 0, 1, INF]),
        (-0.0, [1, INF], [0, 0, 1, INF]),
        (float(np.nextafter(np.float32(0), np.float32(1))), [1, INF], [1, INF]),
        (1.0, [INF], [1, INF]),
        (float(np.nextafter(np.float32(1), np.float32(2))), [INF], [INF]),
        (INF, [], [INF]),
    ],
)
def test_logits_at_the_threshold(threshold: float, above: list[float], at_or_above: list[float]) -> None:
    case = random_heads(57, sizes=[(1, 7)], anchors=1, classes=1, top_k=7, logit_threshold=threshold)
    case.logits[0][0, 0, 0] = [-INF, -2, -0.0, 0.0, 1, INF, NAN]
    assert sorted(found(run(case))[1].tolist()) == above
    assert sorted(found(run(replace(case, or_equal=True)))[1].tolist()) == at_or_above


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("value", [NAN, INF, -INF, 3e38])
def test_boxes_that_are_not_finite_are_dropped(position: int, value: float) -> None:
    deltas = [0.0, 0.0, 0.0, 0.0]
    deltas[position] = value
    boxes = one_cell(deltas, coder_clamp_max=INF)
    shrinks = position >= 2 and value == -INF  # exp(-infinity) is 0: a box without area, yet finite
    assert len(boxes) == (1 if shrinks else 0)


def test_a_dropped_box_leaves_no_gap_and_is_not_replaced() -> None:
    case = random_heads(50, sizes=[(1, 4)], anchors=1, classes=1, top_k=3, logit_threshold=-9.0)
    case.logits[0][0, 0, 0] = [4, 3, 2, 1]
    case.deltas[0][0, 2, 0, 1] = NAN  # of the second best
    np.testing.assert_array_equal(found(run(case))[1], [4, 2])


@pytest.mark.parametrize(
    ("padded", "strides"),
    # Flavours with stride None: padded side // cells, for each axis.
    [((800, 800), [(8, 8), (16, 16), (32, 32), (61, 61), (114, 114)]),
     ((800, 1344), [(8, 8), (16, 16), (32, 32), (61, 64), (114, 122)]),
     ((480, 640), [(8, 8), (16, 16), (32, 32), (60, 64), (120, 128)])],
)  # fmt: skip
def test_anchors_of_torchvision_by_index(padded: tuple[int, int], strides: list[tuple[int, int]]) -> None:
    spec = flavour_spec("torchvision", labels=["thing"])
    sizes = [padded]
    for _ in range(7):
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    heads = HeadOutputs(
        tuple(np.zeros((1, 9, *size), dtype=np.float32) for size in sizes[3:]),
        tuple(np.zeros((1, 36, *size), dtype=np.float32) for size in sizes[3:]),
    )
    spec = spec.replace(clip="none", top_k=9 * sizes[3][0] * sizes[3][1])
    candidates = decode(heads, spec, [Transform(padded, padded, padded)], score_threshold=0.1)
    start = 0
    for level, stride, size in zip(spec.levels, strides, sizes[3:], strict=True):
        # Equal logits come in the order of the anchors.
        expected = anchors(np.array(level.base_anchors), stride, *size)
        np.testing.assert_array_equal(candidates.boxes[0, start : start + len(expected)], expected)
        start += len(expected)
    assert start == candidates.counts[0]


def test_listing_every_class_changes_nothing() -> None:
    case = sprinkled(random_heads(51, batch=3, classes=6, sizes=[(9, 11), (3, 3)], top_k=100), 52)
    assert_same(run(case), run(replace(case, class_ids=[0, 1, 2, 3, 4, 5])))
    assert_same(run(case), run(replace(case, class_ids=[5, 0, 3, 1, 4, 2])))


def test_one_class_is_what_a_network_of_one_class_gives() -> None:
    case = random_heads(53, batch=3, anchors=3, classes=6, sizes=[(9, 11)], top_k=50)
    only = [logits.reshape(3, 3, 6, 9, 11)[:, :, 4].copy() for logits in case.logits]
    boxes, logits, class_ids, counts = run(replace(case, class_ids=[4]))
    assert set(class_ids[0, : counts[0]]) == {4}
    assert_same((boxes, logits, class_ids * 0, counts), run(replace(case, logits=only)))


def test_images_of_a_batch_do_not_see_each_other() -> None:
    case = sprinkled(random_heads(54, batch=3), 55)
    together = run(case)
    for image in range(3):
        alone = replace(
            case,
            logits=[array[image : image + 1].copy() for array in case.logits],
            deltas=[array[image : image + 1].copy() for array in case.deltas],
            clip_sizes=case.clip_sizes[image : image + 1],
        )
        assert_same(tuple(array[image : image + 1] for array in together), run(alone))


@pytest.mark.parametrize("cells", [1, 7, 8, 9, 31, 32, 33, 63, 64, 65, 4095, 4096, 4097, 8193])
def test_the_filter_sees_each_logit_once(cells: int) -> None:
    """Lengths around the widths of vectors and chunks, at odd addresses."""
    random = np.random.default_rng(cells)
    storage = random.normal(0.0, 1.0, cells + 1).astype(np.float32)
    storage[random.random(cells + 1) < 0.1] = NAN
    for start in (0, 1):
        logits = storage[start : start + cells]
        case = random_heads(56, sizes=[(1, cells)], anchors=1, classes=1, top_k=cells)
        case = replace(case, logits=[logits.reshape(1, 1, 1, cells)], logit_threshold=0.25)
        expected = np.sort(logits[logits > 0.25])[::-1]
        np.testing.assert_array_equal(found(run(case))[1], expected)


@settings(derandomize=True, deadline=None, max_examples=120, database=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    batch=st.integers(1, 3),
    anchor_count=st.integers(1, 9),
    classes=st.integers(1, 12),
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4),
    top_k=st.integers(1, 60),
    steps=st.sampled_from([2, 16, 1 << 20]),
    threshold=st.sampled_from([-INF, -3.0, 0.0, 1.5]),
    rules=st.none() | st.integers(0, 2**32 - 1),
)
def test_any_heads(
    seed: int,
    batch: int,
    anchor_count: int,
    classes: int,
    sizes: list[tuple[int, int]],
    top_k: int,
    steps: int,
    threshold: float,
    rules: int | None,
) -> None:
    case = random_heads(seed, batch=batch, anchors=anchor_count, classes=classes, sizes=sizes, top_k=top_k)
    coarse = [np.round(logits * steps) / np.float32(steps) for logits in case.logits]  # few steps: many ties
    case = replace(case, logits=coarse, logit_threshold=threshold)
    assert_as_expected(case if rules is None else with_rules(case, rules))


def test_the_logit_of_a_score() -> None:
    assert logit(0.5) == 0.0
    assert logit(0.05) == pytest.approx(-2.9444389791664403)
    assert (logit(0.0), logit(1.0)) == (-INF, INF)


def broken(**changes: Any) -> DecodeCase:
    return replace(random_heads(60, sizes=[(2, 2)], anchors=3, classes=2), **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": []}, "need one entry for each level, got 0, 1, 1 and 1"),
        ({"logits": [np.zeros((1, 6, 2, 2))]}, r"logits of level 0 must be .* float32, .*float64"),
        ({"logits": [np.zeros((1, 6, 2), np.float32)]}, r"logits of level 0 must be \(N, A \* K, H, W\)"),
        ({"logits": [np.zeros((1, 6, 2, 4), np.float32)[..., ::2]]}, r"C-contiguous; got \(1, 6, 2, 2\)"),
        ({"logits": [np.zeros((1, 7, 2, 2), np.float32)]}, "a multiple of the 3 base anchors, got 7 channels"),
        ({"deltas": [np.zeros((1, 12, 2, 3), np.float32)]}, r"deltas of level 0 .* got \(1, 12, 2, 3\)"),
        ({"deltas": [np.zeros((2, 12, 2, 2), np.float32)]}, r"deltas of level 0 .* got \(2, 12, 2, 2\)"),
        ({"base_anchors": [BASE[:, :3].copy()]}, r"base_anchors of level 0 must be \(A, 4\)"),
        ({"clip_sizes": np.zeros((2, 2), np.float32)}, r"clip_sizes must be \(N, 2\) float32.*got \(2, 2\)"),
        ({"top_k": 0}, "top_k must be 1 to 1048576, got 0"),
        ({"top_k": (1 << 20) + 1}, "top_k must be 1 to 1048576, got 1048577"),
        ({"top_k": 2**31 - 1}, "top_k must be 1 to 1048576, got 2147483647"),
        ({"logit_threshold": NAN}, "logit_threshold must be a number, got NaN"),
        ({"coder_weights": (1.0, 1.0, 0.0, 1.0)}, "box coder weights must be above 0"),
        ({"coder_means": (0.0, 0.0, INF, 0.0)}, "box coder means must be finite"),
        ({"coder_kind": "corners"}, "coder_kind must be 'center' or 'corner', got 'corners'"),
        ({"class_ids": [2]}, "class id must be 0 to 1, got 2"),
        ({"class_ids": [-1]}, "class id must be 0 to 1, got -1"),
        ({"class_thresholds": np.zeros(3, np.float32)}, r"class_thresholds must be \(K,\) float32.* got \(3,\)"),
        ({"class_thresholds": np.zeros(2)}, r"class_thresholds must be \(K,\) float32.* got \(2,\) float64"),
        ({"ignored": np.zeros((2, 1, 4), np.float32)}, r"ignored must be \(N, R, 4\) float32.* got \(2, 1, 4\)"),
    ],
)
def test_bad_arguments(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(broken(**changes))


def test_arguments_of_the_wrong_type() -> None:
    with pytest.raises(TypeError, match=r"logits of level 0 must be .* float32, got <class 'list'>"):
        run(broken(logits=[[[1.0]]]))


def test_heads_that_do_not_fit_the_spec() -> None:
    spec = flavour_spec("torchvision", labels=["a", "b"])
    heads = HeadOutputs(
        tuple(np.zeros((1, 9, 1, 1), dtype=np.float32) for _ in range(5)),
        tuple(np.zeros((1, 36, 1, 1), dtype=np.float32) for _ in range(5)),
    )
    with pytest.raises(
        ModelError, match=r"logits_p3 must have 9 anchors x 2 classes = 18 channels, got \(1, 9, 1, 1\)"
    ):
        decode(heads, spec, [Transform((8, 8), (8, 8), (32, 32))], score_threshold=0.5)
