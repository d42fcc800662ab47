"""Chooses the 3x3 convolutions that use Winograd's algorithm, and the size of its patches.

Note: What decides

    F(6x6) needs the fewest multiplications for each pixel, but the most for a patch that is mostly outside of a small
    image, and its weights are 7.1 times as large as the original ones: reading them takes as long as `_READING`
    patches. So small images use F(4x4), and the smallest ones no such algorithm. On one core of a Zen 4, this estimate
    chose the fastest of the three for images of 4 x 6 to 200 x 272 pixels with 16 to 512 channels.

    The convolutions of a group run at once, with the same patches, and read the weights once. Other convolutions may
    have the same weights, too. Only small weights are kept in several forms: for the others, the memory is worth more
    than the time at small levels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeAlias

from retinasdk.backends.blocked_steps import WINOGRAD, Step, address

Size: TypeAlias = tuple[int, int]

_PATCHES = (4, 6)
_DIRECT = 0  # In the place of a patch.
_LEAST_CHANNELS = 16  # Of the input.
_READING = 8  # In patches.
_GAIN = 0.94  # Larger weights must make it this much faster.
_COPY_BYTES = 1 << 20
_LARGE = (512, 512)  # Stands for a size that is not known.


def with_winograd(
    steps: list[Step], size: Callable[[Step], Size | None], groups: Iterable[tuple[Step, ...]] = ()
) -> list[Step]:
    """Replaces 3x3 convolutions by those with Winograd's algorithm where it is faster.

    Args:
        steps: All operators of a graph.
        size: Returns height and width of the output of a step, or None if they are not known.
        groups: Convolutions that run at once, see `pyramid_levels`.

    Returns:
        The same steps, in their order.
    """
    grouped = {step.place: group for group in groups for step in group}
    runs = {group[0].place: group for group in (grouped.get(step.place, (step,)) for step in steps)}
    by_weights: dict[int, list[tuple[tuple[Step, ...], list[Size]]]] = {}
    for run in runs.values():
        if _is_possible(run[0]):
            sizes = [size(step) or _LARGE for step in run]
            by_weights.setdefault(address(run[0].weights["weights"]), []).append((run, sizes))
    patches: dict[int, int] = {}
    for same in by_weights.values():
        common = _fastest([sizes for _, sizes in same])
        for run, sizes in same:
            own = _fastest([sizes])
            copied = own != common and run[0].weights["weights"].nbytes * _growth(own) > _COPY_BYTES
            patches |= dict.fromkeys((step.place for step in run), common if copied else own)
    return [_changed(step, patches.get(step.place, _DIRECT)) for step in steps]


def _is_possible(step: Step) -> bool:
    return step.is_plain_3x3 and step.weights["weights"].shape[1] >= _LEAST_CHANNELS


def _changed(step: Step, patch: int) -> Step:
    return replace(step, kind=WINOGRAD, attributes={**step.attributes, "patch": patch}) if patch != _DIRECT else step


def _growth(patch: int) -> float:
    """How many times as large as the original ones the weights are."""
    return 1.0 if patch == _DIRECT else (patch + 2) ** 2 / 9


def _fastest(runs: list[list[Size]]) -> int:
    """Returns the size of the patches for one tensor of weights. runs: the sizes of the images that each run reads."""
    sizes = [size for run in runs for size in run]
    reading = _READING * len(runs)
    best, least = _DIRECT, 9.0 * (sum(height * width for height, width in sizes) + reading)
    for patch in _PATCHES:
        count = sum(-(-height // patch) * -(-width // patch) for height, width in sizes) + reading
        if (patch + 2) ** 2 * count < _GAIN * least:
            best, least = patch, (patch + 2) ** 2 * count
    return best
