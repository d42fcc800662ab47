"""Rotated boxes in the core: their overlap against exact arithmetic, NMS, and the CUDA kernels against the CPU."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rotated_oracle
from cuda_ops import CudaOps
from emulated_cuda import emulated_native
from hypothesis import given, settings
from hypothesis import strategies as st

from retinasdk import _native

Boxes = npt.NDArray[np.float32]
SIDES = st.one_of(st.just(0.0), st.floats(0, 1e3), st.floats(-50, 0), st.floats(1e-30, 1e-20), st.floats(1e20, 1e38))
ANY = st.one_of(st.floats(width=32), st.sampled_from([0.0, -0.0, 1.0, math.nan, math.inf, 3.4e38, 1e-45]))
CODERS: dict[str, dict[str, Any]] = {
    "le90": {"limits_angle": True, "first_angle": -math.pi / 2, "swaps_edges": True, "turns_offsets": True},
    "le135": {"limits_angle": True, "first_angle": -math.pi / 4, "angle_unit": math.pi, "turns_offsets": True},
    "oc": {},
    "odtk": {"coding": "sin_cos", "inclusive_pixels": True, "clamp_max": math.inf, "clamp_min": -math.inf},
}


@pytest.fixture(scope="module")
def cuda() -> CudaOps:
    return CudaOps(emulated_native())


def rotated(x: Any, y: Any, width: Any, height: Any, angle: Any) -> Boxes:
    """(n, 6) boxes as the core takes them."""
    columns = np.broadcast_arrays(x, y, width, height, np.sin(angle), np.cos(angle))
    return np.stack(columns, axis=-1).astype(np.float32).reshape(-1, 6)


def some_boxes(seed: int, count: int, extent: float = 20.0) -> Boxes:
    """Random boxes; the angles of some are multiples of an eighth of a turn."""
    random = np.random.default_rng(seed)
    angles = np.where(
        random.random(count) < 0.4, random.integers(-8, 9, count) * np.pi / 4, random.uniform(-7, 7, count)
    )
    sides = random.uniform(0.05, extent, (2, count))
    return rotated(*random.uniform(0, extent, (2, count)), *sides, angles)


# -- overlap -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.heavy) for seed in range(1, 4))])
def test_iou_is_that_of_exact_arithmetic(seed: int) -> None:
    first, second = some_boxes(seed, 25), some_boxes(seed + 100, 25)
    exact = np.array([[rotated_oracle.iou(a, b) for b in second] for a in first])
    found = _native.rotated_ious(first, second)
    np.testing.assert_allclose(found, exact, atol=2e-7)
    np.testing.assert_array_equal(found > 0, exact > 0)
    assert 0.2 < (exact > 0).mean() < 0.9


@given(
    first=st.tuples(*[st.floats(-30, 30, width=32)] * 2, *[st.floats(0.125, 40, width=32)] * 2, st.floats(-4, 4)),
    second=st.tuples(*[st.floats(-30, 30, width=32)] * 2, *[st.floats(0.125, 40, width=32)] * 2, st.floats(-4, 4)),
)
@settings(max_examples=200, deadline=None)
def test_iou_of_any_boxes(first: tuple[float, ...], second: tuple[float, ...]) -> None:
    a, b = rotated(*first), rotated(*second)
    exact = rotated_oracle.iou(a[0], b[0])
    assert _native.rotated_ious(a, b)[0, 0] == pytest.approx(exact, abs=1e-6)
    assert _native.rotated_ious(b, a)[0, 0] == pytest.approx(exact, abs=1e-6)


def test_iou_of_upright_boxes_is_the_usual_one() -> None:
    first, second = rotated(5, 5, 10, 10, 0), rotated(10, 5, 10, 10, np.pi)
    assert _native.rotated_ious(first, second)[0, 0] == pytest.approx(1 / 3, abs=1e-7)
    assert _native.rotated_ious(first, first)[0, 0] == 1
    octagon = _native.rotated_ious(first, rotated(5, 5, 10, 10, np.pi / 4))[0, 0]
    assert octagon == pytest.approx((math.sqrt(2) - 1) / (2 - math.sqrt(2)), abs=1e-6)


def test_boxes_that_touch_share_nothing() -> None:
    first = rotated(0, 0, 2, 2, 0)
    touching = rotated([2, 0, 2, -2], [0, 2, 2, 0], 2, 2, [0, 0, 0, 0])
    assert _native.rotated_ious(first, touching).tolist() == [[0, 0, 0, 0]]
    corner = rotated(1 + math.sqrt(2) + 1e-5, 0, 2, 2, np.pi / 4)
    assert _native.rotated_ious(first, corner)[0, 0] == 0


def test_boxes_without_area() -> None:
    flat, point, square = rotated(0, 0, 4, 0, 0.3), rotated(0, 0, 0, 0, 1), rotated(0, 0, 4, 4, 0.3)
    assert _native.rotated_ious(flat, square)[0, 0] == 0
    assert math.isnan(_native.rotated_ious(flat, point)[0, 0])


# -- NMS ---------------------------------------------------------------------------------------------------------------


def plain_nms(boxes: Boxes, logits: Any, classes: Any, limit: float, shares_angle: bool = False) -> list[int]:
    kept: list[int] = []
    for i in np.argsort(-logits, kind="stable").tolist():
        rivals = [boxes[k].copy() for k in kept if classes[k] == classes[i]]
        if shares_angle:
            for rival in rivals:
                rival[4:] = boxes[i, 4:]
        if not any(rotated_oracle.iou(rival, boxes[i]) > limit for rival in rivals):
            kept.append(i)
    return kept


@pytest.mark.parametrize("shares_angle", [False, True])
@pytest.mark.parametrize("limit", [0.1, *(pytest.param(limit, marks=pytest.mark.heavy) for limit in (0.0, 0.5))])
def test_nms_is_that_of_exact_overlaps(limit: float, shares_angle: bool) -> None:
    boxes = some_boxes(5, 60)
    random = np.random.default_rng(1)
    logits, classes = random.normal(size=60).astype(np.float32), random.integers(0, 2, 60).astype(np.int32)
    kept, counts = _native.rotated_nms(
        boxes[None], logits[None], classes[None], np.array([60], np.int32), iou_threshold=limit, max_detections=60,
        shares_angle=shares_angle,
    )  # fmt: skip
    assert kept[0, : counts[0]].tolist() == plain_nms(boxes, logits, classes, limit, shares_angle)


def test_a_kept_box_with_one_negative_side_suppresses_nothing() -> None:
    """As in ODTK, where such a box lies outside of the image: see Note [Clipping rotated boxes]."""
    boxes = np.concatenate([rotated(5, 5, 10, 10, 0), rotated(5, 5, 10, 10, 0)])
    for width, height, count in ((10, 10, 1), (-10, 10, 2), (10, -10, 2), (-10, -10, 1)):
        boxes[0, 2:4] = width, height
        arrays = (boxes[None], np.array([[2, 1]], np.float32), np.zeros((1, 2), np.int32), np.array([2], np.int32))
        _, counts = _native.rotated_nms(*arrays, iou_threshold=0.5, max_detections=2, shares_angle=True)
        assert counts[0] == count


# -- CPU and CUDA ------------------------------------------------------------------------------------------------------


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_nms_of_hostile_boxes_is_the_same_on_both(data: st.DataObject, cuda: CudaOps) -> None:
    """Zero, negative and huge sides, NaN, equal boxes: no crash, and the same bits."""
    count = data.draw(st.integers(1, 12))
    row = st.one_of(st.tuples(ANY, ANY, SIDES, SIDES, ANY, ANY), st.just((1.0, 1.0, 2.0, 2.0, 0.0, 1.0)))
    with np.errstate(over="ignore"):
        boxes = np.array(data.draw(st.lists(row, min_size=count, max_size=count)), np.float64).astype(np.float32)
    logits = np.array(data.draw(st.lists(ANY, min_size=count, max_size=count)), np.float32)
    classes = np.array(data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)), np.int32)
    arrays = (boxes[None], logits[None], classes[None], np.array([count], np.int32))
    rules = {
        "iou_threshold": data.draw(st.sampled_from([-1.0, 0.0, 0.3, 1.0])), "or_equal": data.draw(st.booleans()),
        "across_classes": data.draw(st.booleans()), "shares_angle": data.draw(st.booleans()),
        "max_per_class": data.draw(st.sampled_from([1, 3, 1 << 20])), "max_detections": 8,
    }  # fmt: skip
    wanted, wanted_counts = _native.rotated_nms(*arrays, **rules)
    found, counts = cuda.rotated_nms(*arrays, **rules)
    assert counts.tolist() == wanted_counts.tolist()
    assert found.tolist() == wanted.tolist()


@pytest.mark.parametrize("shares_angle", [False, True])
@pytest.mark.parametrize(("count", "extent", "max_detections"), [(700, 200.0, 300), (2500, 4000.0, 2000)])
def test_nms_of_many_boxes_is_the_same_on_both(
    count: int, extent: float, max_detections: int, shares_angle: bool, cuda: CudaOps
) -> None:
    random = np.random.default_rng(2)
    boxes = np.stack([some_boxes(7, count, extent), some_boxes(8, count, 40.0)])
    boxes[..., 2:4] = np.minimum(boxes[..., 2:4], 200)
    logits = random.normal(size=(2, count)).astype(np.float32)
    classes = random.integers(0, 3, (2, count)).astype(np.int32)
    arrays = (boxes, logits, classes, np.array([count, count - 50], np.int32))
    rules: dict[str, Any] = {"iou_threshold": 0.2, "max_detections": max_detections, "shares_angle": shares_angle}
    wanted, wanted_counts = _native.rotated_nms(*arrays, **rules)
    found, counts = cuda.rotated_nms(*arrays, **rules)
    assert counts.tolist() == wanted_counts.tolist()
    assert found.tolist() == wanted.tolist()
    assert wanted_counts.min() > 20
    assert wanted_counts.max() > count / 4


def heads(seed: int, deltas: int, spread: float = 0.5) -> dict[str, Any]:
    """Random heads of two levels, three anchors and two classes."""
    random = np.random.default_rng(seed)
    sizes = [(7, 9), (4, 5)]
    anchors = np.concatenate(
        [random.normal(4, 1, (2, 3, 2)), random.uniform(4, 40, (2, 3, 2)), random.uniform(-2, 2, (2, 3, 1))], 2
    )
    return {
        "logits": [random.normal(0, 2, (2, 6, *size)).astype(np.float32) for size in sizes],
        "deltas": [random.normal(0, spread, (2, 3 * deltas, *size)).astype(np.float32) for size in sizes],
        "base_anchors": [level.astype(np.float32) for level in anchors],
        "strides": [(8.0, 8.0), (16.0, 16.0)],
        "clip_sizes": np.array([[55, 70], [40, -1]], np.float32),
        "logit_threshold": -1.0,
        "top_k": 50,
        "class_ids": [],
        "coder_weights": (1.0, 1.0, 1.0, 1.0),
        "coder_clamp_max": math.inf,
    }


def coder(name: str) -> dict[str, Any]:
    usual = {
        "coding": "delta", "weights": (1.0, 1.0, 2.0, 2.0, 0.5), "means": (0.0, 0.1, 0.0, 0.0, 0.05),
        "clamp_max": 4.135, "clamp_min": -4.135, "angle_unit": 1.0, "limits_angle": False, "first_angle": 0.0,
        "swaps_edges": False, "turns_offsets": False, "inclusive_pixels": False,
    }  # fmt: skip
    return {**usual, **CODERS[name]}


@pytest.mark.parametrize("name", CODERS)
@pytest.mark.parametrize("spread", [0.5, 40.0])
def test_decoding_is_the_same_on_both(name: str, spread: float, cuda: CudaOps) -> None:
    """A spread of 40 gives sides from 0 to infinity and angles of many turns."""
    case = heads(3, 6 if name == "odtk" else 5, spread)
    case["deltas"][0].reshape(-1)[::50] = np.nan
    case["deltas"][1].reshape(-1)[::40] = np.inf
    case["rotated"] = coder(name)
    for extra in ({}, {"drop_empty": True}, {"ignored": np.array([[[0, 0, 30, 30]]] * 2, np.float32)}):
        wanted, found = _native.decode(**case, **extra), cuda.decode(**case, **extra)
        assert found[3].tolist() == wanted[3].tolist()
        for image, count in enumerate(wanted[3]):
            for mine, theirs in zip(found[:3], wanted[:3], strict=True):
                assert mine[image, :count].tobytes() == theirs[image, :count].tobytes()
            assert np.isfinite(wanted[0][image, :count]).all()


@pytest.mark.parametrize("name", ["le90", "le135", "oc"])
def test_the_range_of_angles(name: str) -> None:
    case = heads(4, 5, 2.0)
    boxes, _, _, counts = _native.decode(**case, rotated=coder(name))
    found = np.concatenate([boxes[image, :count] for image, count in enumerate(counts)]).astype(np.float64)
    np.testing.assert_allclose(np.hypot(found[:, 4], found[:, 5]), 1, atol=1e-6)
    angles = np.arctan2(found[:, 4], found[:, 5])
    first = {"le90": -np.pi / 2, "le135": -np.pi / 4}.get(name)
    if first is not None:
        assert ((angles >= first - 1e-6) & (angles <= first + np.pi + 1e-6)).all()
    else:
        assert angles.min() < -2
    assert (found[:, 2] >= found[:, 3]).all() == (name == "le90")


def test_regions_are_compared_with_the_turned_box() -> None:
    """The box around this diagonal one lies half inside the region, the box itself does not touch it."""
    case = heads(5, 5)
    case |= {"logit_threshold": 0.0, "clip_sizes": np.full((2, 2), -1, np.float32), "top_k": 5}
    for level in case["logits"]:
        level[:] = -5
    case["logits"][0][:, 0, 3, 3] = 5
    for level in case["deltas"]:
        level[:] = 0
    case["base_anchors"][0][:] = (4, 4, 40, 2, np.pi / 4)
    plain = coder("oc") | {"weights": (1.0,) * 5, "means": (0.0,) * 5}
    for region, count in (((29, 0, 60, 27), 1), ((10, 10, 28.5, 28.5), 0), ((14, 28.5, 28, 60), 1)):
        ignored = np.array([[region]] * 2, np.float32)
        assert _native.decode(**case, rotated=plain, ignored=ignored)[3].tolist() == [count, count]
    # A region without area ends the list.
    for regions, count in (([(10, 10, 28.5, 28.5), (5, 5, 5, 9)], 0), ([(5, 5, 5, 9), (10, 10, 28.5, 28.5)], 1)):
        ignored = np.array([regions] * 2, np.float32)
        assert _native.decode(**case, rotated=plain, ignored=ignored)[3].tolist() == [count, count]
