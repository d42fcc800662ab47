"""`Detections.draw`: a marked copy, whatever the boxes, names and picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from found import found
from pictures import LABELS, blocks
from PIL import Image as PillowImage

from retinasdk import Detections, ImageError
from retinasdk.drawing import class_color


def test_draw_changes_a_copy() -> None:
    image = blocks(100, 150)
    before = image.copy()
    picture = found().draw(image)
    assert (picture.mode, picture.size) == ("RGB", (150, 100))
    drawn = np.asarray(picture)
    np.testing.assert_array_equal(image, before)
    assert tuple(drawn[60, 20]) == class_color(0)  # lower edges of the two persons
    assert tuple(drawn[50, 75]) == class_color(0)
    np.testing.assert_array_equal(drawn[70:, :], image[70:, :])  # nothing where nothing was found


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
