"""The report of an evaluation: a page whose pictures are there and show what they should, twice the same."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from coco_sets import FAR, A, B, Oracle, check, own_truth, save_set, truth
from pictures import LABELS
from PIL import Image as PillowImage

from retinasdk import Detections, Detector, MissingDependencyError
from retinasdk.cli.main import main
from retinasdk.evaluation.annotations import TrueBox
from retinasdk.evaluation.coco import ImageMatches
from retinasdk.evaluation.pictures import draw_mistakes

pytest.importorskip("pycocotools", reason="evaluation is an extra: pip install 'retinasdk[eval]'")
pytest.importorskip("matplotlib", reason="charts are of an extra: pip install 'retinasdk[eval]'")

CHARTS = {"precision_recall.png", "precision_recall_classes.png", "scores.png"}


class NamedOracle(Oracle):
    """With the name that a report begins with."""

    spec = SimpleNamespace(name="tiny <model>")


class Page(HTMLParser):
    """Text and picture names of a page; every element that is opened must be closed."""

    void = ("meta", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.pictures: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.void:
            self.open.append(tag)
        if tag == "img":
            self.pictures.append(dict(attrs)["src"] or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


def pixels(content: bytes) -> npt.NDArray[np.int64]:
    with PillowImage.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert("RGB")).astype(np.int64)


def report(folder: Path, annotations: dict[str, Any], oracle: Any, **options: Any) -> Page:
    target = folder / "report"
    target.mkdir()
    check(lambda items: save_set(folder, items), annotations, oracle, report=target, **options)
    return Page((target / "index.html").read_text(encoding="utf-8"))


def test_everything_is_there(tmp_path: Path) -> None:
    annotations = truth({"a&b.png": [("person", A), ("dog", B)], "<i>.png": [("dog", B)], "fine.png": [("dog", A)]})
    annotations["categories"] = [*annotations["categories"], {"id": 99, "name": "<zebra>"}]
    found = {"a&b.png": [("person", 0.9, A), ("person", 0.8, FAR)], "fine.png": [("dog", 0.95, A)]}
    page = report(tmp_path, annotations, NamedOracle(found))
    files = {path.name for path in (tmp_path / "report").iterdir()}
    assert files == {"index.html", "evaluation.json", "worst_01.jpg", "worst_02.jpg"} | CHARTS
    assert set(page.pictures) == files - {"index.html", "evaluation.json"}
    for name in page.pictures:
        assert pixels((tmp_path / "report" / name).read_bytes()).std() > 10, f"{name} is blank"
    for text in ("tiny <model> on truth.json", "3 images", "<zebra>", "a&b.png", "<i>.png", "person", "dog"):
        assert text in page.text
    # F1 is best above 0.85: the false alarm is below that.
    assert "a&b.png: 1 missed, 0 false, 1 right" in page.text
    assert "<i>.png: 1 missed, 0 false, 0 right" in page.text
    assert "fine.png" not in page.text


def test_the_images_with_most_mistakes_come_first(tmp_path: Path) -> None:
    boxes = {f"{index}.png": [("dog", (10.0, 10.0 + 20 * row, 30.0, 20.0 + 20 * row)) for row in range(index % 4)]
             for index in range(20)}  # fmt: skip
    page = report(tmp_path, truth(boxes), NamedOracle({"19.png": [("dog", 0.9, FAR)]}))
    lines = [line for line in page.text.splitlines() if " missed, " in line]
    assert len(lines) == 12
    # Twice three missed boxes and a false alarm come first, then three, then two; of equals, the first in the set.
    assert [line.partition(".png")[0] for line in lines] == [
        "19",
        *["3", "7", "11", "15"],
        *["2", "6", "10", "14", "18"],
        "1",
        "5",
    ]


def test_without_mistakes(tmp_path: Path) -> None:
    page = report(tmp_path, truth({"0.png": [("person", A)]}), NamedOracle({"0.png": [("person", 0.9, A)]}))
    assert set(page.pictures) == CHARTS
    assert "None: every object is detected, and nothing else." in page.text


def test_without_detections(tmp_path: Path) -> None:
    page = report(tmp_path, truth({"0.png": [("person", A)]}), NamedOracle({}))
    assert "No object is detected." in page.text
    assert "0.png: 1 missed, 0 false, 0 right" in page.text


def test_many_classes(tmp_path: Path) -> None:
    labels = tuple(f"class {number}" for number in range(30))
    categories = [{"id": number, "name": label} for number, label in enumerate(labels)]
    boxes = [{"image_id": 1, "category_id": number, "bbox": [5, 5, 40, 40]} for number in range(30)]
    images = [{"id": 1, "file_name": "0.png"}]

    class ManyClasses(NamedOracle):
        def __init__(self) -> None:
            self.labels = labels

        def __call__(self, images: Any, **options: Any) -> list[Detections]:
            xyxy = np.tile(np.array([5, 5, 45, 45], np.float32), (30, 1))
            return [Detections(xyxy, np.linspace(0.9, 0.1, 30, dtype=np.float32), np.arange(30), labels)] * len(images)

    page = report(tmp_path, {"images": images, "categories": categories, "annotations": boxes}, ManyClasses())
    assert set(page.pictures) == CHARTS


def test_missed_red_false_orange_right_green() -> None:
    image: Any = PillowImage.new("RGB", (800, 600), (128, 128, 128))
    boxes = [TrueBox(0, (100.0, 100.0, 100.0, 100.0), 1e4, False), TrueBox(2, (300.0, 100.0, 100.0, 100.0), 1e4, False)]
    xyxy = np.array([(500, 100, 600, 200), (500, 350, 600, 450), (100, 350, 200, 450)], np.float32)
    found = Detections(xyxy, np.array([0.9, 0.8, 0.7]), np.array([0, 1, 2]), LABELS)
    matches = ImageMatches(np.array([True, False, False]), np.array([False, True, False]), np.array([False, True]))
    picture = pixels(draw_mistakes(image, boxes, ["person", "dog"], found, matches))
    assert picture.shape == (600, 800, 3)

    def edge(x: float, y: float) -> list[int]:
        """The middle of the left edge of a box of 100 x 100 pixels."""
        return [int(value) for value in picture[int(y) + 50, int(x) + 1]]

    red, orange, green, grey = (214, 39, 40), (242, 140, 30), (46, 158, 79), (128, 128, 128)
    for place, color in {
        (300, 100): red,
        (500, 350): orange,
        (500, 100): green,
        (100, 100): grey,
        (100, 350): grey,
    }.items():
        np.testing.assert_allclose(edge(*place), color, atol=25)


@pytest.mark.parametrize(("size", "shown"), [((8, 4), (640, 320)), ((800, 10), (800, 10)), ((3200, 800), (1600, 400))])
def test_pictures_are_of_a_size_to_look_at(size: tuple[int, int], shown: tuple[int, int]) -> None:
    image: Any = PillowImage.new("RGB", size)
    beyond = [TrueBox(0, (-1e6, -1e6, 2e6, 2e6), 1.0, False), TrueBox(0, (1e7, 1e7, 1.0, 1.0), 1.0, False)]
    matches = ImageMatches(np.zeros(0, np.bool_), np.zeros(0, np.bool_), np.array([True, True]))
    drawn = pixels(draw_mistakes(image, beyond, ["a", "b"], Detections.empty(LABELS), matches))
    assert drawn.shape[1::-1] == shown


# -- the command -------------------------------------------------------------------------------------------------------


def test_two_runs_write_the_same_bytes(tmp_path: Path, detector: Detector, model_path: Path) -> None:
    annotations = own_truth(detector)
    for item in annotations["annotations"][::3]:
        item["bbox"][0] += 30
    path = save_set(tmp_path, annotations)
    written = []
    for run in ("first", "second"):
        target = tmp_path / run
        words = ["eval", "--model", model_path, "--images", tmp_path, "--annotations", path]
        assert main(list(map(str, [*words, "--json", tmp_path / f"{run}.json", "--report", target]))) == 0
        written.append({file.name: file.read_bytes() for file in target.iterdir()})
        written[-1]["json"] = (tmp_path / f"{run}.json").read_bytes()
    assert written[0] == written[1]
    assert written[0]["json"] == written[0]["evaluation.json"]
    assert {"worst_01.jpg", "index.html"} < set(written[0])
    assert json.loads(written[0]["json"])["best_f1"]["score"] > 0


def test_without_matplotlib_nothing_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("it looked at images")

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    oracle: Callable[..., Any] = NamedOracle({})
    monkeypatch.setattr(NamedOracle, "__call__", never)
    with pytest.raises(MissingDependencyError, match="drawing charts needs the package matplotlib"):
        report(tmp_path, truth({"0.png": [("person", A)]}), oracle)


def test_the_folder_must_be_there(tmp_path: Path) -> None:
    annotations = truth({"0.png": [("person", A)]})
    with pytest.raises(ValueError, match=r"nowhere is not an existing folder"):
        check(lambda items: save_set(tmp_path, items), annotations, NamedOracle({}), report=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("labels", "count", "words"), [(("a", "b"), 3, True), (("a",), 3, False), (("a", "b"), 21, False)]
)
def test_names_are_left_out_where_they_are_no_news_or_too_many(labels: Any, count: int, words: bool) -> None:
    image: Any = PillowImage.new("RGB", (800, 600))
    boxes = [TrueBox(0, (10.0 + 35 * place, 300.0, 30.0, 30.0), 900.0, False) for place in range(count)]
    matches = ImageMatches(np.zeros(0, np.bool_), np.zeros(0, np.bool_), np.ones(count, np.bool_))
    drawn = pixels(draw_mistakes(image, boxes, ["a"] * count, Detections.empty(labels), matches))
    above = drawn[285:297, 10 : 10 + 35 * count]  # where the names go
    assert (above.max() > 150) == words
