"""`Detections.draw`: a marked copy, whatever the boxes, names and picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from found import found
from pictures import LABELS, blocks
from PIL import Image as PillowImage

from retinasdk import Detections, ImageError
from retinasdk.drawing import LabelFont, _LabelPlacer, _overlap, class_color, text_color


def test_draw_changes_a_copy() -> None:
    image = blocks(100, 150)
    before = image.copy()
    picture = found().draw(image)
    assert (picture.mode, picture.size) == ("RGB", (150, 100))
    drawn = np.asarray(picture)
    np.testing.assert_array_equal(image, before)
    assert tuple(drawn[60, 20]) == class_color(0)  # lower edges of the two persons
    assert tuple(drawn[50, 75]) == class_color(0)
    np.testing.assert_array_equal(drawn[80:, :], image[80:, :])  # nothing far from every box and label


def test_draw_takes_what_detectors_take(tmp_path: Path) -> None:
    image = blocks(100, 150)
    pillow = PillowImage.fromarray(image)
    pillow.save(tmp_path / "image.png")
    wanted = found().draw(image).tobytes()
    pixels = pillow.tobytes()
    assert found().draw(pillow).tobytes() == wanted
    assert found().draw(tmp_path / "image.png").tobytes() == wanted
    assert pillow.tobytes() == pixels
    with pytest.raises(ImageError, match="no such file"):
        found().draw("none.png")


def test_draw_nothing() -> None:
    image = blocks()
    np.testing.assert_array_equal(np.asarray(Detections.empty(LABELS).draw(image)), image)


@pytest.mark.parametrize(
    "box",
    [
        (-50, -50, 500, 500),
        (-50, -50, -10, -10),
        (500, 500, 900, 900),
        (0, 0, 0, 0),
        (119.9, 89.9, 120, 90),
        (30, 40, 30, 70),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(90, 120), (1, 1), (1, 300), (300, 1)], ids=str)
def test_draw_boxes_anywhere(box: tuple[float, ...], shape: tuple[int, int]) -> None:
    detections = Detections([box], [0.5], [0], ("a long name for such a small picture",))  # type: ignore[arg-type]
    assert detections.draw(blocks(*shape)).size == shape[::-1]


def test_draw_boxes_far_outside() -> None:
    image = blocks()
    far = Detections([[-1e9, -1e9, 1e9, 1e9], [-3e38, 10, 60, 3e38]], [0.9, 0.8], [0, 1], LABELS)  # type: ignore[arg-type]
    drawn = np.asarray(far.draw(image))
    assert tuple(drawn[50, 60]) == class_color(1)  # its right edge; the other box has none inside the picture
    np.testing.assert_array_equal(drawn[40:, 70:], image[40:, 70:])


@pytest.mark.parametrize("box", [(60, 10, 20, 50), (20, 50, 60, 10), (float("nan"), 10, 60, 50)], ids=str)
def test_draw_skips_boxes_without_an_inside(box: tuple[float, ...]) -> None:
    image = blocks()
    odd = Detections([box], [0.9], [0], LABELS)  # type: ignore[arg-type]
    np.testing.assert_array_equal(np.asarray(odd.draw(image)), image)


def test_draw_many() -> None:
    random = np.random.default_rng(0)
    corners = random.uniform(0, 300, (500, 2, 2)).astype(np.float32)
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    detections = Detections(boxes, np.linspace(1, 0, 500), random.integers(0, 3, 500), LABELS)  # type: ignore[arg-type]
    image = blocks(300, 300)
    changed = (np.asarray(detections.draw(image)) != image).any(axis=2).mean()
    assert changed > 0.3


def test_draw_keeps_the_best_on_top() -> None:
    same = Detections([[10, 30, 60, 80]] * 2, [0.9, 0.8], [1, 2], LABELS)  # type: ignore[arg-type]
    assert tuple(np.asarray(same.draw(blocks()))[80, 30]) == class_color(1)


@pytest.mark.parametrize("label", ["", "人と犬", "two\nlines", "🐕", "x" * 300])
def test_draw_any_name(label: str) -> None:
    detections = Detections([[10, 30, 60, 80]], [0.9], [0], (label,))  # type: ignore[arg-type]
    image = blocks()
    assert (np.asarray(detections.draw(image)) != image).any()


def test_neighbouring_classes_have_different_colours() -> None:
    colors = np.array([class_color(index) for index in range(12)])
    distances = np.abs(colors[:, None] - colors[None]).sum(axis=2) + 999 * np.eye(12)
    assert distances.min() > 40


def test_a_class_keeps_its_color() -> None:
    """Recorded: results drawn by different versions look alike."""
    assert [class_color(index) for index in (0, 1, 11)] == [(0, 200, 83), (41, 121, 255), (161, 98, 55)]
    assert len({class_color(index) for index in range(91)}) == 91


@pytest.mark.parametrize("class_id", range(91))
def test_text_can_be_read_on_every_color(class_id: int) -> None:
    """WCAG 2.1 asks for a contrast of 4.5 for small text."""

    def luminance(color: tuple[int, int, int]) -> float:
        shares = np.array(color) / 255
        linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    ground = class_color(class_id)
    dark, light = sorted((luminance(ground), luminance(text_color(ground))))
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_labels_do_not_cover_each_other() -> None:
    """Ten people side by side, whose labels are wider than they are."""
    boxes = np.array([[20 + 30 * i, 100, 45 + 30 * i, 200] for i in range(10)], np.float32)
    placer = _LabelPlacer(boxes, (400, 300))
    taken = []
    for index in range(10):
        cost, place = placer.best(index, 28, 12)
        assert cost < 0.8
        placer.take(place)
        taken.append(place)
    covered = _overlap(np.array(taken), np.array(taken))
    np.testing.assert_array_equal(covered - np.diag(np.diag(covered)), 0)


def test_a_label_does_not_cover_a_small_object() -> None:
    """The usual place, above the box, is where another object is."""
    boxes = np.array([[100, 100, 200, 200], [105, 85, 120, 98]], np.float32)
    _, place = _LabelPlacer(boxes, (400, 300)).best(0, 60, 14)
    assert _overlap(np.array([place]), boxes[1:].astype(float))[0, 0] == 0


def test_a_label_that_would_hide_its_object_is_shortened_or_left_out() -> None:
    image = blocks(24, 24)
    drawn = np.asarray(Detections([[2, 2, 22, 22]], [0.9], [0], ("person",)).draw(image))  # type: ignore[arg-type]
    np.testing.assert_array_equal(drawn[4:21, 4:21], image[4:21, 4:21])


@pytest.mark.parametrize(("shape", "line"), [((64, 64), 1), ((512, 512), 2), ((3000, 4000), 11)], ids=str)
def test_lines_grow_with_the_picture(shape: tuple[int, int], line: int) -> None:
    height, width = shape
    box = [width * 0.3, height * 0.3, width * 0.7, height * 0.7]
    drawn = np.asarray(Detections([box], [0.9], [0], ("a",)).draw(np.zeros((*shape, 3), np.uint8)))  # type: ignore[arg-type]
    row = (drawn[height // 2] == class_color(0)).all(axis=1)
    assert row[: width // 2].sum() == line


def test_most_labels_are_above_their_boxes() -> None:
    """Also where that covers a little of a large neighbor."""
    boxes = np.array([[100, 100, 200, 200], [60, 20, 180, 95], [300, 100, 380, 200]], np.float32)
    placer = _LabelPlacer(boxes, (640, 480))
    for index in (0, 2):
        _, place = placer.best(index, 60, 14)
        assert place == (boxes[index, 0], 86, boxes[index, 0] + 60, 100)


def test_a_name_that_does_not_fit_is_left_out() -> None:
    """On 64 pixels the label is the score alone."""
    black = np.zeros((64, 64, 3), np.uint8)
    drawings = [
        np.asarray(Detections([[10, 30, 54, 60]], [0.9], [0], (name,)).draw(black))  # type: ignore[arg-type]
        for name in ("person", "bottle", "a")
    ]
    np.testing.assert_array_equal(drawings[0], drawings[1])
    assert (drawings[0] != drawings[2]).any()


def test_labels_are_equally_high() -> None:
    font = LabelFont(14)
    assert font.label_size("gap")[1] == font.label_size("one")[1] == font.label_size("")[1]
    assert font.label_size("two words")[0] > font.label_size("two")[0]
