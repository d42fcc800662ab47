"""`ModelSpec`: every check, sizes by each framework's rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paths import DATA
from small_spec import ANCHOR, small_spec

from retinasdk import BoxCoder, Level, ModelError, ModelSpec, Normalise, Resize
from retinasdk.convert.flavours import flavour_spec, list_flavours
from retinasdk.pipeline.preprocess import Transform

FORMAT1 = DATA / "spec_format1.json"
NAN, INFINITY = float("nan"), float("inf")


def level(**changes: Any) -> Level:
    return dataclasses.replace(Level("l", "d", (ANCHOR,), None), **changes)


# -- checks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: small_spec(labels=()), "labels must have at least one entry"),
        (lambda: small_spec(ignore_labels=("c",)), r"ignore_labels must be entries of labels, got \['c'\]"),
        (lambda: small_spec(levels=()), "levels must have at least one entry"),
        (
            lambda: small_spec(levels=(level(), level(logits="l2", deltas="d2", base_anchors=(ANCHOR, ANCHOR)))),
            r"same number of base anchors, got \[1, 2\]",
        ),
        (lambda: small_spec(levels=(level(deltas="l"),)), "every output of the network must be named once"),
        (lambda: small_spec(levels=(level(), level())), "every output of the network must be named once"),
        *[
            (lambda field=field, value=value: small_spec(**{field: value}), f"{field} must be from")
            for field, values in {
                "score_threshold": (-0.01, 1.01, NAN),
                "nms_iou_threshold": (-0.01, 1.01, NAN),
                "top_k": (0, -1, (1 << 20) + 1),
                "max_detections": (0, (1 << 20) + 1),
                "pad_multiple": (0, -32, 4097),
                "pad_at_least": (-1, 4097),
            }.items()
            for value in values
        ],
        (lambda: small_spec(clip="image"), "clip must be one of .*got 'image'"),
        (lambda: small_spec(clip_limit="last"), r"clip_limit must be one of .*'edge', 'last_pixel'.*got 'last'"),
        (lambda: small_spec(drop_empty="always"), r"drop_empty must be one of .*'before_nms', .*got 'always'"),
        (lambda: small_spec(score_comparison="<"), r"score_comparison must be one of \('>', '>='\), got '<'"),
        (lambda: small_spec(nms_comparison="=>"), r"nms_comparison must be one of \('>', '>='\), got '=>'"),
        (lambda: small_spec(inclusive_pixels=1), "inclusive_pixels must be true or false, got 1"),
        (lambda: level(logits=""), "logits and deltas of a level must be names"),
        (lambda: level(deltas=""), "logits and deltas of a level must be names"),
        (lambda: level(base_anchors=()), "at least one base anchor"),
        *[
            (lambda anchor=anchor: level(base_anchors=(anchor,)), "a base anchor must be")
            for anchor in ((8, -8, -8, 8), (-8, 8, 8, -8), (0, 0, 0, 8), (0, 0, 8), (0, 0, 8, NAN), (0, 0, INFINITY, 8))
        ],
        *[
            (lambda stride=stride: level(stride=stride), "a stride must be")
            for stride in ((0.0, 8.0), (8.0, -1.0), (8.0,), (NAN, 8.0), (INFINITY, 8.0))
        ],
        (lambda: BoxCoder(weights=(1.0, 1.0, 1.0)), "four numbers above 0"),
        (lambda: BoxCoder(weights=(1.0, 1.0, 0.0, 1.0)), "four numbers above 0"),
        (lambda: BoxCoder(weights=(1.0, 1.0, NAN, 1.0)), "four numbers above 0"),
        (lambda: BoxCoder(clamp_max=INFINITY), "clamp_max must be a finite number or null"),
        (lambda: BoxCoder(clamp_min=-INFINITY), "clamp_min must be a finite number or null"),
        (lambda: BoxCoder(clamp_max=1.0, clamp_min=1.5), "clamp_min must be at most clamp_max, got .*1.5"),
        (lambda: BoxCoder(means=(0.0, 0.0, 0.0)), "means must be four finite numbers"),
        (lambda: BoxCoder(means=(0.0, 0.0, 0.0, NAN)), "means must be four finite numbers"),
        (lambda: BoxCoder(kind="corners"), "box_coder.kind must be one of .*got 'corners'"),
        (lambda: BoxCoder(kind="corner"), r"clamp_max and clamp_min must be null if kind is 'corner', got .*4.135"),
        (
            lambda: BoxCoder(kind="corner", clamp_max=None, clamp_min=-1.0),
            "clamp_max and clamp_min must be null if kind is 'corner'",
        ),
        (lambda: Resize("stretch", (1, 1)), "resize.rule must be one of"),
        (lambda: Resize("shortest", (800,)), r"must have 2 sides from 1 to 65536 for the rule 'shortest'"),
        (lambda: Resize("longest", (800, 800)), r"must have 1 side from 1 to 65536 for the rule 'longest'"),
        (lambda: Resize("squash", (800, 0)), "from 1 to 65536"),
        (lambda: Resize("squash", (800, 65537)), "from 1 to 65536"),
        (lambda: Resize("fit", (800,)), r"must have 2 sides from 1 to 65536 for the rule 'fit'"),
        (lambda: Resize("squash", (8, 8), rounding="up"), "resize.rounding must be one of"),
        (lambda: Normalise((0.0, 0.0), (1.0, 1.0, 1.0)), "mean must be three finite numbers"),
        (lambda: Normalise((0.0, 0.0, INFINITY), (1.0, 1.0, 1.0)), "mean must be three finite numbers"),
        (lambda: Normalise((0.0, 0.0, 0.0), (1.0, 1.0, 0.0)), "std must be three numbers above 0"),
        (lambda: Normalise((0.0, 0.0, 0.0), (1.0, 1.0, NAN)), "std must be three numbers above 0"),
        (lambda: Normalise((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "GBR"), "channels must be one of"),
    ],
)
def test_contradictions_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make()


@pytest.mark.parametrize("field", ["score_threshold", "nms_iou_threshold"])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_limits_themselves_are_allowed(field: str, value: float) -> None:
    assert getattr(small_spec(**{field: value}), field) == value


@pytest.mark.parametrize(
    "make",
    [
        lambda: small_spec(labels="ab"),
        lambda: small_spec(labels=(1, 2)),
        lambda: small_spec(top_k=10.5),
        lambda: small_spec(max_detections=10.0),
        lambda: small_spec(pad_multiple=32.0),
        lambda: Resize("squash", (64.5, 96)),  # type: ignore[arg-type]
    ],
    ids=["labels string", "labels numbers", "top_k", "max_detections", "pad_multiple", "size"],
)
def test_types_are_checked(make: Callable[[], object]) -> None:
    with pytest.raises((ModelError, TypeError), match="got"):
        make()


def test_lists_become_tuples() -> None:
    names = ["a", "b"]
    spec = small_spec(labels=names, ignore_labels=["b"], levels=[level()])
    names.append("c")
    assert spec == small_spec(labels=("a", "b"), ignore_labels=("b",), levels=(level(),))
    assert ModelSpec.from_json(spec.to_json()) == spec


def test_specs_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        small_spec().top_k = 5  # type: ignore[misc]


def test_replace_checks_again_and_leaves_the_first_alone() -> None:
    spec = small_spec()
    assert spec.replace(top_k=7).top_k == 7
    assert spec.top_k == 1000
    with pytest.raises(TypeError, match="topk"):
        spec.replace(topk=7)


# -- sizes -------------------------------------------------------------------------------------------------------------

TORCHVISION = Resize("shortest", (800, 1333))
HALF_UP = Resize("shortest", (800, 1333), rounding="half_up")


@pytest.mark.parametrize(
    ("frame", "torchvision", "half_up", "torchvision_padded"),
    [
        ((480, 640), (800, 1066), (800, 1067), (800, 1088)),
        ((720, 1280), (749, 1333), (750, 1333), (768, 1344)),
        ((1080, 1920), (749, 1333), (750, 1333), (768, 1344)),
        ((375, 500), (800, 1066), (800, 1067), (800, 1088)),
        ((427, 640), (800, 1199), (800, 1199), (800, 1216)),
        ((426, 640), (800, 1201), (800, 1202), (800, 1216)),
    ],
)
def test_resized_sizes_of_common_frames(
    frame: tuple[int, int], torchvision: tuple[int, int], half_up: tuple[int, int], torchvision_padded: tuple[int, int]
) -> None:
    assert TORCHVISION.target(*frame) == torchvision
    assert HALF_UP.target(*frame) == half_up
    assert TORCHVISION.target(*frame[::-1]) == torchvision[::-1]
    assert HALF_UP.target(*frame[::-1]) == half_up[::-1]
    assert small_spec(pad_multiple=32).padded(*torchvision) == torchvision_padded


@pytest.mark.parametrize(("side", "padded"), [(607, 608), (608, 640), (609, 640), (1, 32)])
def test_padding_of_at_least_one_pixel(side: int, padded: int) -> None:
    assert small_spec(pad_multiple=32, pad_at_least=1).padded(side, side) == (padded, padded)


@pytest.mark.parametrize(
    ("resize", "frame", "wanted"),
    [
        (Resize("squash", (640, 320)), (7, 4000), (640, 320)),
        (Resize("fit", (640, 320)), (480, 640), (240, 320)),
        (Resize("fit", (640, 320)), (640, 240), (640, 240)),
        (Resize("fit", (640, 320)), (3, 4000), (1, 320)),
        (Resize("fit", (800, 1344), "half_up"), (375, 500), (800, 1067)),
        (Resize("longest", (640,)), (480, 640), (480, 640)),
        (Resize("longest", (640,)), (1280, 600), (640, 300)),
        (Resize("longest", (100,)), (3, 200), (1, 100)),
        (Resize("longest", (100,), "half_up"), (3, 200), (2, 100)),
        (TORCHVISION, (1, 1), (800, 800)),
        (TORCHVISION, (1, 65536), (1, 1333)),
        (TORCHVISION, (65536, 1), (1333, 1)),
    ],
)
def test_target(resize: Resize, frame: tuple[int, int], wanted: tuple[int, int]) -> None:
    assert resize.target(*frame) == wanted


@pytest.mark.parametrize(("multiple", "padded"), [(1, (640, 320)), (128, (640, 384))])
def test_a_fixed_canvas_is_padded_to(multiple: int, padded: tuple[int, int]) -> None:
    spec = small_spec(resize=Resize("fit", (640, 320)), pad_multiple=multiple, rescale="uniform")
    for frame in ((480, 640), (640, 240), (7, 7)):
        transform = Transform.plan(frame, spec)
        assert transform.padded == padded
        assert transform.scale == min(640 / frame[0], 320 / frame[1])
    assert spec.resize.fixed_size == Resize("squash", (640, 320)).fixed_size == (640, 320)
    assert TORCHVISION.fixed_size is None


@given(
    st.sampled_from([TORCHVISION, HALF_UP, Resize("longest", (640,)), Resize("squash", (96, 64))]),
    st.tuples(st.integers(1, 65536), st.integers(1, 65536)),
    st.sampled_from([1, 32, 128]),
)
def test_sizes_stay_within_their_limits(resize: Resize, frame: tuple[int, int], multiple: int) -> None:
    height, width = resize.target(*frame)
    assert min(height, width) >= 1
    assert max(height, width) <= max(resize.size)
    padded = small_spec(pad_multiple=multiple).padded(height, width)
    assert [side % multiple for side in padded] == [0, 0]
    assert all(0 <= large - side < multiple for large, side in zip(padded, (height, width), strict=True))


@given(st.tuples(st.integers(1, 5000), st.integers(1, 5000)))
def test_transform_takes_boxes_there_and_back(frame: tuple[int, int]) -> None:
    transform = Transform.plan(frame, small_spec(resize=TORCHVISION))
    height, width = transform.resized
    whole = transform.to_original(np.array([[0, 0, width, height]], np.float32))
    np.testing.assert_allclose(whole, [[0, 0, frame[1], frame[0]]], rtol=1e-6)
    boxes = np.array([[0.25, 0.125, 0.75, 0.5]], np.float32)
    back = transform.to_original(boxes * np.float32([width, height, width, height]))
    np.testing.assert_allclose(back, boxes * np.float32([frame[1], frame[0]] * 2), rtol=1e-5)
    assert back.dtype == np.float32
    assert transform.to_original(np.zeros((0, 4), np.float32)).shape == (0, 4)


# -- flavours ----------------------------------------------------------------------------------------------------------


def test_torchvision_flavour() -> None:
    assert "torchvision" in list_flavours()
    spec = flavour_spec("torchvision")
    assert len(spec.labels) == 91
    assert (spec.labels[1], spec.labels[90], spec.labels[0]) == ("person", "toothbrush", "__background__")
    assert spec.resize == TORCHVISION
    assert [item.stride for item in spec.levels] == [None] * 5
    assert spec.levels[2].base_anchors[5] == (-102, -102, 102, 102)  # half to even, not 101
    own = flavour_spec("torchvision", labels=["tree"], name="trees")
    assert (own.labels, own.name, own.levels) == (("tree",), "trees", spec.levels)


def test_unknown_flavour() -> None:
    with pytest.raises(ModelError, match=r"flavour 'darknet' is unknown; choose one of .*torchvision"):
        flavour_spec("darknet")
