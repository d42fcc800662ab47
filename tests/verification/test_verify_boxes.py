"""`verify_boxes`, and `retinasdk verify --expected`: our boxes against those that a framework printed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from foreign.torchvision_graph import torchvision_graph
from PIL import Image

import retinasdk
from retinasdk import Detections, Detector, verify_boxes
from retinasdk.cli.main import main

LABELS = ("cat", "dog", "bird")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of three classes, and a photo."""
    folder = tmp_path_factory.mktemp("boxes")
    onnx.save(torchvision_graph(score_threshold=0.3)[0], str(folder / "theirs.onnx"))
    retinasdk.import_onnx(folder / "theirs.onnx", folder / "model.onnx", labels=LABELS)
    cells = np.random.default_rng(3).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    Image.fromarray(np.kron(cells, np.ones((12, 12, 1), np.uint8))).save(folder / "photo.png")
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> Detections:
    with Detector(folder / "model.onnx", device="cpu", convolution="direct") as detector:
        found = detector(folder / "photo.png")
    assert len(found) >= 25
    assert len(set(found.class_ids.tolist())) == 3
    return found


def table(found: Detections, **changes: Any) -> dict[str, Any]:
    content = {"boxes": found.xyxy, "scores": found.scores, "labels": found.class_ids, **changes}
    return {name: np.asarray(values).tolist() for name, values in content.items()}


def compared(folder: Path, expected: Any, **options: Any) -> retinasdk.BoxComparison:
    return verify_boxes(folder / "model.onnx", expected, folder / "photo.png", **options)


def in_coco(found: Detections) -> list[dict[str, Any]]:
    sizes = found.xyxy[:, 2:] - found.xyxy[:, :2]
    return [
        {"image_id": 7, "bbox": [*box[:2], *size], "score": score, "category_id": class_id}
        for box, size, score, class_id in zip(
            found.xyxy.tolist(), sizes.tolist(), found.scores.tolist(), found.class_ids.tolist(), strict=True
        )
    ]


# -- forms -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        table,
        lambda found: table(found, labels=found.names),
        lambda found: [table(found)],
        lambda found: {
            "pred_boxes": found.xyxy.tolist(),
            "scores": found.scores.tolist(),
            "pred_classes": found.class_ids.tolist(),
        },
        lambda found: {**table(found), "labels": [float(value) for value in found.class_ids]},
        lambda found: {
            "boxes": [*found.xyxy.tolist(), [-1.0] * 4],
            "confidence": [*found.scores.tolist(), -1.0],
            "labels": [*found.class_ids.tolist(), -1],
        },
        in_coco,
    ],
    ids=["table", "names", "torchvision", "detectron2", "float labels", "keras", "coco"],
)
def test_forms(form: Callable[[Detections], Any], folder: Path, found: Detections, tmp_path: Path) -> None:
    (tmp_path / "boxes.json").write_text(json.dumps(form(found)))
    for expected in (form(found), tmp_path / "boxes.json"):
        result = compared(folder, expected)
        assert result.passed
        assert result.agreeing == result.expected == result.found == len(found)
        assert (result.max_pixels < 1e-4, result.max_score < 1e-6, result.causes) == (True, True, ())


@pytest.mark.parametrize("box_format", ["xywh", "cxcywh"])
def test_box_formats(box_format: str, folder: Path, found: Detections) -> None:
    start, size = found.xyxy[:, :2], found.xyxy[:, 2:] - found.xyxy[:, :2]
    boxes = np.concatenate([start if box_format == "xywh" else start + size / 2, size], axis=1)
    assert compared(folder, table(found, boxes=boxes), box_format=box_format).passed
    result = compared(folder, table(found, boxes=boxes))
    assert not result.passed
    assert f"add --box-format {box_format} (in Python: box_format='{box_format}')" in result.causes[0]


