"""Scoring image by image against pycocotools given everything at once; the best threshold; memory."""

from __future__ import annotations

import contextlib
import io
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pictures import blocks
from PIL import Image as PillowImage

from retinasdk import Detections
from retinasdk.evaluation.annotations import TrueBox
from retinasdk.evaluation.coco import SIZES, CocoNumbers, CocoScorer
from retinasdk.evaluation.evaluate import METRICS, evaluate
from retinasdk.evaluation.operating_point import best_f1, worst_images

pytest.importorskip("pycocotools", reason="evaluation is an extra: pip install 'retinasdk[eval]'")

LABELS = ("a", "b", "c", "never")
Scene = tuple[list[TrueBox], Detections]


def scene(random: np.random.Generator, boxes: int, found: int) -> Scene:
    """Boxes of all three sizes, some of them crowds, and detections near them and elsewhere, with many equal scores."""
    truth = []
    for _ in range(boxes):
        x, y = random.uniform(0, 300, 2)
        width, height = random.choice([10.0, 32.0, 60.0, 96.0, 150.0], 2)
        area = width * height * random.choice([1.0, 0.7])  # as COCO's, which are of masks
        truth.append(TrueBox(int(random.integers(3)), (x, y, width, height), area, bool(random.random() < 0.1)))
    xyxy = np.zeros((found, 4))
    class_ids = random.integers(0, 3, found)
    for row in range(found):
        x, y, width, height = random.uniform(5, 200, 4)
        if truth and random.random() < 0.6:
            near = truth[random.integers(len(truth))]
            x, y, width, height = np.array(near.xywh) + random.normal(0, 6, 4)
            class_ids[row] = near.category
        xyxy[row] = x, y, x + max(width, 1), y + max(height, 1)
    scores = np.sort(np.round(random.uniform(0, 1, found), 2))[::-1]
    return truth, Detections(xyxy, scores, class_ids, LABELS)


def scenes(seed: int, count: int) -> list[Scene]:
    random = np.random.default_rng(seed)
    return [scene(random, int(random.integers(0, 9)), int(random.integers(0, 40))) for _ in range(count)]


