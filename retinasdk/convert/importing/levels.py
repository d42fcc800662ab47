"""Pairs the outputs of the two heads, level by level."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from retinasdk.convert.importing.heads import HeadPair
from retinasdk.convert.importing.network_shape import NetworkShape
from retinasdk.errors import ModelError


@dataclass(frozen=True)
class MatchedLevel:
    """One pyramid level.

    Attributes:
        stride: Nominal distance between two cells in pixels, a power of 2.
        logits: Index of its class logits in `HeadPair.tensor_names`.
        deltas: Index of its box deltas in `HeadPair.tensor_names`.
    """

    stride: int
    logits: int
    deltas: int


def match_levels(heads: HeadPair, shape: NetworkShape) -> list[MatchedLevel]:
    """Pairs the two heads by the size of their outputs.

    Returns:
        The levels, finest first.

    Raises:
        ModelError: The sizes of the two heads differ, or are not halved from level to level.
    """
    count = len(heads.logits.tensors)
    ordered = [
        sorted(indices, key=lambda index: shape.head_sizes[index], reverse=True)
        for indices in (range(count), range(count, 2 * count))
    ]
    sizes, others = ([shape.head_sizes[index] for index in indices] for indices in ordered)
    are_halves = all(_is_half(small, large) for large, small in itertools.pairwise(sizes))
    if sizes != others or len(set(sizes)) != count or not are_halves:
        listed = [" ".join(f"{height}x{width}" for height, width in item) for item in (sizes, others)]
        raise ModelError(
            "the class head and the box head do not form a pyramid: both need the same sizes, each half of the one "
            f"before, but the class head has {listed[0]} and the box head {listed[1]}. Export the whole network at one "
            "image size"
        )
    finest = 2 ** round(math.log2(shape.input_size[0] / sizes[0][0]))
    return [MatchedLevel(finest << level, *indices) for level, indices in enumerate(zip(*ordered, strict=True))]


def _is_half(small: tuple[int, int], large: tuple[int, int]) -> bool:
    """Whether both sides are half as long, rounded up or down."""
    return all(abs(2 * mine - theirs) <= 1 for mine, theirs in zip(small, large, strict=True))
