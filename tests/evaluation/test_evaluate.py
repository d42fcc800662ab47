"""COCO evaluation: numbers worked out by hand, ground truth from the model itself, and annotations that are broken."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from coco_sets import CATEGORIES, FAR, A, B, Oracle, check, near, own_truth, save_set, truth

from retinasdk import Detector, ImageError, Progress
from retinasdk.cli.main import main
from retinasdk.evaluation.evaluate import METRICS, evaluate
from retinasdk.evaluation.results import Evaluation

pytest.importorskip("pycocotools", reason="evaluation is an extra: pip install 'retinasdk[eval]'")


def ap_of(result: Evaluation, label: str) -> float | None:
    return result.per_class[label].AP


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """write(annotations) saves them, and a picture for each image they list."""
    return functools.partial(save_set, tmp_path)


# Shifted by s, a box of width w has IoU (w - s) / (w + s) with itself.
SHIFTED = (A[0] + 40 * 0.28 / 1.72, A[1], A[2] + 40 * 0.28 / 1.72, A[3])  # IoU 0.72
HALF = 51 / 101  # recall 0.5 reaches 51 of the 101 recall points
LATE_HALF = 0.5 * HALF  # the same with a false alarm before it: a precision of 0.5


@pytest.mark.parametrize(
    ("found", "ap", "ap50", "ap75"),
    [
        ([("person", 0.9, A), ("person", 0.8, B)], 1.0, 1.0, 1.0),
        ([("person", 0.9, A), ("person", 0.8, B), ("person", 0.7, FAR)], 1.0, 1.0, 1.0),  # a late false alarm is free
        ([("person", 0.9, FAR), ("person", 0.8, A), ("person", 0.7, B)], 2 / 3, 2 / 3, 2 / 3),
        ([("person", 0.9, A)], HALF, HALF, HALF),
        ([("person", 0.9, A), ("dog", 0.8, B)], HALF, HALF, HALF),  # the right box of a wrong class
        # At five of the ten IoU thresholds A is found, at the others it is a false alarm before the hit on B.
        ([("person", 0.9, SHIFTED), ("person", 0.8, B)], 0.5 + 0.5 * LATE_HALF, 1.0, LATE_HALF),
        ([("person", 0.9, A), ("person", 0.8, A)], HALF, HALF, HALF),  # the same object twice
        ([], 0.0, 0.0, 0.0),
    ],
    ids=["perfect", "late alarm", "early alarm", "half", "wrong class", "inexact", "twice", "nothing"],
)
def test_numbers_by_hand(write: Callable[..., Path], found: Any, ap: float, ap50: float, ap75: float) -> None:
    annotations = truth({"0.png": [("person", A), ("person", B)]})
    result = check(write, annotations, Oracle({"0.png": found}))
    person = result.per_class["person"]
    assert [person.AP, person.AP50, person.boxes] == [near(ap), near(ap50), 2]
    assert [result.metrics[name] for name in ("AP", "AP50", "AP75")] == [near(ap), near(ap50), near(ap75)]


def test_result_has_the_twelve_numbers(write: Callable[..., Path]) -> None:
    annotations = truth({"0.png": [("person", A)], "1.png": [("dog", B)], "2.png": []})
    result = check(write, annotations, Oracle({"0.png": [("person", 0.9, A)]}))
    assert list(result.metrics) == list(METRICS)
    assert result.images == 3
    assert result.metrics["AP"] == near(0.5)  # the mean over both classes
    assert [ap_of(result, "person"), ap_of(result, "dog")] == [near(1.0), 0.0]
    assert result.metrics["APl"] is None  # there is no large object
    assert result.metrics["APm"] == near(0.5)  # 40 x 40 and 50 x 60 pixels
    content = json.loads(json.dumps(result.to_dict()))
    assert content["per_class"]["dog"] == {"AP": 0.0, "AP50": 0.0, "boxes": 1}
    assert content["AP"] == result.metrics["AP"]


def test_classes_without_boxes_do_not_count(write: Callable[..., Path]) -> None:
    result = check(write, truth({"0.png": [("person", A)]}), Oracle({"0.png": [("person", 0.9, A), ("dog", 0.9, B)]}))
    assert result.metrics["AP"] == near(1.0)
    assert (result.per_class["dog"].AP, result.per_class["dog"].boxes) == (None, 0)


def test_crowds_are_ignored(write: Callable[..., Path]) -> None:
    annotations = truth({"0.png": [("person", A), ("person", B)]})
    annotations["annotations"][1]["iscrowd"] = 1
    found = [("person", 0.9, (60.0, 20.0, 80.0, 50.0)), ("person", 0.8, A)]
    result = check(write, annotations, Oracle({"0.png": found}))
    assert ap_of(result, "person") == near(1.0)
    assert result.per_class["person"].boxes == 1


def test_unknown_categories_are_left_out_and_named(write: Callable[..., Path]) -> None:
    annotations = truth({"0.png": [("person", A)]})
    annotations["categories"] = [*CATEGORIES, {"id": 3, "name": "zebra"}, {"id": 4, "name": "Person"}]
    annotations["annotations"].append({"id": 9, "image_id": 100, "category_id": 3, "bbox": [0, 0, 5, 5]})
    result = check(write, annotations, Oracle({"0.png": [("person", 0.9, A), ("chair", 0.9, B)]}))
    assert result.left_out == ("Person", "zebra")
    assert list(result.per_class) == ["dog", "person"]
    assert result.metrics["AP"] == near(1.0)


def test_no_known_category(write: Callable[..., Path]) -> None:
    annotations = truth({"0.png": []}, categories=[{"id": 1, "name": "zebra"}])
    with pytest.raises(
        ValueError, match=r"none of its categories \(zebra\) is a label of the model \(person, chair, dog\)"
    ):
        check(write, annotations, Oracle({}))


def test_score_threshold_and_progress(write: Callable[..., Path]) -> None:
    annotations = truth({f"{index}.png": [("person", A)] for index in range(10)})
    oracle = Oracle({f"{index}.png": [("person", 0.05, A)] for index in range(10)})
    seen: list[Progress] = []
    assert check(write, annotations, oracle, batch=4, progress=seen.append).metrics["AP"] == near(1.0)
    assert [(item.done, item.total, item.unit) for item in seen[:3]] == [(n, 10, "image") for n in (0, 4, 8)]
    assert seen[3] == Progress("compute the average precision")
    assert check(write, annotations, oracle, score_threshold=0.1).metrics["AP"] == 0.0


def test_it_prints_nothing(write: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    check(write, truth({"0.png": [("person", A)]}), Oracle({"0.png": [("person", 0.9, A)]}))
    assert capsys.readouterr() == ("", "")


# -- the real detector, by the command ---------------------------------------------------------------------------------


def run_eval(path: Path, model_path: Path, *options: str) -> dict[str, Any]:
    target = path.with_name("result.json")
    words = ["eval", "--model", str(model_path), "--images", str(path.parent), "--annotations", str(path)]
    assert main([*words, "--score", "0.3", "--json", str(target), "--overwrite", *options]) == 0
    return dict(json.loads(target.read_text()))


def test_a_model_agrees_with_itself(
    write: Callable[..., Path], detector: Detector, model_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotations = own_truth(detector)
    result = run_eval(write(annotations), model_path)
    assert (result["AP"], result["AP50"], result["AP75"]) == (near(1.0),) * 3
    assert result["images"] == 5
    counts = {name: entry["boxes"] for name, entry in result["per_class"].items()}
    assert sum(counts.values()) == len(annotations["annotations"])
    out, err = capsys.readouterr()
    assert err == ""
    assert [name in out for name in (*METRICS, "person", "dog", "5 images")] == [True] * 15
    assert "1.000" in out


def test_a_perturbed_truth_gives_less(write: Callable[..., Path], detector: Detector, model_path: Path) -> None:
    annotations = own_truth(detector)
    for item in annotations["annotations"][::2]:
        x, y, width, height = item["bbox"]
        item["bbox"] = [x + width, y, width, height]  # beside the detection
    result = run_eval(write(annotations), model_path)
    assert 0.0 <= result["AP"] < 0.9
    for item in annotations["annotations"]:
        item["category_id"] = {1: 7, 7: 1}[item["category_id"]]
    assert run_eval(write(annotations), model_path)["AP"] < 0.2


def test_left_out_categories_are_printed(
    write: Callable[..., Path], detector: Detector, model_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotations = own_truth(detector, 1)
    annotations["categories"] = [*CATEGORIES, {"id": 3, "name": "zebra"}]
    assert run_eval(write(annotations), model_path)["left_out"] == ["zebra"]
    assert "as the model has no such class: zebra" in capsys.readouterr().out


# -- broken annotations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be parsed"),
        ("{", "cannot be parsed"),
        ("[]", "expected COCO format"),
        ("null", "expected COCO format"),
        ("{}", "got KeyError: 'images'"),
        ('{"images": [], "categories": [], "annotations": []}', "at least one image"),
        ('{"images": [{"id": 1}], "categories": [], "annotations": []}', "'file_name'"),
        ('{"images": {"id": 1}, "categories": [], "annotations": []}', "expected COCO format"),
        ('{"images": [{"id": 1, "file_name": "0.png"}], "annotations": []}', "'categories'"),
        (
            '{"images": [{"id": 1, "file_name": 5}], "categories": [{"id": 1, "name": "dog"}], "annotations": []}',
            "file_name",
        ),
    ],
)
def test_text_that_is_no_annotation(tmp_path: Path, detector: Detector, content: str, message: str) -> None:
    path = tmp_path / "truth.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        evaluate(detector, tmp_path, path)
    assert "truth.json" in str(caught.value)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"bbox": [1, 2, 3]}, "bbox of four numbers"),
        ({"bbox": "wide"}, "bbox of four numbers"),
        ({"bbox": [1, 2, 3, None]}, "bbox of four numbers"),
        ({"bbox": [1, 2, -3, 4]}, "bbox"),
        ({"bbox": [1, 2, float("nan"), 4]}, "bbox"),
        ({"image_id": 999}, "image_id|999"),
        ({"category_id": 999}, "category_id|999"),
        ({"image_id": ...}, "image_id"),
        ({"category_id": ...}, "category_id"),
        ({"bbox": ...}, "bbox"),
    ],
    ids=str,
)
def test_broken_annotations(write: Callable[..., Path], item: dict[str, Any], message: str) -> None:
    annotations = truth({"0.png": [("person", A), ("dog", B)]})
    broken = {**annotations["annotations"][0], **item}
    annotations["annotations"][0] = {key: value for key, value in broken.items() if value is not ...}
    with pytest.raises(ValueError, match=message) as caught:
        check(write, annotations, Oracle({}))
    assert "truth.json" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [{"id": 1, "file_name": "0.png"}, {"id": 1, "file_name": "1.png"}]}, "id"),
        ({"categories": [{"id": 1, "name": "person"}, {"id": 1, "name": "dog"}]}, "id"),
        ({"categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "person"}]}, "person"),
    ],
    ids=["image ids", "category ids", "category names"],
)
def test_what_is_named_twice(write: Callable[..., Path], changes: dict[str, Any], message: str) -> None:
    annotations = truth({"0.png": []}, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        check(write, annotations, Oracle({}))
    assert "truth.json" in str(caught.value)


def test_missing_and_broken_pictures(write: Callable[..., Path], detector: Detector, tmp_path: Path) -> None:
    path = write(truth({"0.png": [("person", A)], "1.png": []}))
    (tmp_path / "1.png").write_bytes(b"broken")
    with pytest.raises(ImageError, match=r"1\.png"):
        evaluate(detector, tmp_path, path)
    (tmp_path / "1.png").unlink()
    with pytest.raises(ValueError, match=r"lists 1\.png, which is not in .*; give the folder that holds it"):
        evaluate(detector, tmp_path, path)
    with pytest.raises(ValueError, match="which is not in"):
        evaluate(detector, tmp_path / "none", path)