UNUSABLE: dict[str, tuple[Any, str]] = {
    "huge edges": ({"boxes": [[10**400, 0, 1, 1]], "scores": [1], "labels": [0]}, "must be numbers"),
    "huge scores": ({"boxes": [[0, 0, 1, 1]], "scores": [10**400], "labels": [0]}, "must be numbers"),
    "huge classes": ({"boxes": [[0, 0, 1, 1]], "scores": [1], "labels": [10**400]}, "a class index is out of range"),
    "nothing": ({}, r'expected must be {"boxes"'),
    "a number": (3, r'expected must be {"boxes"'),
    "no scores": ({"boxes": [], "labels": []}, "has no 'scores', only boxes, labels"),
    "no category": ([{"bbox": [0, 0, 1, 1], "score": 1}], "an entry of the list has no 'category_id'"),
    "two images": ([{"image_id": 1}, {"image_id": 2}], "has results of 2 images; keep those of the one"),
    "lengths": ({"boxes": [[0, 0, 1, 1]], "scores": [1, 1], "labels": [0]}, r"got \(1, 4\), \(2,\) and \(1,\)"),
    "ragged": ({"boxes": [[0, 0, 1], [1]], "scores": [1, 1], "labels": [0, 0]}, "boxes and scores must be numbers"),
    "five numbers": ({"boxes": [[0, 0, 1, 1, 5]], "scores": [1], "labels": [0]}, r"got \(1, 5\)"),
    "infinite": ({"boxes": [[0, 0, 1, float("inf")]], "scores": [1], "labels": [0]}, "must be finite numbers"),
    "a name": (
        {"boxes": [[0, 0, 1, 1]], "scores": [1], "labels": ["cow"]},
        "'cow' is no label of the model.* cat",
    ),
    "half a class": ({"boxes": [[0, 0, 1, 1]], "scores": [1], "labels": [0.5]}, "class indices or names, got 0.5"),
    "a huge class": ({"boxes": [[0, 0, 1, 1]], "scores": [1], "labels": [1 << 80]}, "a class index is out of range"),
}


