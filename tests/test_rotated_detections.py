"""`Detections` of rotated boxes: corners, every way to select and export, drawing, and what is refused."""

from __future__ import annotations

import copy
import json
import math
import pickle

import numpy as np
import numpy.typing as npt
import pytest

import retinasdk
from retinasdk import Detections
from retinasdk.drawing import draw_detections

LABELS = ("ship", "plane")
BOXES = np.array(
    [[50, 40, 40, 20, 0], [30, 30, 20, 10, math.pi / 2], [60, 60, 30, 30, math.pi / 4], [20, 70, 24, 8, -0.4]],
    np.float32,
)


@pytest.fixture
def found() -> Detections:
    return Detections.rotated(BOXES, np.array([0.9, 0.8, 0.7, 0.6]), np.array([0, 1, 0, 1]), LABELS)


def test_corners_go_clockwise_from_the_upper_left(found: Detections) -> None:
    half = 15 * math.sqrt(2)
    expected = [
        [[30, 30], [70, 30], [70, 50], [30, 50]],
        [[35, 20], [35, 40], [25, 40], [25, 20]],  # a quarter turn, clockwise: the upper left corner is on the right
        [[60, 60 - half], [60 + half, 60], [60, 60 + half], [60 - half, 60]],
    ]
    np.testing.assert_allclose(found.polygons[:3], expected, atol=1e-4)


def test_xyxy_encloses_the_box(found: Detections) -> None:
    np.testing.assert_allclose(found.xyxy[:2], [[30, 30, 70, 50], [25, 20, 35, 40]], atol=1e-4)
    np.testing.assert_array_equal(found.xyxy[:, :2], found.polygons.min(axis=1))
    np.testing.assert_array_equal(found.xyxy[:, 2:], found.polygons.max(axis=1))
    np.testing.assert_allclose(found.area, [800, 200, 900, 192])


def test_upright_boxes_have_corners_but_no_angle() -> None:
    upright = Detections(np.array([[1, 2, 3, 5]]), np.array([0.5]), np.array([0]), LABELS)
    assert upright.xywhr is None
    assert upright[0].xywhr is None
    assert upright.polygons.tolist() == [[[1, 2], [3, 2], [3, 5], [1, 5]]]
    assert "xywhr" not in upright.to_dicts()[0]
    assert "segmentation" not in upright.to_coco()[0]


@pytest.mark.parametrize(
    ("select", "kept"),
    [
        (lambda f: f[1:3], [1, 2]),
        (lambda f: f[f.scores > 0.75], [0, 1]),
        (lambda f: f[[3, 0]], [3, 0]),
        (lambda f: f.filter(classes="plane"), [1, 3]),
        (lambda f: f.filter(min_score=0.65), [0, 1, 2]),
        (lambda f: Detections.join([f[2:], f[:2]]), [0, 1, 2, 3]),
        (lambda f: f[3:] + f[:1], [0, 3]),
        (copy.deepcopy, [0, 1, 2, 3]),
        (lambda f: pickle.loads(pickle.dumps(f)), [0, 1, 2, 3]),
        (lambda f: f.scaled(2).scaled(0.5), [0, 1, 2, 3]),
    ],
)
def test_every_way_to_select_keeps_the_angle(found: Detections, select: object, kept: list[int]) -> None:
    part = select(found)  # type: ignore[operator]
    np.testing.assert_array_equal(part.xywhr, BOXES[kept])
    assert part == found[kept]
    assert [item.xywhr for item in part] == [tuple(box) for box in BOXES[kept].tolist()]


def test_angles_count_in_comparisons(found: Detections) -> None:
    turned = Detections(found.xyxy, found.scores, found.class_ids, LABELS, xywhr=BOXES + np.float32(0.01))
    assert turned != found
    assert Detections(found.xyxy, found.scores, found.class_ids, LABELS) != found


def test_exports_keep_the_angle(found: Detections) -> None:
    assert [item["xywhr"] for item in json.loads(found.to_json())] == BOXES.tolist()
    entry = found.to_coco(7)[0]
    assert entry["bbox"] == [30, 30, 40, 20]
    assert entry["segmentation"] == [[30, 30, 70, 30, 70, 50, 30, 50]]
    assert "turned by 90 degrees" in repr(found)
    pandas = pytest.importorskip("pandas")
    frame = found.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    np.testing.assert_array_equal(frame[["center_x", "center_y", "width", "height", "angle"]], BOXES)


def test_supervision_gets_the_corners(found: Detections) -> None:
    pytest.importorskip("supervision")
    np.testing.assert_array_equal(found.to_supervision().data["xyxyxyxy"], found.polygons)


def test_what_does_not_fit_is_refused(found: Detections) -> None:
    with pytest.raises(ValueError, match=r"xywhr must be \(n, 5\) for n = 4 objects; got \(1, 5\)"):
        Detections(found.xyxy, found.scores, found.class_ids, LABELS, xywhr=BOXES[:1])
    upright = Detections(found.xyxy, found.scores, found.class_ids, LABELS)
    with pytest.raises(ValueError, match="all rotated or all upright"):
        Detections.join([found, upright])
    with pytest.raises(ValueError, match=r"rotated boxes cannot be fused; use Detections\.join"):
        retinasdk.fuse([found, found])


def painted(found: Detections) -> npt.NDArray[np.bool_]:
    blank = np.full((100, 100, 3), 7, np.uint8)
    return (np.asarray(draw_detections(blank, found)) != 7).any(axis=2)


def test_the_turned_box_is_drawn() -> None:
    """The lines of a diagonal square run through the middles of the edges of the box around it."""
    square = Detections.rotated([[50, 60, 40, 40, math.pi / 4]], [0.9], [0], LABELS)
    marked = painted(square)
    half = 20 * math.sqrt(2)
    for x, y in ((50 - half / 2, 60 - half / 2), (50 + half / 2, 60 + half / 2), (50 - half / 2, 60 + half / 2)):
        assert marked[round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2].any()
    assert not marked[int(60 + half) - 3 :, :30].any()  # the corner of the box around it
    assert not marked[60, 50]


@pytest.mark.parametrize(
    "box", [[1e30, 50, 1e30, 5, 0.5], [np.nan, 1, 2, 3, 4], [50, 50, 0, 0, 1], [-500, 50, 10, 5, 1]]
)
def test_boxes_that_cannot_be_seen_are_drawn_without_an_error(box: list[float]) -> None:
    painted(Detections.rotated([box], [0.9], [0], LABELS))


def test_a_long_box_is_drawn_where_it_is_inside() -> None:
    assert painted(Detections.rotated([[50, 50, 1e6, 40, 0.0]], [0.9], [0], LABELS))[70, 10:90].all()