def by_pycocotools(items: list[Scene]) -> Any:
    """COCOeval of everything at once, as its own documentation has it."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": image} for image in range(len(items))],
        "categories": [{"id": number, "name": label} for number, label in enumerate(LABELS)],
        "annotations": [
            {
                "id": 1000 * image + place + 1,
                "image_id": image,
                "category_id": box.category,
                "bbox": list(box.xywh),
                "area": box.area,
                "iscrowd": int(box.is_crowd),
            }
            for image, (boxes, _) in enumerate(items)
            for place, box in enumerate(boxes)
        ],
    }
    results = [entry for image, (_, found) in enumerate(items) for entry in found.to_coco(image)]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        scorer = COCOeval(truth, truth.loadRes(results), "bbox")
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    return scorer


def scored(items: list[Scene]) -> tuple[CocoScorer, CocoNumbers]:
    scorer = CocoScorer(LABELS)
    for boxes, found in items:
        scorer.add(boxes, found)
    return scorer, scorer.numbers()


@pytest.mark.parametrize("seed", range(4))
def test_image_by_image_is_all_at_once(seed: int) -> None:
    items = scenes(seed, 25)
    wanted, (_, ours) = by_pycocotools(items), scored(items)
    assert [ours.metrics[name] for name in METRICS] == [value if value > -1 else None for value in wanted.stats]
    np.testing.assert_array_equal(ours.precision, wanted.eval["precision"][..., -1])
    assert 0.02 < (ours.metrics["AP"] or 0) < 0.98


def test_more_than_a_hundred_of_a_class_in_one_image() -> None:
    items = [scene(np.random.default_rng(seed), 30, 400) for seed in range(2)]
    wanted, (_, ours) = by_pycocotools(items), scored(items)
    np.testing.assert_array_equal(ours.precision, wanted.eval["precision"][..., -1])
    assert list(ours.metrics.values()) == [value if value > -1 else None for value in wanted.stats]


def test_boxes_are_counted_by_size_without_crowds() -> None:
    areas = [(0, 100.0, False), (0, 1023.0, False), (0, 2000.0, False), (1, 9217.0, False), (1, 50.0, True)]
    boxes = [TrueBox(category, (0.0, 0.0, 9.0, 9.0), area, crowd) for category, area, crowd in areas]
    _, ours = scored([(boxes, Detections.empty(LABELS)), ([], Detections.empty(LABELS))])
    assert SIZES == ("all", "small", "medium", "large")
    assert ours.boxes.tolist() == [[3, 2, 1, 0], [1, 0, 0, 1], [0] * 4, [0] * 4]
    assert ours.boxes_of_image.tolist() == [4, 0]
    assert ours.average_precision(0, "small") == 0.0
    assert ours.average_precision(0, "large") is None


# -- the best threshold ------------------------------------------------------------------------------------------------


def hits(scores: npt.NDArray[np.float64], is_true: npt.NDArray[np.bool_], boxes: int) -> CocoNumbers:
    """Numbers of one image, of which only what a threshold needs means anything."""
    order = np.argsort(-scores, kind="stable")
    nothing = np.zeros(0)
    image = np.zeros(scores.size, np.int64)
    return CocoNumbers({}, nothing, nothing, scores[order], is_true[order], image, np.array([boxes]))  # type: ignore[arg-type]


@given(st.data())
def test_best_f1_is_the_best_of_all_thresholds(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 30))
    scores = data.draw(hnp.arrays(np.float64, count, elements=st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.50001, 0.9])))
    is_true = data.draw(hnp.arrays(np.bool_, count))
    boxes = int(is_true.sum()) + data.draw(st.integers(0, 5))
    point = best_f1(hits(scores, is_true, boxes))
    if not boxes:
        assert point is None
        return
    assert point is not None

    def f1(threshold: float) -> float:
        taken, right = int((scores > threshold).sum()), int(is_true[scores > threshold].sum())
        return 0.0 if not right else 2 / (taken / right + boxes / right)

    assert point.f1 == pytest.approx(f1(point.score))
    assert point.f1 == pytest.approx(max(f1(threshold) for threshold in (*scores, 0.0)))
    assert point.score not in scores
    taken = scores > point.score
    assert point.precision == pytest.approx(is_true[taken].sum() / taken.sum())
    assert point.recall == pytest.approx(is_true[taken].sum() / boxes)


def test_without_detections_there_is_no_best_threshold() -> None:
    assert best_f1(hits(np.zeros(0), np.zeros(0, np.bool_), 3)) is None


@pytest.mark.parametrize("threshold", [0.0, 0.305, 0.755, 1.0])
def test_counts_of_the_worst_images_are_those_of_single_matches(threshold: float) -> None:
    """What is counted from the records of all detections, and what is drawn from a new match above the threshold."""
    items = scenes(seed=7, count=20)
    scorer, numbers = scored(items)
    worst = worst_images(numbers, threshold, most=100)
    mistakes = [item.missed + item.false for item in worst]
    assert mistakes == sorted(mistakes, reverse=True)
    assert all(mistakes)
    assert len(worst) > 10
    for item in worst:
        boxes, found = items[item.image]
        matches = scorer.matches(boxes, found[found.scores > threshold])
        assert (matches.missed.sum(), matches.false.sum(), matches.true.sum()) == (item.missed, item.false, item.true)
        ordinary = sum(not box.is_crowd for box in boxes)
        assert matches.missed.sum() + matches.true.sum() == ordinary
        assert not (matches.true & matches.false).any()
    assert worst_images(numbers, threshold, most=3) == worst[:3]


def test_matches_by_hand() -> None:
    """A box found twice, one found by the wrong class, one missed, and a crowd with two detections on it."""
    truth = [
        TrueBox(0, (10, 10, 40, 40), 1600, False),
        TrueBox(1, (100, 10, 40, 40), 1600, False),
        TrueBox(0, (200, 10, 40, 40), 1600, False),
        TrueBox(0, (10, 100, 200, 90), 18000, True),
    ]
    xyxy = np.array(
        [(10, 10, 50, 50), (12, 10, 50, 50), (100, 10, 140, 50), (20, 110, 60, 150), (70, 110, 100, 150)], np.float32
    )
    found = Detections(xyxy, np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([0, 0, 0, 0, 0]), LABELS)
    matches = CocoScorer(LABELS).matches(truth, found)
    assert matches.true.tolist() == [True, False, False, False, False]
    assert matches.false.tolist() == [False, True, True, False, False]
    assert matches.missed.tolist() == [False, True, True, False]


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.heavy
def test_a_detection_takes_few_bytes(traced: None) -> None:
    random, scorer = np.random.default_rng(0), CocoScorer(LABELS)
    scorer.add(*scene(random, 3, 300))  # what pycocotools loads once
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(30):
        scorer.add(*scene(random, 3, 300))
    taken = tracemalloc.get_traced_memory()[0] - before
    assert taken / (30 * 300) < 60  # pycocotools' own results take more than 1000


def test_images_are_not_kept(detector: Any, tmp_path: Path, traced: None) -> None:
    PillowImage.fromarray(blocks(600, 600)).save(tmp_path / "picture.bmp")  # 1 MB

    def peak(images: int) -> int:
        annotations = {
            "images": [{"id": number, "file_name": "picture.bmp"} for number in range(images)],
            "categories": [{"id": 1, "name": "dog"}],
            "annotations": [{"image_id": number, "category_id": 1, "bbox": [5, 5, 60, 60]} for number in range(images)],
        }
        (tmp_path / "truth.json").write_text(json.dumps(annotations))
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        assert evaluate(detector, tmp_path, tmp_path / "truth.json", batch=4, score_threshold=0.5).images == images
        return tracemalloc.get_traced_memory()[1] - before

    peak(4)  # what is loaded once
    few, many = peak(8), peak(48)
    assert few > 3_000_000  # the measure sees pixels: a batch is four images
    assert many < few + 1_000_000
