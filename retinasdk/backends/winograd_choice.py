"""Chooses the 3x3 convolutions that use Winograd's algorithm, and the size of its patches.

Note: What decides

    F(6x6) needs the fewest multiplications for each pixel, but the most for a patch that is mostly outside of a small
    image, and its weights are 7.1 times as large as the original ones: reading them takes as long as `_READING`
    patches. So small images use F(4x4), and the smallest ones no such algorithm. On one core of a Zen 4, this estimate
    chose the fastest of the three for images of 4 x 6 to 200 x 272 pixels with 16 to 512 channels.

    The heads of a network use the same weights at all its levels. Only small weights are kept in several forms: for the
    others, the memory is worth more than the time at small levels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from retinasdk.backends.blocked_steps import CONV, WINOGRAD, Step

Size: TypeAlias = tuple[int, int]

_PATCHES = (4, 6)
_DIRECT = 0  # In the place of a patch.
_LEAST_CHANNELS = 16  # Of the input.
_READING = 8  # In patches.
_GAIN = 0.94  # Larger weights must make it this much faster.
_COPY_BYTES = 1 << 20
_LARGE = (512, 512)  # Stands for a size that is not known.


def with_winograd(steps: list[Step], size: Callable[[Step], Size | None]) -> list[Step]:
    """Replaces 3x3 convolutions by those with Winograd's algorithm where it is faster.

    Args:
        steps: All operators of a graph.
        size: Returns height and width of the output of a step, or None if they are not known.

    Returns:
        The same steps, in their order.
    """
    groups: dict[int, list[tuple[Step, Size]]] = {}
    for step in steps:
        if _is_possible(step):
            groups.setdefault(_address(step), []).append((step, size(step) or _LARGE))
    patches: dict[int, int] = {}
    for group in groups.values():
        common = _fastest([each for _, each in group])
        for step, each in group:
            own = _fastest([each])
            copied = own != common and step.weights["weights"].nbytes * _growth(own) > _COPY_BYTES
            patches[step.place] = common if copied else own
    return [_changed(step, patches.get(step.place, _DIRECT)) for step in steps]


def _is_possible(step: Step) -> bool:
    walk = step.window
    if step.kind != CONV or walk is None or step.weights["weights"].shape[1] < _LEAST_CHANNELS:
        return False
    return (walk.kernel, walk.strides, walk.pads) == ((3, 3), (1, 1), (1, 1, 1, 1))


def _changed(step: Step, patch: int) -> Step:
    return replace(step, kind=WINOGRAD, attributes={**step.attributes, "patch": patch}) if patch != _DIRECT else step


def _address(step: Step) -> int:
    return int(step.weights["weights"].__array_interface__["data"][0])


def _growth(patch: int) -> float:
    """How many times as large as the original ones the weights are."""
    return 1.0 if patch == _DIRECT else (patch + 2) ** 2 / 9


def _fastest(sizes: list[Size]) -> int:
    """Returns the size of the patches for images that are convolved with the same weights."""
    best, least = _DIRECT, 9.0 * sum(height * width + _READING for height, width in sizes)
    for patch in _PATCHES:
        count = sum(-(-height // patch) * -(-width // patch) + _READING for height, width in sizes)
        if (patch + 2) ** 2 * count < _GAIN * least:
            best, least = patch, (patch + 2) ** 2 * count
    return best
