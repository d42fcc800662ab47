"""Evaluation of some classes, of categories that are called otherwise, by size; and annotations that give nothing."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from coco_sets import FAR, A, B, Oracle, check, near, own_truth, save_set, truth

from retinasdk import Detector
from retinasdk.cli.main import main
from retinasdk.evaluation.annotations import Annotations, read_annotations
from retinasdk.evaluation.evaluate import evaluate

pytest.importorskip("pycocotools", reason="evaluation is an extra: pip install 'retinasdk[eval]'")

Write = Callable[..., Path]
BOTH = [("person", 0.9, A), ("dog", 0.8, B)]
TINY = (0.0, 0.0, 20.0, 20.0)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write(annotations) saves them, and a picture for each image they list."""
    return functools.partial(save_set, tmp_path)


def renamed(annotations: dict[str, Any], **names: str) -> dict[str, Any]:
    """The annotations with categories called otherwise."""
    categories = [{**item, "name": names.get(item["name"], item["name"])} for item in annotations["categories"]]
    return {**annotations, "categories": categories}


# -- classes -----------------------------------------------------------------------------------------------------------


def test_some_classes_as_if_there_were_no_others(write: Write) -> None:
    annotations = truth({"0.png": [("person", A), ("dog", B)]})
    result = check(write, annotations, Oracle({"0.png": [("person", 0.9, FAR), *BOTH[1:]]}), classes=["dog"])
    assert list(result.per_class) == ["dog"]
    assert result.metrics["AP"] == near(1.0)
    assert result.left_out == ()  # known, and not asked for
    by_index = check(write, annotations, Oracle({"0.png": BOTH}), classes=[0])
    assert list(by_index.per_class) == ["person"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["dgo"]}, "unknown class 'dgo'; did you mean 'dog'"),
        (
            {"classes": ["chair"]},
            r"truth\.json has no category 'chair', so this class cannot be scored; .* dog, person",
        ),
        ({"classes": []}, "at least one class"),
        ({"rename": {"hound": "dog"}}, r"truth\.json has no category 'hound', so it cannot be mapped to 'dog'"),
        ({"rename": {"dgo": "person"}}, "did you mean 'dog'"),
        ({"rename": {"dog": "hound"}}, "unknown class 'hound'"),
        ({"batch": 0}, "batch must be an integer of at least 1, got 0"),
        ({"batch": 2.5}, "batch must be"),
        ({"batch": True}, "batch must be"),
    ],
    ids=str,
)
def test_options_that_make_no_sense(write: Write, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(write, truth({"0.png": [("dog", A)]}), Oracle({}), **options)


# -- categories that are called otherwise ------------------------------------------------------------------------------


def test_a_category_is_mapped_to_a_label(write: Write) -> None:
    annotations = renamed(truth({"0.png": [("person", A), ("dog", B)]}), dog="hound")
    plain = check(write, annotations, Oracle({"0.png": BOTH}))
    assert (list(plain.per_class), plain.left_out) == (["person"], ("hound",))
    mapped = check(write, annotations, Oracle({"0.png": BOTH}), rename={"hound": "dog"})
    assert list(mapped.per_class) == ["dog", "person"]
    assert (mapped.metrics["AP"], mapped.left_out) == (near(1.0), ())


def test_two_categories_become_one_label(write: Write) -> None:
    annotations = renamed(truth({"0.png": [("person", A), ("dog", B)]}), dog="rider")
    found = [("person", 0.9, A), ("person", 0.8, B)]
    result = check(write, annotations, Oracle({"0.png": found}), rename={"rider": "person"})
    assert list(result.per_class) == ["person"]
    assert (result.per_class["person"].boxes, result.metrics["AP"]) == (2, near(1.0))


def test_a_mapping_goes_before_an_equal_name(write: Write) -> None:
    annotations = truth({"0.png": [("person", A)]})
    result = check(write, annotations, Oracle({"0.png": [("chair", 0.9, A)]}), rename={"person": "chair"})
    assert list(result.per_class) == ["dog", "chair"]
    assert (result.per_class["chair"].AP, result.per_class["chair"].boxes) == (near(1.0), 1)


def test_the_command_maps_and_selects(
    write: Write,
    detector: Detector,
    model_path: Path,
    tmp_path: Path,
) -> None:
    path, target = write(renamed(own_truth(detector), dog="hound", person="human")), tmp_path / "result.json"
    words = ["eval", "--model", model_path, "--images", tmp_path, "--annotations", path, "--json", target]
    words += ["--score", "0.3", "--map", "hound=dog", "--map", " human = person ", "--classes", "dog", "--batch", "2"]
    assert main(list(map(str, words))) == 0
    result = json.loads(target.read_text())
    assert (result["AP"], list(result["per_class"])) == (near(1.0), ["dog"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--map", "hound"], "expected CATEGORY=LABEL such as pedestrian=person, got 'hound'"),
        (["--map", "=dog"], "such as pedestrian=person"),
        (["--map", "dog="], "such as pedestrian=person"),
        (["--map", "dog=person", "--map", "dog=chair"], "--map is given twice for one category"),
        (["--batch", "0"], "batch must be"),
        (["--classes", "cat"], "unknown class 'cat'"),
        (["--report", "truth.json/report"], "the output folder cannot be created"),
    ],
    ids=str,
)
def test_bad_words_of_the_command(
    write: Write,
    model_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    path = write(truth({"0.png": [("dog", A)]}))
    monkeypatch.chdir(tmp_path)
    common = ["eval", "--model", str(model_path), "--images", str(tmp_path), "--annotations", str(path)]
    assert main([*common, *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


# -- sizes and the best threshold --------------------------------------------------------------------------------------


def test_average_precision_by_class_and_size(write: Write) -> None:
    annotations = truth({"0.png": [("person", A), ("person", TINY), ("dog", B)]})
    found = [("person", 0.9, A), ("dog", 0.8, B)]
    result = check(write, annotations, Oracle({"0.png": found}))
    entry = json.loads(json.dumps(result.to_dict()))["per_class_and_size"]
    assert entry["person"] == {
        "small": {"AP": 0.0, "boxes": 1},
        "medium": {"AP": near(1.0), "boxes": 1},
        "large": {"AP": None, "boxes": 0},
    }
    assert entry["dog"]["medium"] == {"AP": near(1.0), "boxes": 1}


def test_the_best_threshold_by_hand(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    annotations = truth({"0.png": [("person", A), ("person", B)], "1.png": [("dog", A)]})
    found = {"0.png": [("person", 0.75, A), ("person", 0.25, FAR)], "1.png": [("dog", 0.5, A)]}
    point = check(write, annotations, Oracle(found)).best_f1
    assert (point.score, point.precision, point.recall, point.f1) == (0.375, 1.0, near(2 / 3), near(0.8))
    assert check(write, annotations, Oracle({})).best_f1 is None


# -- annotations that give nothing, and others -------------------------------------------------------------------------


def test_there_must_be_something_to_find(write: Write) -> None:
    with pytest.raises(ValueError, match=r"truth\.json: none of its 0 boxes is of a scored class"):
        check(write, truth({"0.png": []}), Oracle({}))
    with pytest.raises(ValueError, match=r"none of its 1 boxes is of a scored class \(dog\)"):
        check(write, truth({"0.png": [("person", A)]}), Oracle({}), classes=["dog"])


def test_missing_pictures_are_counted(write: Write, detector: Detector, tmp_path: Path) -> None:
    path = write(truth({"0.png": [("person", A)], "1.png": [], "2.png": []}))
    for name in ("1.png", "2.png"):
        (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=r"lists 1\.png, which is not in .* \(2 of its 3 images are missing\); give"):
        evaluate(detector, tmp_path, path)


def test_long_masks_are_not_part_of_the_message(write: Write) -> None:
    annotations = truth({"0.png": [("person", A)]})
    annotations["annotations"][0] |= {"image_id": 5, "segmentation": [[1.0] * 5000]}
    with pytest.raises(ValueError, match=r"image_id 5, which is not listed") as caught:
        check(write, annotations, Oracle({}))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("area", [float("nan"), -1.0, "big", None])
def test_broken_areas(write: Write, area: Any) -> None:
    annotations = truth({"0.png": [("person", A)]})
    annotations["annotations"][0]["area"] = area
    with pytest.raises(ValueError, match=r"truth\.json: expected COCO format"):
        check(write, annotations, Oracle({}))


@pytest.mark.parametrize("ids", [(7, 3, 5), ("seven", "three", "five")], ids=["numbers", "names"])
def test_ids_of_images_may_come_in_any_order(write: Write, ids: tuple[Any, ...]) -> None:
    annotations = truth({f"{index}.png": [("person", A)] for index in range(3)})
    new_id = {item["id"]: image_id for item, image_id in zip(annotations["images"], ids, strict=True)}
    for item in annotations["images"]:
        item["id"] = new_id[item["id"]]
    for item in annotations["annotations"]:
        item["image_id"] = new_id[item["image_id"]]
    result = check(write, annotations, Oracle({"0.png": [("person", 0.9, A)], "2.png": [("person", 0.8, A)]}))
    assert result.metrics["AR100"] == near(2 / 3)


def test_ids_of_two_kinds(write: Write) -> None:
    images = [{"id": 1, "file_name": "0.png"}, {"id": "two", "file_name": "1.png"}]
    with pytest.raises(ValueError, match=r"truth\.json: expected COCO format"):
        check(write, truth({"0.png": []}, images=images), Oracle({}))


# -- large images ------------------------------------------------------------------------------------------------------


def test_more_detections_may_count_than_cocos_hundred(write: Write) -> None:
    """120 trees, all found: 100 that count are 100 of 120."""
    boxes = [
        (10.0 * column, 10.0 * row, 10.0 * column + 8, 10.0 * row + 8) for row in range(12) for column in range(10)
    ]
    path = write(truth({"0.png": [("person", box) for box in boxes]}))
    oracle = Oracle({"0.png": [("person", 0.9 - index / 1000, box) for index, box in enumerate(boxes)]})
    few, all_of_them = (evaluate(oracle, path.parent, path, **options) for options in ({}, {"counted": 120}))
    assert few.metrics["AR100"] == near(100 / 120)
    assert few.metrics["AP"] == near(84 / 101)  # recalls of 0, 0.01, ... 0.83 are reached
    assert (all_of_them.metrics["AR120"], all_of_them.metrics["AP"]) == (near(1.0), near(1.0))
    with pytest.raises(ValueError, match="counted must be an integer of at least 1, got 0"):
        evaluate(oracle, path.parent, path, counted=0)


def test_tiles_are_the_detectors(write: Write, detector: Detector, model_path: Path, tmp_path: Path) -> None:
    path = write(own_truth(detector))
    words = ["eval", "--model", str(model_path), "--images", str(path.parent), "--annotations", str(path)]
    target = tmp_path / "numbers.json"
    results = []
    for options in ([], ["--tiles", "1000"], ["--tiles", "50"]):
        assert main([*words, "--score", "0.3", "--json", str(target), "--overwrite", *options]) == 0
        results.append(json.loads(target.read_text()))
    assert results[0] == results[1]  # one tile is the image
    assert results[2]["AP"] < results[0]["AP"]
    with pytest.raises(TypeError, match="tiles must be"):
        evaluate(detector, path.parent, path, tiles="all")  # type: ignore[arg-type]


HUGE = 10**400


@pytest.mark.parametrize(
    "changes",
    [
        {"categories": [{"id": 1, "name": 5}]},
        {"categories": [{"id": 1, "name": ["dog"]}]},
        {"images": [{"id": 1, "file_name": 5}]},
        {"annotations": [{"image_id": 1, "category_id": 1, "bbox": [HUGE, 0, 1, 1]}]},
        {"annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "area": HUGE}]},
        {"annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "segmentation": [[HUGE] * 8]}]},
        "[" * 100_000 + "]" * 100_000,
        '{"images": [{"id": ' + "9" * 5000 + "}]}",
    ],
    ids=["name-number", "name-list", "file-number", "box", "area", "corners", "nested", "digits"],
)
def test_hostile_annotations_are_refused_in_a_sentence(tmp_path: Path, changes: Any) -> None:
    whole = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}],
    }
    path = tmp_path / "hostile.json"
    path.write_text(changes if isinstance(changes, str) else json.dumps({**whole, **changes}))
    with pytest.raises(ValueError, match=r"hostile\.json: expected COCO"):
        read_annotations(path)


def test_images_are_read_inside_the_folder_only(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    for place in (folder / "a.png", folder / "below" / "b.png", tmp_path / "secret.png"):
        place.write_bytes(b"x")

    def paths(*names: str) -> list[Path]:
        return Annotations(tmp_path / "truth.json", ("dog",), names, ((),) * len(names)).paths(folder)

    good = ("a.png", "below/b.png", "below/../a.png", str(folder / "a.png"))
    assert len(paths(*good)) == 4
    for name in ("../secret.png", "below/../../secret.png", str(tmp_path / "secret.png"), "../images2/a.png"):
        with pytest.raises(ValueError, match="which is outside the folder of the images"):
            paths("a.png", name)
    with pytest.raises(ValueError, match="which is not in"):
        paths("x" * 5000)