@pytest.mark.parametrize(("expected", "message"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_unusable_content(expected: Any, message: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=message):
        compared(folder, expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is no file"),
        (b"", "cannot be read as JSON"),
        (b"\xff", "cannot be read as JSON"),
        (b"[" * 100_000, "JSON"),
    ],
    ids=["missing", "empty", "bytes", "deep"],
)
def test_unusable_files(content: bytes | None, message: str, folder: Path, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "boxes.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        compared(folder, tmp_path / "boxes.json")


@pytest.mark.parametrize(
    "options", [{"pixels": 0.0}, {"pixels": float("nan")}, {"score": -1.0}, {"box_format": "yxyx"}]
)
def test_unusable_options(options: dict[str, Any], folder: Path, found: Detections) -> None:
    with pytest.raises(ValueError, match=r"must be (a number above 0|one of xyxy, xywh, cxcywh)"):
        compared(folder, table(found), **options)


# -- differences and their causes --------------------------------------------------------------------------------------

SIZE = np.array([240, 144, 240, 144])
CAUSES: dict[str, tuple[Callable[[Detections], dict[str, Any]], str]] = {
    "last pixel": (
        lambda found: table(found, boxes=found.xyxy - [0, 0, 1, 1]),
        "x2 and y2 are raised by one: one side names the last pixel",
    ),
    "one more": (lambda found: table(found, boxes=np.add(found.xyxy, [0, 0, 1, 1])), "x2 and y2 are lowered by one"),
    "shifted": (
        lambda found: table(found, boxes=np.add(found.xyxy, [4, -2, 4, -2])),
        "are shifted by -4, 2 pixels",
    ),
    "scaled": (
        lambda found: table(found, boxes=found.xyxy * [2, 1.5, 2, 1.5]),
        r"they are multiplied by 0\.5 in x and 0\.6667 in y: they are in pixels of the resized image",
    ),
    "fractions": (lambda found: table(found, boxes=found.xyxy / SIZE), "they are multiplied by the size of the image"),
    "x and y": (lambda found: table(found, boxes=found.xyxy[:, [1, 0, 3, 2]]), "x and y are exchanged"),
    "background": (lambda found: table(found, labels=found.class_ids + 1), "the class numbers are lowered by one"),
    "no background": (lambda found: table(found, labels=found.class_ids - 1), "the class numbers are raised by one"),
    "scores": (lambda found: table(found, scores=found.scores * 0.9), "places agree and scores do not"),
}


@pytest.mark.parametrize(("change", "cause"), CAUSES.values(), ids=CAUSES.keys())
def test_probable_causes(
    change: Callable[[Detections], dict[str, Any]], cause: str, folder: Path, found: Detections
) -> None:
    result = compared(folder, change(found))
    assert not result.passed
    assert len(result.missing) == result.expected - result.agreeing > 0
    (text,) = result.causes
    assert re.search(cause, text)


def test_boxes_outside_the_image(folder: Path, found: Detections) -> None:
    at_border = (found.xyxy <= 0) | (found.xyxy >= SIZE)
    assert at_border.any(axis=1).sum() >= 3
    boxes = np.where(at_border, np.where(found.xyxy <= 0, -5, SIZE + 5), found.xyxy)
    (text,) = compared(folder, table(found, boxes=boxes)).causes
    assert "they are clipped to the image" in text


def test_fewer_expected_than_found(folder: Path, found: Detections) -> None:
    best = found[:20]
    result = compared(folder, table(best))
    assert (result.agreeing, len(result.missing), len(result.extra)) == (20, 0, len(found) - 20)
    (text,) = result.causes
    assert f"retinasdk has {len(found) - 20} more boxes, all with scores below the lowest expected one" in text
    assert "(20?)" in text


def test_a_score_threshold_leaves_out_both_sides(folder: Path, found: Detections) -> None:
    threshold = float(found.scores[19] + found.scores[20]) / 2
    assert compared(folder, table(found[:20]), score_threshold=threshold).passed
    result = compared(folder, table(found), score_threshold=threshold)
    assert (result.passed, result.expected) == (True, 20)


def test_expected_below_the_threshold_of_the_model(folder: Path, found: Detections) -> None:
    expected = {
        "boxes": [*found.xyxy.tolist(), [0, 0, 5, 5], [0, 0, 6, 6]],
        "scores": [*found.scores.tolist(), 0.1, 0.2],
    }
    result = compared(folder, {**expected, "labels": [*found.class_ids.tolist(), 0, 1]})
    assert len(result.missing) == 2
    (text,) = result.causes
    assert "2 expected boxes have lower scores than all that retinasdk finds: the score threshold of the model" in text


def test_boxes_at_the_threshold_do_not_count(folder: Path, found: Detections) -> None:
    boxes = [*found.xyxy.tolist(), [0.0, 0.0, 5.0, 5.0]]
    expected = {"boxes": boxes, "scores": [*found.scores.tolist(), 0.3004], "labels": [*found.class_ids.tolist(), 0]}
    result = compared(folder, expected)
    assert (result.passed, result.at_threshold) == (True, 1)


def test_nothing_expected_proves_nothing(folder: Path) -> None:
    result = compared(folder, {"boxes": [], "scores": [], "labels": []}, score_threshold=1.0)
    assert (result.expected, result.found, result.passed) == (0, 0, False)


def test_tolerances(folder: Path, found: Detections) -> None:
    expected = table(found, boxes=found.xyxy + 0.15, scores=found.scores + 0.0015)
    assert not compared(folder, expected).passed
    result = compared(folder, expected, pixels=0.2, score=0.002)
    assert result.passed
    assert result.max_pixels == pytest.approx(0.15, abs=1e-4)
    assert result.max_score == pytest.approx(0.0015, abs=1e-6)


# -- the command -------------------------------------------------------------------------------------------------------


def run(folder: Path, *words: str) -> int:
    model, photo = str(folder / "model.onnx"), str(folder / "photo.png")
    return main(["verify", model, "--image", photo, *words])


def test_command(folder: Path, found: Detections, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes, report = tmp_path / "boxes.json", tmp_path / "report.json"
    boxes.write_text(json.dumps(table(found)))
    assert run(folder, "--expected", str(boxes), "--json", str(report)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"{len(found)} of {len(found)} expected boxes agree within 0.1 px and 0.001 of score" in lines[0]
    assert lines[-2:] == ["passed", f"wrote {report}"]
    assert json.loads(report.read_text())["passed"] is True

    boxes.write_text(json.dumps(table(found, boxes=found.xyxy - [0, 0, 1, 1])))
    assert run(folder, "--expected", str(boxes)) == 1
    out = capsys.readouterr().out
    assert "probable cause: " in out
    assert out.count("only expected: ") == 6
    assert out.splitlines()[-1].startswith("FAILED ")
    assert run(folder, "--expected", str(boxes), "--pixels", "1.5") == 0


def test_command_with_bad_input(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes = tmp_path / "boxes.json"
    boxes.write_text('{"boxes": [], "scores": [], "labels": []}')
    for words, message in (
        ((), "--expected FILE.json and --image FILE belong together"),
        (("--expected", str(boxes), "--images", "photos"), "--images compares two backends and does not go with"),
        (("--expected", str(boxes), "--pixels", "0"), "error: --pixels must be a number above 0, got 0.0"),
        (("--expected", str(boxes), "--score-tolerance", "-1"), "error: --score-tolerance must be a number above 0"),
        (("--expected", str(tmp_path)), "is no file; give the JSON file with the boxes"),
    ):
        assert run(folder, *words) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert run(folder, "--expected", str(boxes)) == 1
    assert "FAILED there are no expected boxes" in capsys.readouterr().out
