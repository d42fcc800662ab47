"""`Tiles`: where a large image is cut, so that the network sees small objects at a size at which it knows them.

Boxes come together in csrc/merge_cpu.cpp, by the rule of `Note [Cut boxes]` in csrc/tile_math.h.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from retinasdk.spec import ModelSpec

if TYPE_CHECKING:
    import numpy.typing as npt

TilesOption: TypeAlias = "Tiles | Literal['auto'] | None"

_MAX_SIDE = 1 << 14  # of a tile
_MAX_TILES = 1 << 16
# "auto": tiles where the network would see the image at less than this share of its size,
_AUTO_BELOW = 0.75
# and of this side where it takes any size: it bounds the memory of the activations.
_AUTO_NATIVE_SIDE = 1024


@dataclass(frozen=True)
class Tiles:
    """How an image is cut into tiles, each of which goes through the network on its own.

    size: (height, width) of a tile in pixels of the original image, or one number for both. The network sees a tile
        as it would see an image of that size: by the spec's resize rule, which may also enlarge it. Where the image
        is smaller than a tile, the tile is as large as the image.
    overlap: of neighbouring tiles at least: a share of the tile's side (a float below 1) or pixels (an int). An object
        no larger than the overlap is whole in one of them; 0.2 is plenty where objects are small.
    whole_image: the image also goes through the network as a whole, which finds what is larger than the overlap.

    Of boxes cut by a tile's inner edge those are left out that another tile shows whole. Those of an object that no
    tile shows whole remain, one for each tile, unless a whole box or a better one covers more than half of them.
    Of whole boxes of one object in several tiles the best stays; a detector with `Suppression("fusion")` averages them.
    Every other rule holds inside the tiles: what two tiles both show is surely one object.
    Every tile reports up to the spec's `max_detections`. The image has no limit but those of a `Suppression`.

    Raises `ValueError` and `TypeError` for what cannot be.
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
                    "overlap must be a share of the tile from 0 to below 1 (0.2) or pixels below its sides (128), "
                    f"got {self.overlap!r} for tiles of {self.size!r}"
                )

    @property
    def sides(self) -> tuple[int, int]:
        """(height, width) of a tile."""
        height, width = self.size if isinstance(self.size, tuple) and len(self.size) == 2 else (self.size, self.size)
        if not (_is_integer(height) and _is_integer(width)):
            raise TypeError(f"size must be a number of pixels or (height, width), got {self.size!r}")
        return int(height), int(width)

    @property
    def overlaps(self) -> tuple[int, int]:
        """Pixels in y and x that neighbours share at least."""
        if isinstance(self.overlap, bool) or not isinstance(self.overlap, (int, float)):
            raise TypeError(f"overlap must be a share of the tile or a number of pixels, got {self.overlap!r}")
        if isinstance(self.overlap, int):
            return self.overlap, self.overlap
        if not 0 <= self.overlap < 1:
            return -1, -1
        height, width = self.sides
        return math.floor(height * self.overlap), math.floor(width * self.overlap)

    def plan(self, height: int, width: int) -> TileGrid:
        """The tiles of an image of that size. Raises `ValueError` where there are too many."""
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
        """Tiles that the network sees at about the scale that it was made for; None where the image needs none.

        That scale is the resize rule's: tiles have the size that the rule gives to images, so that their pixels are
        the network's. An image that the rule would shrink to less than three quarters is cut, and is looked at as a
        whole, too. A network that takes images as they are ("native") gets tiles of 1024 pixels, which bounds memory.
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
    """Tiles of one size in rows and columns, spread evenly over an image of (height, width) `image` pixels.

    tops (rows,), lefts (columns,): int32, ascending from 0. Tile number row * columns + column.
    """

    tops: npt.NDArray[np.int32]
    lefts: npt.NDArray[np.int32]
    tile: tuple[int, int]
    image: tuple[int, int]

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)


def resolve(tiles: TilesOption, spec: ModelSpec, height: int, width: int) -> Tiles | None:
    """What the option of a call means for an image of that size."""
    return Tiles.auto(spec, height, width) if tiles == "auto" else tiles


def check_tiles(tiles: object) -> None:
    """Raises `TypeError` unless it is what a call takes."""
    if not (tiles is None or isinstance(tiles, Tiles) or tiles == "auto"):
        raise TypeError(f'tiles must be Tiles(size=...), "auto" or None, got {tiles!r}')


def _spans(extent: int, length: int, overlap: int) -> npt.NDArray[np.int32]:
    """Starts of as few spans as cover 0 to extent with that overlap; evenly spread, so that most overlap more."""
    if length == extent:
        return np.zeros(1, np.int32)
    last = -(-(extent - length) // (length - overlap))
    return (np.arange(last + 1, dtype=np.int64) * (extent - length) // last).astype(np.int32)


def _is_integer(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
