"""merge_tiles(): against the oracle, against literals, and what must hold whatever the oracle says."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import reference
from cases import INF, NAN, crowd
from hypothesis import given, settings
from hypothesis import strategies as st
from two_tiles import TWO

from retinasdk import Tiles, _native

Found = list[tuple[tuple[float, float, float, float], float, int, int]]


def arrays(found: Found) -> list[npt.NDArray[Any]]:
    """Boxes, logits, class ids and tiles of a list of (box, logit, class, tile)."""
    columns = list(zip(*found, strict=True)) or [(), (), (), ()]
    dtypes = (np.float32, np.float32, np.int32, np.int32)
    made = [np.array(column, dtype) for column, dtype in zip(columns, dtypes, strict=True)]
    return [made[0].reshape(-1, 4), *made[1:]]


def merge(given: list[npt.NDArray[Any]], **options: Any) -> tuple[list[int], list[int]]:
    options = {**TWO, **options}
    starts = {name: np.array(options.pop(name), np.int32) for name in ("tops", "lefts")}
    kept, joined = _native.merge_tiles(*given, **starts, **options)
    return kept.tolist(), joined.tolist()


def run(given: list[npt.NDArray[Any]], **options: Any) -> list[int]:
    return merge(given, **options)[0]


WHOLE = (70, 10, 90, 30)  # between the edges of both tiles


@pytest.mark.parametrize(
    ("name", "found", "kept"),
    [
        ("nothing", [], []),
        ("one object seen twice", [(WHOLE, 1, 0, 0), (WHOLE, 2, 0, 1)], [1]),
        ("as good: the first", [(WHOLE, 1, 0, 0), (WHOLE, 1, 0, 1)], [0]),
        ("a tile's own boxes leave each other alone", [(WHOLE, 1, 0, 0), (WHOLE, 2, 0, 0)], [1, 0]),
        ("classes do not see each other", [(WHOLE, 1, 0, 0), (WHOLE, 2, 1, 1)], [1, 0]),
        # Ends where tile 0 does, and tile 1 shows all of it: gone, though nothing else was found there.
        ("cut, shown whole by the neighbour", [((70, 10, 100, 30), 9, 0, 0)], []),
        ("within the slack of the edge", [((70, 10, 96, 30), 9, 0, 0)], []),
        ("clear of it", [((70, 10, 95.9, 30), 9, 0, 0)], [0]),
        ("at the image's edge nothing is cut", [((0, 0, 90, 80), 9, 0, 0)], [0]),
        # From 20 to 140: neither tile shows it whole.
        ("both halves remain", [((20, 10, 100, 30), 2, 0, 0), ((60, 10, 140, 30), 1, 0, 1)], [0, 1]),
        ("the larger half covers the other", [((20, 10, 100, 30), 2, 0, 0), ((60, 10, 102, 30), 1, 0, 1)], [0]),
        ("half covered is not enough", [((20, 10, 100, 30), 2, 0, 0), ((60, 10, 140, 30), 1, 0, 1)], [0, 1]),
        # The whole image (tile 2) sees it all: its box comes first, although both halves have better scores.
        (
            "a whole box takes the halves away",
            [((20, 10, 100, 30), 3, 0, 0), ((60, 10, 140, 30), 2, 0, 1), ((20, 10, 140, 30), 1, 0, 2)],
            [2],
        ),
        ("whole boxes are not dropped for cover", [((5, 5, 155, 75), 1, 0, 2), (WHOLE, 0, 0, 0)], [0, 1]),
        ("+infinity is best, NaN is nothing", [(WHOLE, 1, 0, 0), (WHOLE, INF, 0, 1), (WHOLE, NAN, 0, 2)], [1]),
        ("no box that is not finite", [((NAN, 10, 90, 30), 9, 0, 0), ((-INF, 10, INF, 30), 9, 0, 1)], []),
    ],
)
def test_by_hand(name: str, found: Found, kept: list[int]) -> None:
    assert run(arrays(found)) == kept


@pytest.mark.parametrize(
    ("name", "found", "joined"),
    [
        ("into the better one", [(WHOLE, 1, 0, 0), (WHOLE, 2, 0, 1)], [1, 1]),
        ("a tile's own boxes stay apart", [(WHOLE, 1, 0, 0), (WHOLE, 2, 0, 0)], [0, 1]),
        # Both kept boxes of tile 0 drop the one of tile 1; the second overlaps it more, though its score is lower.
        ("most overlap", [(WHOLE, 3, 0, 0), ((70, 10, 90, 36), 2, 0, 0), ((70, 10, 90, 37), 1, 0, 1)], [0, 1, 1]),
        (
            "equal overlap: the better",
            [((70, 10, 90, 29), 2, 0, 0), ((70, 11, 90, 30), 3, 0, 0), (WHOLE, 1, 0, 1)],
            [0, 1, 1],
        ),
        ("cut ones go nowhere", [((70, 10, 100, 30), 9, 0, 0), ((70, 10, 100, 30), 1, 0, 1)], [-1, 1]),
        ("nor into a whole one", [((20, 10, 100, 30), 3, 0, 0), ((20, 10, 110, 30), 1, 0, 2)], [-1, 1]),
    ],
)
def test_what_goes_into_what(name: str, found: Found, joined: list[int]) -> None:
    assert merge(arrays(found))[1] == joined


def test_of_equal_overlaps_the_better_box_counts_wherever_it_lies() -> None:
    """The kept boxes are visited from left to right, so the worse one is visited first."""
    left, right = (70, 10, 80, 20), (80, 10, 90, 20)
    given = arrays([(left, 2, 0, 0), (right, 3, 0, 0), ((75, 10, 85, 20), 1, 0, 1)])
    assert merge(given, iou_threshold=0.3) == ([1, 0], [0, 1, 1])


def test_boxes_without_extent_suppress_nothing() -> None:
    point = (80, 10, 80, 10)
    assert merge(arrays([(point, 1, 0, 0), (point, 2, 0, 1)])) == ([1, 0], [0, 1])


def test_the_threshold_itself_and_inclusive_pixels() -> None:
    halves = [((70, 10, 90, 30), 2.0, 0, 0), ((70, 10, 90, 20), 1.0, 0, 1)]
    assert run(arrays(halves)) == [0, 1]
    assert run(arrays(halves), or_equal=True) == [0]
    # With the last pixel inside, 95 is the pixel that ends at 96, within the slack.
    assert run(arrays([((70, 10, 95, 30), 9, 0, 0)]), inclusive_pixels=True) == []
    assert run(arrays([(WHOLE, 1, 0, 0), ((100, 50, 120, 70), 0, 0, 1)]), iou_threshold=0.0, or_equal=True) == [0]


def random_case(seed: int, count: int, classes: int = 2) -> tuple[list[npt.NDArray[Any]], dict[str, Any]]:
    """Boxes of tiles, rounded so that many end at edges, and the options."""
    random = np.random.default_rng(seed)
    height, width = (int(side) for side in random.integers(60, 400, 2))
    tiles = Tiles((int(random.integers(20, 200)), int(random.integers(20, 200))), float(random.uniform(0, 0.6)))
    grid = tiles.plan(height, width)
    boxes, logits, class_ids = crowd(seed, count, classes=classes, extent=max(height, width))
    numbers = random.integers(0, len(grid) + 1, count).astype(np.int32)
    for i, number in enumerate(numbers):
        if number < len(grid):
            top, left = grid.tops[number // len(grid.lefts)], grid.lefts[number % len(grid.lefts)]
            boxes[i] = np.clip(boxes[i], [left, top] * 2, [left + grid.tile[1], top + grid.tile[0]] * 2)
    boxes = np.round(boxes)
    boxes[random.random(count) < 0.02, 2] = INF
    options = {
        "tops": grid.tops,
        "lefts": grid.lefts,
        "tile_size": grid.tile,
        "image_size": grid.image,
        "iou_threshold": float(random.choice([0.0, 0.25, 0.5, 0.75])),
        "or_equal": bool(random.integers(2)),
        "inclusive_pixels": bool(random.integers(2)),
        "cut_slack": (float(random.integers(0, 6)), float(random.integers(0, 6))),
        "cover_limit": float(random.choice([0.0, 0.25, 0.5, 1.0])),
    }
    return [boxes.astype(np.float32), np.round(logits, 1).astype(np.float32), class_ids, numbers], options


@pytest.mark.parametrize("seed", range(60))
def test_is_what_the_oracle_says(seed: int) -> None:
    given, options = random_case(seed, count=int(np.random.default_rng(seed).choice([0, 1, 30, 300])))
    assert merge(given, **options) == reference.merge_tiles(*given, **options)


def test_boxes_of_all_sizes_anywhere() -> None:
    """What the search for neighbours must not miss: boxes outside the image, huge ones, and thousands of small ones."""
    random = np.random.default_rng(7)
    centres = random.uniform(-300, 1300, (1500, 2))
    half = 10.0 ** random.uniform(-1, 2.7, (1500, 2))
    half[:5] = 1e6
    boxes = np.concatenate([centres - half, centres + half], axis=1).astype(np.float32)
    given = [boxes, random.normal(size=1500).astype(np.float32), np.zeros(1500, np.int32)]
    given.append(random.integers(0, 26, 1500).astype(np.int32))
    grid = Tiles(250, 0.25).plan(1000, 1000)
    assert len(grid) == 25
    options = {"tops": grid.tops, "lefts": grid.lefts, "tile_size": grid.tile, "image_size": grid.image}
    kept, joined = merge(given, **options)
    assert (kept, joined) == reference.merge_tiles(*given, **{**TWO, **options})
    assert 100 < len(kept) < 1000


@settings(derandomize=True, deadline=None, max_examples=150, database=None)
@given(
    sides=st.tuples(st.integers(40, 90), st.integers(40, 90)),
    size=st.tuples(st.integers(30, 400), st.integers(30, 400)),
    seed=st.integers(0, 1 << 20),
)
def test_each_object_no_larger_than_the_overlap_is_found_once(
    sides: tuple[int, int], size: tuple[int, int], seed: int
) -> None:
    """A perfect detector sees of each object what each tile shows; objects stand apart from each other."""
    random = np.random.default_rng(seed)
    grid = Tiles(sides, 30).plan(*size)
    objects = []
    for y in range(0, size[0] - 24, 26):
        for x in range(0, size[1] - 24, 26):
            height, width = random.integers(6, 22, 2)  # and the slack on both sides: 30
            objects.append((x, y, min(x + width, size[1]), min(y + height, size[0])))
    found: Found = []
    for number in range(len(grid)):
        top, left = (int(grid.tops[number // len(grid.lefts)]), int(grid.lefts[number % len(grid.lefts)]))
        for x1, y1, x2, y2 in objects:
            seen = (max(x1, left), max(y1, top), min(x2, left + grid.tile[1]), min(y2, top + grid.tile[0]))
            if seen[0] < seen[2] and seen[1] < seen[3]:
                found.append((seen, float(random.normal()), 0, number))
    given_arrays = arrays(found)
    options = {"tops": grid.tops, "lefts": grid.lefts, "tile_size": grid.tile, "image_size": grid.image}
    kept = run(given_arrays, **options)
    assert sorted(map(tuple, given_arrays[0][kept].tolist())) == sorted(tuple(map(float, box)) for box in objects)


def test_a_higher_threshold_only_leaves_out_where_every_object_is_whole_somewhere() -> None:
    given, options = random_case(3, 300)
    options |= {"image_size": (80, 160), "tile_size": (80, 100), "tops": [0], "lefts": [0, 60]}
    boxes, logits, class_ids, tiles = given
    boxes = np.clip(boxes, 0, [160, 80, 160, 80]).astype(np.float32)
    boxes[:, 2:] = np.minimum(boxes[:, 2:], boxes[:, :2] + 25)
    tiles = (boxes[:, 0] > 58).astype(np.int32)
    low = run([boxes, logits, class_ids, tiles], **options)
    above = np.flatnonzero(logits > 0.5)
    high = run([array[above] for array in (boxes, logits, class_ids, tiles)], **options)
    assert above[high].tolist() == [i for i in low if logits[i] > 0.5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": np.zeros((2, 5), np.float32)}, r"boxes must be \(n, 4\) float32, C-contiguous; got \(2, 5\)"),
        ({"logits": np.zeros(3, np.float32)}, r"logits must be \(n,\) float32.* got \(3,\)"),
        ({"class_ids": np.zeros(2, np.int64)}, r"class_ids must be \(n,\) int32.* got \(2,\) int64"),
        ({"tiles": np.array([0, 3], np.int32)}, "tile must be 0 to 2, got 3"),
        ({"tiles": np.array([-1, 0], np.int32)}, "tile must be 0 to 2, got -1"),
        ({"class_ids": np.full(2, -1, np.int32)}, "class id must be 0 to 65535, got -1"),
        ({"lefts": np.array([0, 61], np.int32)}, "tiles along x must ascend from 0 and cover the image"),
        ({"lefts": np.array([1, 60], np.int32)}, "tiles along x must ascend from 0 and cover the image"),
        ({"lefts": np.array([0, 0, 60], np.int32)}, "tiles along x must ascend from 0 and cover the image"),
        ({"tops": np.zeros(0, np.int32)}, "tops must have at least one entry, got none"),
        ({"tile_size": (0, 100)}, "tile length along y must be 1 to 80, got 0"),
        ({"image_size": (80, 1 << 21)}, "image size along x must be 1 to 1048576"),
        ({"iou_threshold": NAN}, "iou_threshold must be a number, got NaN"),
        ({"cover_limit": 1.5}, "cover_limit must be from 0 to 1"),
        ({"cut_slack": (0.0, NAN)}, "cut slacks must be at least 0"),
    ],
)
def test_bad_arguments(changes: dict[str, Any], message: str) -> None:
    names = ("boxes", "logits", "class_ids", "tiles")
    given = dict(zip(names, arrays([(WHOLE, 1, 0, 0), (WHOLE, 2, 0, 1)]), strict=True))
    options = {name: changes.pop(name) for name in list(changes) if name not in names}
    with pytest.raises(ValueError, match=message):
        run(list({**given, **changes}.values()), **options)
