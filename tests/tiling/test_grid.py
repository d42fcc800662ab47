"""`Tiles`: the plan, "auto", and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinasdk import ModelSpec, Resize, Tiles


@settings(derandomize=True, deadline=None, max_examples=300, database=None)
@given(
    image=st.tuples(st.integers(1, 2000), st.integers(1, 2000)),  # at most 65,536 tiles
    size=st.tuples(st.integers(40, 900), st.integers(40, 900)),
    overlap=st.one_of(st.floats(0, 0.75), st.integers(0, 29)),
)
def test_tiles_cover_every_pixel_and_overlap_as_asked(
    image: tuple[int, int], size: tuple[int, int], overlap: float
) -> None:
    tiles = Tiles(size, overlap)
    grid = tiles.plan(*image)
    assert len(grid) == len(grid.tops) * len(grid.lefts)
    for starts, extent, side, length in zip((grid.tops, grid.lefts), image, size, grid.tile, strict=True):
        wanted = int(side * overlap) if isinstance(overlap, float) else overlap
        assert length == min(side, extent)
        assert starts[0] == 0
        assert starts[-1] + length == extent  # the last ends with the image, none outside
        shared = starts[:-1] + length - starts[1:]
        assert (shared >= wanted).all()
        assert (shared < length).all()
        # As few as can be: one less would not reach.
        assert len(starts) == 1 or length + (len(starts) - 2) * (length - wanted) < extent


def test_tiles_are_spread_evenly() -> None:
    grid = Tiles(640).plan(2472, 2299)
    assert grid.tops.tolist() == [0, 458, 916, 1374, 1832]
    assert grid.lefts.tolist() == [0, 414, 829, 1244, 1659]
    assert grid.tile == (640, 640)
    assert Tiles((100, 200), 0).plan(100, 400).lefts.tolist() == [0, 200]
    assert len(Tiles(640).plan(640, 640)) == len(Tiles(640).plan(30, 50)) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0,), ValueError, "a tile's sides must be 1 to 16384 pixels, got 0"),
        (((640, 20_000),), ValueError, r"a tile's sides must be 1 to 16384 pixels, got \(640, 20000\)"),
        ((640.0,), TypeError, r"size must be a number of pixels or \(height, width\), got 640.0"),
        (("640",), TypeError, "size must be a number of pixels"),
        (((640, 640, 3),), TypeError, "size must be a number of pixels"),
        ((True,), TypeError, "size must be a number of pixels"),
        ((640, 1.0), ValueError, r"overlap must be a share of the tile, .* got 1.0 for tiles of 640"),
        ((640, -0.1), ValueError, "overlap must be a share"),
        ((640, float("nan")), ValueError, "overlap must be a share"),
        (((640, 480), 480), ValueError, "pixels below its sides"),
        ((640, -1), ValueError, "overlap must be a share"),
        ((640, "0.2"), TypeError, "overlap must be a share of the tile or a number of pixels, got '0.2'"),
        ((640, True), TypeError, "overlap must be a share"),
    ],
)
def test_what_cannot_be(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Tiles(*arguments)


def test_too_many_tiles() -> None:
    with pytest.raises(ValueError, match=r"at most 65536 tiles .* got \d+ for 40000 x 30000 pixels; choose larger"):
        Tiles(100, 0.5).plan(30_000, 40_000)


@pytest.mark.parametrize(
    ("resize", "image", "wanted"),
    [
        (Resize("longest", (640,)), (480, 640), None),
        (Resize("longest", (640,)), (300, 200), None),
        (Resize("longest", (640,)), (600, 800), None),  # at four fifths of its size
        (Resize("longest", (640,)), (960, 1280), Tiles((640, 640), whole_image=True)),
        (Resize("shortest", (800, 1333)), (1000, 1200), None),
        (Resize("shortest", (800, 1333)), (3000, 4000), Tiles((800, 800), whole_image=True)),
        (Resize("squash", (300, 500)), (400, 500), None),
        (Resize("squash", (300, 500)), (900, 500), Tiles((300, 500), whole_image=True)),
        (Resize("fit", (300, 500)), (900, 500), Tiles((300, 500), whole_image=True)),
        (Resize("native", (4096,)), (1000, 1024), None),
        (Resize("native", (4096,)), (2472, 2299), Tiles(1024)),
        (Resize("native", (512,)), (600, 600), Tiles(512)),
    ],
)
def test_auto(spec: ModelSpec, resize: Resize, image: tuple[int, int], wanted: Tiles | None) -> None:
    spec = spec.replace(resize=resize)
    tiles = Tiles.auto(spec, *image)
    assert tiles == wanted
    if tiles is not None:  # the network sees its tiles as they are
        assert spec.resize.target(*tiles.plan(*image).tile) == tiles.plan(*image).tile
        assert np.prod(tiles.plan(*image).tile) <= np.prod(image)
