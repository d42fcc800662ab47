"""Compares the CUDA kernels, run on the CPU, with the CPU's functions: the results are equal bit for bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cases import (
    INF,
    NAN,
    DecodeCase,
    NmsCase,
    crowd,
    decode_cases,
    image,
    nms_cases,
    random_heads,
    sprinkled,
    with_logits,
    with_rules,
)
from cuda_ops import CudaOps
from cuda_parity import MEAN, SIZES, STD, assert_same_candidates, assert_same_kept, halved, one_image
from emulated_cuda import emulated_native
from hypothesis import given, settings
from hypothesis import strategies as st

from retinasdk import _native


@pytest.fixture(scope="module")
def cuda() -> CudaOps:
    return CudaOps(emulated_native())


@pytest.fixture(scope="module")
def cuda_half() -> CudaOps:
    return CudaOps(emulated_native(), half=True)


# -- decode ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", list(decode_cases()), ids=lambda case: case.name)
def test_decode(case: DecodeCase, cuda: CudaOps, cuda_half: CudaOps) -> None:
    assert_same_candidates(case, cuda)
    assert_same_candidates(halved(case), cuda_half)


@pytest.mark.parametrize("padding", [3])
@pytest.mark.parametrize("case", list(decode_cases()), ids=lambda case: case.name)
def test_channels_last(case: DecodeCase, padding: int) -> None:
    assert_same_candidates(case, CudaOps(emulated_native(), padding=padding))
    assert_same_candidates(halved(case), CudaOps(emulated_native(), half=True, padding=padding))


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
@pytest.mark.parametrize("sizes", [[(1, 1)], [(1, 3), (5, 7), (1, 1)], [(9, 13), (5, 7), (3, 4), (2, 2), (1, 1)]])
def test_logits_of_images_that_begin_inside_a_vector(
    batch: int, sizes: list[tuple[int, int]], cuda: CudaOps, cuda_half: CudaOps
) -> None:
    for anchors, classes in ((1, 1), (3, 1), (1, 5), (9, 3)):
        case = random_heads(batch, batch=batch, anchors=anchors, classes=classes, sizes=sizes)
        assert_same_candidates(case, cuda)
        assert_same_candidates(halved(case), cuda_half)


@pytest.mark.heavy
@pytest.mark.parametrize("padding", [None, 3])
def test_more_candidates_than_the_buffer_holds(padding: int | None) -> None:
    """101,250 candidates pass, but the buffer holds 55,296 to 98,304, depending on top_k."""
    random = np.random.default_rng(3)
    cuda = CudaOps(emulated_native(), padding=padding)
    cuda_half = CudaOps(emulated_native(), half=True, padding=padding)
    case = random_heads(70, batch=2, anchors=9, classes=5, sizes=[(50, 45), (3, 3)], logit_threshold=-INF)
    pairs = case.logits[0][0].size
    assert pairs > 98_304
    fewer = np.where(np.arange(pairs) < 30_000, 0.5, -INF)
    for logits in (
        random.normal(size=pairs),
        np.zeros(pairs),
        np.arange(pairs) / 64,
        -np.arange(pairs) / 64,
        random.integers(0, 2, pairs),
    ):
        for top_k in (1, 2500) if padding else (1000, 4000):
            crowded = with_logits(case, logits.astype(np.float32), top_k=top_k)
            assert_same_candidates(crowded, cuda)
            assert cuda.rescans == [1, 1]
            assert_same_candidates(halved(crowded), cuda_half)
    # Only one image of the two is crowded.
    mixed = with_logits(case, random.normal(size=pairs).astype(np.float32))
    mixed.logits[0][1] = fewer.astype(np.float32).reshape(mixed.logits[0][1].shape)
    assert_same_candidates(mixed, cuda)
    assert cuda.rescans == [1, 0]


@pytest.mark.heavy
def test_the_buffer_grows_with_the_level(cuda: CudaOps) -> None:
    """The buffer holds one in 64 of 4,320,000 candidates, in whole segments of 5120: enough for a crowded photo."""
    case = random_heads(72, anchors=9, classes=12, sizes=[(200, 200)], logit_threshold=-INF)
    pairs = case.logits[0][0].size
    random = np.random.default_rng(4)
    values = random.normal(size=pairs).astype(np.float32)
    places = random.permutation(pairs)
    for passing, rescans in ((50_000, [0]), (71_680, [0]), (71_681, [1])):
        logits = np.full(pairs, -INF, np.float32)
        logits[places[:passing]] = values[:passing]
        assert_same_candidates(with_logits(case, logits), cuda)
        assert cuda.rescans == rescans


def test_three_hundred_thousand_anchors(cuda: CudaOps) -> None:
    case = random_heads(71, anchors=9, classes=1, sizes=[(160, 160), (80, 80), (40, 40), (20, 20), (10, 10)])
    assert sum(array.size for array in case.logits) == 306_900
    assert_same_candidates(replace(case, logit_threshold=3.0), cuda)


# parity_cuda runs hundreds of random cases more, without Python; these also go through the bindings.
@pytest.mark.heavy
@settings(derandomize=True, deadline=None, max_examples=50, database=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    batch=st.integers(1, 8),
    anchors=st.integers(1, 9),
    classes=st.integers(1, 12),
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5),
    top_k=st.integers(1, 60),
    steps=st.sampled_from([2, 16, 1 << 20]),
    threshold=st.sampled_from([-INF, -3.0, 0.0, 1.5]),
    clamp_max=st.sampled_from([4.135166556742356, 0.5, INF]),
    some_classes=st.booleans(),
    rules=st.none() | st.integers(0, 2**32 - 1),
    hostile=st.booleans(),
    half=st.booleans(),
)
def test_any_heads(
    seed: int,
    steps: int,
    threshold: float,
    clamp_max: float,
    some_classes: bool,
    rules: int | None,
    hostile: bool,
    half: bool,
    **shape: Any,
) -> None:
    case = random_heads(seed, **shape)
    coarse = [np.round(logits * steps) / np.float32(steps) for logits in case.logits]
    class_ids = list(range(0, shape["classes"], 2)) if some_classes else []
    case = replace(case, logits=coarse, logit_threshold=threshold, coder_clamp_max=clamp_max, class_ids=class_ids)
    if rules is not None:
        case = with_rules(case, rules)
    if hostile:
        case = sprinkled(case, seed)
    assert_same_candidates(halved(case) if half else case, CudaOps(emulated_native(), half=half))


# -- NMS ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", list(nms_cases()), ids=lambda case: case.name)
def test_nms(case: NmsCase, cuda: CudaOps) -> None:
    assert_same_kept(one_image(case), cuda, **case.options())


@pytest.mark.parametrize("count", [1, 31, 32, 33, 255, 256, 257, 511, 513, 2047, 2048, 2049, 5000])
def test_sizes_around_warps_and_tiles(count: int, cuda: CudaOps) -> None:
    data = NmsCase("crowd", *crowd(count, count, classes=3, extent=40 + count // 4))
    for maximum in (1, 7, 300, count):
        assert_same_kept(one_image(data), cuda, iou_threshold=0.5, max_detections=maximum)


def test_the_limit_is_reached_before_the_last_batch(cuda: CudaOps) -> None:
    """The best 1024 of these 2000 boxes are kept, then 76 of the next 512. Nothing suppresses anything."""
    corners = 20 * np.stack(np.divmod(np.arange(2000), 50), axis=1).astype(np.float32)
    boxes = np.concatenate([corners, corners + 10], axis=1)
    logits = np.random.default_rng(6).normal(size=2000).astype(np.float32)
    data = NmsCase("apart", boxes, logits, np.zeros(2000, np.int32))
    assert_same_kept(one_image(data), cuda, iou_threshold=0.5, max_detections=1100)


def test_images_of_a_batch_have_their_own_counts(cuda: CudaOps) -> None:
    boxes, logits, class_ids = crowd(30, 600, classes=3)
    counts = np.array([600, 0, 63, 1, 257, 599, 300, 2], dtype=np.int32)
    batch = [np.stack([array] * len(counts)) for array in (boxes, logits, class_ids)]
    for i, count in enumerate(counts):
        batch[0][i, count:] = NAN
        batch[1][i, count:] = INF
    assert_same_kept([*batch, counts], cuda, iou_threshold=0.5, max_detections=300)


@pytest.mark.heavy
@settings(derandomize=True, deadline=None, max_examples=100, database=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    batch=st.integers(1, 8),
    count=st.integers(1, 400),
    classes=st.integers(1, 5),
    extent=st.integers(1, 400),
    iou_threshold=st.floats(0, 1, width=32),
    max_detections=st.integers(1, 500),
    fractions=st.booleans(),
    or_equal=st.booleans(),
    inclusive_pixels=st.booleans(),
)
def test_any_candidates(
    seed: int,
    batch: int,
    count: int,
    classes: int,
    extent: int,
    iou_threshold: float,
    max_detections: int,
    fractions: bool,
    or_equal: bool,
    inclusive_pixels: bool,
) -> None:
    random = np.random.default_rng(seed)
    data = [crowd(seed + i, count, classes=classes, extent=extent) for i in range(batch)]
    boxes, logits, class_ids = (np.stack(arrays) for arrays in zip(*data, strict=True))
    if fractions:
        boxes += random.random(boxes.shape, dtype=np.float32)
    counts = random.integers(0, count + 1, batch).astype(np.int32)
    assert_same_kept(
        [boxes, logits, class_ids, counts],
        CudaOps(emulated_native()),
        iou_threshold=iou_threshold,
        max_detections=max_detections,
        or_equal=or_equal,
        inclusive_pixels=inclusive_pixels,
    )


# -- preprocess --------------------------------------------------------------------------------------------------------


def assert_same_canvas(
    picture: npt.NDArray[np.uint8], resized: tuple[int, int], padded: tuple[int, int], **options: Any
) -> None:
    wanted = np.empty((3, *padded), np.float32)
    arguments = {"resized": resized, "mean": MEAN, "std": STD, **options}
    _native.preprocess_into(picture, wanted, **arguments)
    for half, dtype in ((False, np.float32), (True, np.float16)):
        canvas = np.empty(wanted.shape, dtype)
        CudaOps(emulated_native(), half=half).preprocess_into(picture, canvas, **arguments)
        assert canvas.tobytes() == wanted.astype(dtype).tobytes()


@pytest.mark.parametrize("antialias", [False, True], ids=["bilinear", "antialias"])
@pytest.mark.parametrize(("size", "resized", "padded"), SIZES)
def test_preprocess(size: tuple[int, int], resized: tuple[int, int], padded: tuple[int, int], antialias: bool) -> None:
    for reverse in (False, True):
        assert_same_canvas(image(7, *size), resized, padded, antialias=antialias, reverse_channels=reverse)
    assert_same_canvas(image(7, *size), resized, padded, antialias=antialias, reverse_channels=True, eight_bit=True)
    if not antialias:
        step = {"source_step": 1.07 * size[0] / resized[0], "reverse_channels": False, "antialias": False}
        assert_same_canvas(image(7, *size), resized, padded, **step)
        assert_same_canvas(image(7, *size), resized, padded, **step, eight_bit=True)


sides = st.integers(1, 40)


@settings(derandomize=True, deadline=None, max_examples=100, database=None)
@given(
    seed=st.integers(0, 1000),
    size=st.tuples(sides, sides),
    resized=st.tuples(sides, sides),
    padding=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    antialias=st.booleans(),
)
def test_any_size(
    seed: int, size: tuple[int, int], resized: tuple[int, int], padding: tuple[int, int], antialias: bool
) -> None:
    padded = (resized[0] + padding[0], resized[1] + padding[1])
    assert_same_canvas(image(seed, *size), resized, padded, antialias=antialias, reverse_channels=False)
