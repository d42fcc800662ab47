"""`Progress`: how far a long call has come, for the function that a caller gives as `progress=`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Progress:
    """Tells how far a long call has come. Functions with an argument `progress` call it with one of these.

    It is called in the thread of the caller, at the beginning of each step and after each finished unit. If it raises
    an exception, the work ends and the call raises that exception; files are then written completely or not at all.

    Example:
        >>> import retinasdk
        >>> def show(progress):
        ...     if progress.fraction is not None:
        ...         print(f"{progress.step}: {progress.done} of {progress.total} {progress.unit}s")
        >>> detector = retinasdk.Detector()
        >>> found = detector(["examples/photos/people/astronaut.jpg"], progress=show)
        detect: 0 of 1 images
        detect: 1 of 1 images

    Attributes:
        step: What is being done, such as "calibrate". A call may have several steps, one after another.
        done: Number of units of this step that are finished, from 0.
        total: Number of units of this step, or None if the step cannot be counted.
        unit: What is counted, in the singular: "image", "tile", "layer", "model", "round" or "step".
    """

    step: str
    done: int = 0
    total: int | None = None
    unit: str = "step"

    @property
    def fraction(self) -> float | None:
        """Share of the step that is finished, 0 to 1, or None if the step cannot be counted."""
        return min(1.0, self.done / self.total) if self.total else None


ProgressCallback: TypeAlias = Callable[[Progress], object]


def begin(progress: ProgressCallback | None, step: str) -> None:
    """Reports the beginning of a step that cannot be counted."""
    if progress is not None:
        progress(Progress(step))


def tracked(items: Sequence[_Item], progress: ProgressCallback | None, step: str, unit: str) -> Iterator[_Item]:
    """Yields the items, and reports the beginning and each item when the next one is asked for.

    Args:
        items: What is worked on.
        progress: Receives the reports. None: nobody does.
        step: What is being done.
        unit: What one item is, in the singular.

    Yields:
        The items.
    """
    if progress is None:
        yield from items
        return
    progress(Progress(step, 0, len(items), unit))
    for done, item in enumerate(items, start=1):
        yield item
        progress(Progress(step, done, len(items), unit))
