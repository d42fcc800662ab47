"""`Tiles`: how a large image is cut, so that the network sees small objects at a size that it was trained for.

The boxes of all tiles are merged in csrc/cpu/merge_cpu.cpp. The rule is described in `Note [Cut boxes]` of
csrc/math/tile_math.h.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from retinasdk.spec import ModelSpec

if TYPE_CHECKING:
    import numpy.typing as npt

TilesOption: TypeAlias = "Tiles | int | Literal['auto'] | None"

_MAX_SIDE = 1 << 14  # Of a tile, in pixels.
_MAX_TILES = 1 << 16
# So many tiles are pointless if the network enlarges their sides so many times. Enlarging them two or three times can
# help to find tiny objects.
_MANY_TILES, _POINTLESS_SCALE = 500, 6.0
# "auto" uses tiles if the resize rule would reduce the image to less than this share of its size.
_AUTO_BELOW = 0.75
# Side of the tiles of "auto" for a network that accepts any size. It limits the memory for activations.
_AUTO_NATIVE_SIDE = 1024


@dataclass(frozen=True)
class Tiles:
    """Describes how a large image is cut into tiles that are detected separately.

    The detections of all tiles are merged as follows:

    - A box that is cut by an inner edge of its tile is dropped if another tile contains the whole object.
    - If no tile contains the whole object, each tile reports its part, unless a whole box or a box with a higher score
      covers more than half of it.
    - If several tiles contain the whole object, the box with the highest score is kept. With `Suppression("fusion")`
      the boxes are averaged instead.
    - The soft rules of `Suppression` apply inside each tile only. Between tiles, overlapping boxes are always resolved
      as above, because they show the same object.
    - Each tile reports up to `max_detections` of the spec. The whole image is limited only by a `Suppression`.

    Example:
        >>> import retinasdk
        >>> tiles = retinasdk.Tiles(640, overlap=128)
        >>> len(tiles.plan(height=2160, width=3840))
        32

    Attributes:
        size: (height, width) of a tile in pixels of the original image, or one number for both. Each tile is resized
            by the resize rule of the spec, which may also enlarge it. If the image is smaller than a tile, the tile has
            the size of the image.
        overlap: Minimum overlap of neighboring tiles: a share of the tile's side (a float below 1) or a number of
            pixels (an int). Each object that is not larger than the overlap is whole in at least one tile. The default
            of 0.2 is enough for small objects.
        whole_image: True: the network also runs once on the whole image, to find objects larger than the overlap.

    Raises:
        TypeError: If a value has the wrong type.
        ValueError: If a value is out of range.
    """

    size: int | tuple[int, int]
    overlap: float | int = 0.2
    whole_image: bool = False

    def __post_init__(self) -> None:
        for side, overlap in zip(self.sides, self.overlaps, strict=True):
            if not 1 <= side <= _MAX_SIDE:
                raise ValueError(f"a tile's sides must be 1 to {_MAX_SIDE} pixels, got {self.size!r}")
            if not 0 <= overlap < side:
                raise ValueError(
                    "overlap must be a share of the tile, from 0 to below 1 (such as 0.2), or a number of pixels below "
                    f"its sides (such as 128), got {self.overlap!r} for tiles of {self.size!r}"
                )

    @property
    def sides(self) -> tuple[int, int]:
        """Returns (height, width) of a tile in pixels."""
        height, width = self.size if isinstance(self.size, tuple) and len(self.size) == 2 else (self.size, self.size)
        if not (_is_integer(height) and _is_integer(width)):
            raise TypeError(f"size must be a number of pixels or (height, width), got {self.size!r}")
        return int(height), int(width)

    @property
    def overlaps(self) -> tuple[int, int]:
        """Returns the minimum overlap of neighboring tiles in y and x, in pixels."""
        if isinstance(self.overlap, bool) or not isinstance(self.overlap, (int, float)):
            raise TypeError(f"overlap must be a share of the tile or a number of pixels, got {self.overlap!r}")
        if isinstance(self.overlap, int):
            return self.overlap, self.overlap
        if not 0 <= self.overlap < 1:
            return -1, -1
        height, width = self.sides
        return math.floor(height * self.overlap), math.floor(width * self.overlap)

    def plan(self, height: int, width: int) -> TileGrid:
        """Computes the tiles of an image.

        Args:
            height: Height of the image in pixels.
            width: Width of the image in pixels.

        Returns:
            The grid of tiles. Its `len` is the number of tiles.

        Raises:
            ValueError: If there are more than 65536 tiles.
        """
        axes = [
            _spans(extent, min(side, extent), overlap)
            for extent, side, overlap in zip((height, width), self.sides, self.overlaps, strict=True)
        ]
        grid = TileGrid(axes[0], axes[1], (min(self.sides[0], height), min(self.sides[1], width)), (height, width))
        if len(grid) > _MAX_TILES:
            raise ValueError(
                f"at most {_MAX_TILES} tiles of an image are supported, got {len(grid)} for {width} x {height} pixels; "
                "choose larger tiles or less overlap"
            )
        return grid

    @classmethod
    def auto(cls, spec: ModelSpec, height: int, width: int) -> Tiles | None:
        """Chooses tiles for an image so that the network sees it at about its original scale.

        The tiles have the size that the resize rule of the spec gives to images, so they are hardly resized. An image
        is cut if the rule would shrink it to less than three quarters; the network then also runs on the whole image.
        For the rule "native", which does not resize, the tiles have 1024 x 1024 pixels at most. This limits the memory.

        Args:
            spec: Spec of the model.
            height: Height of the image in pixels.
            width: Width of the image in pixels.

        Returns:
            The tiles, or None if the image does not need any.
        """
        rule, size = spec.resize.rule, spec.resize.size
        resized = spec.resize.target(height, width)
        is_shrunk = min(resized[0] / height, resized[1] / width) < _AUTO_BELOW
        if rule == "native":
            side = min(size[0], _AUTO_NATIVE_SIDE)
            return cls(side) if max(height, width) > side else None
        if not is_shrunk:
            return None
        return cls(spec.resize.fixed_size or (size[0], size[0]), whole_image=True)


@dataclass(frozen=True)
class TileGrid:
    """Holds the positions of the tiles of an image: rows and columns of tiles of one size, evenly spread.

    Tiles are numbered row by row, from 0.

    Attributes:
        tops: (rows,) int32: top edge of each row of tiles in pixels, ascending from 0.
        lefts: (columns,) int32: left edge of each column of tiles in pixels, ascending from 0.
        tile: (height, width) of a tile in pixels.
        image: (height, width) of the image in pixels.
    """

    tops: npt.NDArray[np.int32]
    lefts: npt.NDArray[np.int32]
    tile: tuple[int, int]
    image: tuple[int, int]

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)


def resolve(tiles: TilesOption, spec: ModelSpec, height: int, width: int) -> Tiles | None:
    """Returns the tiles that the option `tiles` of a call means for an image of `height` x `width` pixels."""
    if isinstance(tiles, int):
        return Tiles(tiles)
    return Tiles.auto(spec, height, width) if tiles == "auto" else tiles


def why_pointless(grid: TileGrid, spec: ModelSpec) -> str | None:
    """Returns what is wrong with tiles that are most likely a mistake, or None.

    Tiles that the network enlarges several times over show no more than larger tiles would, and cost as much each. A
    few of them do no harm.
    """
    (height, width), resized = grid.tile, spec.resize.target(*grid.tile)
    if len(grid) < _MANY_TILES or min(resized[0] / height, resized[1] / width) < _POINTLESS_SCALE:
        return None
    return (
        f"{len(grid):,} tiles of {width} x {height} pixels, each of which the network enlarges to {resized[1]} x "
        f"{resized[0]}"
    )


def check_tiles(tiles: object) -> None:
    """Raises `TypeError` if the value is not valid for the option `tiles` of a call."""
    if isinstance(tiles, int) and not isinstance(tiles, bool):
        Tiles(tiles)  # raises ValueError for a size that cannot be used
    elif not (tiles is None or isinstance(tiles, Tiles) or tiles == "auto"):
        raise TypeError(f'tiles must be Tiles(size=...), the side of a tile in pixels, "auto" or None, got {tiles!r}')


def _spans(extent: int, length: int, overlap: int) -> npt.NDArray[np.int32]:
    """Returns the evenly spread starts of the fewest spans that cover 0 to `extent` with at least that overlap."""
    if length == extent:
        return np.zeros(1, np.int32)
    last = -(-(extent - length) // (length - overlap))
    return (np.arange(last + 1, dtype=np.int64) * (extent - length) // last).astype(np.int32)


def _is_integer(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
