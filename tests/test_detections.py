"""`Detections`: a frozen value of parallel arrays; indexing, filtering, conversions, drawing."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from found import found
from PIL import Image as PillowImage

from retinasdk import Detection, Detections

LABELS = ("person", "chair", "dog")


# -- a value -----------------------------------------------------------------------------------------------------------


def test_arrays_have_their_types() -> None:
    detections = found()
    assert (detections.xyxy.dtype, detections.xyxy.shape) == (np.float32, (4, 4))
    assert (detections.scores.dtype, detections.scores.shape) == (np.float32, (4,))
    assert (detections.class_ids.dtype, detections.class_ids.shape) == (np.int32, (4,))
    assert detections.names.tolist() == ["person", "dog", "person", "chair"]
    assert len(detections) == 4


def test_nobody_can_change_it() -> None:
    boxes = np.zeros((4, 4), np.float32)
    detections = found(xyxy=boxes)
    boxes[:] = 7  # the caller's array is not ours
    assert detections.xyxy.max() == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        detections.scores = boxes[0]  # type: ignore[misc]
    for array in (detections.xyxy, detections.scores, detections.class_ids, detections[1:].xyxy):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"xyxy": np.zeros((3, 4))},
            r"xyxy \(n, 4\), scores \(n,\) and class_ids \(n,\); got \(\(3, 4\), \(4,\), \(4,\)\)",
        ),
        ({"xyxy": np.zeros((4, 5))}, r"got \(\(4, 5\)"),
        ({"xyxy": np.zeros(16)}, r"got \(\(16,\)"),
        ({"scores": 0.5}, "got"),
        ({"scores": np.zeros((4, 1))}, "got"),
        ({"class_ids": [0, 1, 2]}, "got"),
        ({"class_ids": [0, 1, 2, 3]}, "class_ids must be 0 to 2"),
        ({"class_ids": [0, 1, 2, -1]}, "class_ids must be 0 to 2"),
    ],
)
def test_arrays_that_do_not_fit_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        found(**changes)


def test_equality() -> None:
    assert found() == found()
    assert found() == found()[:]
    assert found() == found(labels=list(LABELS))
    for changes in (
        {"xyxy": np.zeros((4, 4))},
        {"scores": [0.9, 0.8, 0.5, 0.26]},
        {"class_ids": [0, 2, 0, 2]},
        {"labels": ("person", "chair", "cat")},
    ):
        assert found() != found(**changes)
    assert found() != found()[:3]
    assert found() != "detections"
    with pytest.raises(TypeError, match="unhashable"):
        hash(found())


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda item: pickle.loads(pickle.dumps(item))])
def test_copies_are_equal(again: Any) -> None:
    copied = again(found())
    assert copied == found()
    assert not copied.scores.flags.writeable
    assert not copied.xyxy.flags.writeable


def test_empty_is_a_value() -> None:
    empty = Detections.empty(LABELS)
    assert len(empty) == 0
    assert not empty
    assert (empty.xyxy.shape, empty.labels, empty.names.tolist()) == ((0, 4), LABELS, [])
    assert (list(empty), empty.to_dicts(), empty.to_coco(3)) == ([], [], [])
    assert repr(empty) == "Detections(empty)"
    assert empty[:] == empty[np.zeros(0, bool)] == empty[[]] == empty.filter(classes=["dog"], min_score=0.5) == empty
    assert empty == found()[4:]
    with pytest.raises(IndexError, match="there are 0 detections"):
        empty[0]


def test_repr_is_for_reading() -> None:
    two = found()[[0, 3]]
    assert repr(two) == "Detections(2):\n  person 0.90 at (10, 20)-(30, 60)\n  chair 0.25 at (1, 2)-(3, 4)"
    many = found()[[0] * 13]
    assert repr(many).count("person") == 10
    assert repr(many).endswith("... and 3 more")


# -- indexing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "scores"),
    [
        (np.array([True, False, True, False]), [0.9, 0.5]),
        ([False, False, False, True], [0.25]),
        (slice(1, 3), [0.8, 0.5]),
        (slice(None, None, -1), [0.25, 0.5, 0.8, 0.9]),
        (slice(9, None), []),
        ([3, 0, 0], [0.25, 0.9, 0.9]),
        (np.array([1]), [0.8]),
        ([], []),
    ],
    ids=str,
)
def test_indexing_gives_detections(index: Any, scores: list[float]) -> None:
    part = found()[index]
    assert isinstance(part, Detections)
    np.testing.assert_array_equal(part.scores, np.float32(scores))
    rows = [int(np.flatnonzero(found().scores == score)[0]) for score in part.scores]
    np.testing.assert_array_equal(part.xyxy, found().xyxy[rows])
    np.testing.assert_array_equal(part.class_ids, found().class_ids[rows])
    assert part.labels == LABELS


@pytest.mark.parametrize(("index", "row"), [(0, 0), (-1, 3), (np.int64(2), 2)])
def test_one_index_gives_a_detection(index: Any, row: int) -> None:
    assert found()[index] == list(found())[row]
    assert isinstance(found()[index], Detection)


def test_names_make_masks() -> None:
    detections = found()
    assert detections[detections.names == "person"] == detections[[0, 2]] == detections.filter(classes="person")


def test_sizes_of_boxes() -> None:
    assert found().xywh.tolist()[:2] == [[10, 20, 20, 40], [0, 0, 5.5, 5]]
    assert found().area.tolist() == [800, 27.5, 1600, 4]
    assert Detections.empty(LABELS).area.shape == (0,)


def test_joining_sorts_by_score() -> None:
    detections = found()
    assert detections[[3, 1]] + detections[[2, 0]] == detections
    assert Detections.join([detections]) == detections
    with pytest.raises(ValueError, match="same labels"):
        detections + found(labels=("a", "b", "c"))
    with pytest.raises(ValueError, match="at least one"):
        Detections.join([])
    with pytest.raises(TypeError):
        detections + 1  # type: ignore[operator]


def test_pictures_of_the_image_they_came_from(tmp_path: Path) -> None:
    pixels = np.arange(70 * 90 * 3, dtype=np.uint8).reshape(70, 90, 3)
    detections = found(image=pixels, image_size=(70, 90))
    crops = detections[:2].crop()
    np.testing.assert_array_equal(crops[0], pixels[20:60, 10:30])
    assert crops[1].shape == (5, 6, 3)  # rounded outwards
    assert found(xyxy=[[-5, -5, 4, 4]] * 4).crop(pixels)[0].shape == (4, 4, 3)  # clipped
    assert detections[1:].image is pixels
    turned = found(image=pixels[..., ::-1], channel_order="bgr")
    np.testing.assert_array_equal(turned.crop()[0], crops[0])
    detections.save(tmp_path / "drawn.png")
    with PillowImage.open(tmp_path / "drawn.png") as drawn:
        np.testing.assert_array_equal(np.asarray(drawn), np.asarray(found().draw(pixels)))
    (tmp_path / "drawn.bmp").write_bytes(b"precious")
    for name in ("drawn.txt", "drawn"):
        with pytest.raises(ValueError, match=r"cannot be written with the suffix .*; use \.jpg or \.png"):
            detections.save(tmp_path / name)
    with pytest.raises(TypeError):
        detections.save(tmp_path / "drawn.bmp", unknown=1)
    assert (tmp_path / "drawn.bmp").read_bytes() == b"precious"
    again = pickle.loads(pickle.dumps(detections))
    assert (again, again.image, again.image_size) == (found(), None, (70, 90))
    for call in (found().draw, found().crop, found().show):
        with pytest.raises(ValueError, match="pass it"):
            call()


def test_json_and_pandas() -> None:
    assert json.loads(found().to_json()) == found().to_dicts()
    pytest.importorskip("pandas")
    table = found().to_pandas()
    assert list(table.columns) == ["label", "class_id", "score", "x1", "y1", "x2", "y2"]
    assert table[["x1", "y1", "x2", "y2"]].to_numpy().tolist() == found().xyxy.tolist()
    assert table.label.tolist() == found().names.tolist()


@pytest.mark.parametrize("index", [4, -5, [0, 9], np.array([True, False]), "person", 0.5])
def test_bad_indices(index: Any) -> None:
    with pytest.raises(IndexError, match="there are 4 detections"):
        found()[index]


def test_the_readme_mask() -> None:
    detections = found()
    np.testing.assert_array_equal(detections[detections.scores > 0.7].xyxy, detections.xyxy[:2])


# -- filter ------------------------------------------------------------------------------------------------------------


def test_filter() -> None:
    detections = found()
    assert detections.filter() == detections
    assert detections.filter(classes=["person"]) == detections[[0, 2]] == detections.filter(classes=[0])
    assert detections.filter(classes=["dog", "person", 0]) == detections[[0, 1, 2]]
    assert detections.filter(min_score=0.5) == detections[:3]  # at least
    assert detections.filter(min_score=0.9) == detections[:1]  # the float32 0.9, though 0.9 is less than float32(0.9)
    assert detections.filter(min_score=0.95) == detections[:0]
    assert detections.filter(classes=("person",), min_score=0.6) == detections[:1]
    assert detections.filter(classes=np.array([1, 2])) == detections[[1, 3]]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"classes": ["Persn"]}, ValueError, "unknown class 'Persn'; did you mean 'person'?"),
        ({"classes": ["zeppelin"]}, ValueError, "the model knows chair, dog, person"),
        ({"classes": []}, ValueError, "got an empty list; leave it out to get all"),
        ({"classes": [3]}, ValueError, "class index must be 0 to 2, got 3"),
        ({"classes": [-1]}, ValueError, "class index must be 0 to 2, got -1"),
        ({"classes": [1.5]}, TypeError, "got 1.5"),
        ({"classes": [True]}, TypeError, "got True"),
        ({"classes": [None]}, TypeError, "got None"),
        ({"classes": 1}, TypeError, "got 1"),
        ({"min_score": 1.5}, ValueError, "min_score must be from 0 to 1, got 1.5"),
        ({"min_score": -0.1}, ValueError, "min_score must be from 0 to 1"),
        ({"min_score": float("nan")}, ValueError, "min_score must be from 0 to 1, got nan"),
    ],
)
def test_filter_refuses(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        found().filter(**options)


def test_equal_names_are_one_class() -> None:
    detections = found(labels=("N/A", "N/A", "dog"))
    assert detections.filter(classes=["N/A"]) == detections[[0, 2, 3]]


# -- conversions -------------------------------------------------------------------------------------------------------


def test_iteration() -> None:
    items = list(found())
    assert items[1] == Detection((0.0, 0.0, 5.5, 5.0), float(np.float32(0.8)), 2, "dog")
    assert [item.label for item in items] == ["person", "dog", "person", "chair"]
    kinds = {type(value) for item in items for value in (*item.xyxy, item.score)}
    assert (kinds, type(items[0].class_id)) == ({float}, int)


def test_to_dicts_is_json() -> None:
    dicts = json.loads(json.dumps(found().to_dicts()))
    wanted = {"label": "person", "class_id": 0, "score": float(np.float32(0.9)), "xyxy": [10.0, 20.0, 30.0, 60.0]}
    assert dicts[0] == wanted
    assert len(dicts) == 4


def test_to_coco() -> None:
    results = json.loads(json.dumps(found().to_coco(42)))
    assert results[1] == {
        "image_id": 42,
        "category_id": 2,
        "bbox": [0.0, 0.0, 5.5, 5.0],
        "score": float(np.float32(0.8)),
    }
    assert results[0]["bbox"] == [10.0, 20.0, 20.0, 40.0]
    assert [item["category_id"] for item in found().to_coco(1, [1, 62, 18])] == [1, 18, 1, 62]
    with pytest.raises(IndexError):
        found().to_coco(1, [1, 62])
