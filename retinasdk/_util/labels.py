"""Class names to class indices."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np

# One class name, or several names or indices.
Classes: TypeAlias = "str | Sequence[str | int]"


def class_ids_of(classes: Classes, labels: Sequence[str]) -> list[int]:
    """Returns the sorted, distinct indices of the named classes.

    Raises:
        ValueError: If a class is unknown; the message suggests the nearest name.
        TypeError: If something is neither a name nor an index.
    """
    if isinstance(classes, str):
        classes = [classes]
    if not isinstance(classes, Iterable):
        raise TypeError(f"classes must be a list of names or indices, got {classes!r}")
    found: set[int] = set()
    for item in classes:
        if isinstance(item, str):
            matches = [index for index, label in enumerate(labels) if label == item]
            if not matches:
                raise ValueError(f"unknown class {item!r}; {_suggestion(item, labels)}")
            found.update(matches)
        elif isinstance(item, bool) or not isinstance(item, (int, np.integer)):
            raise TypeError(f"classes must be a list of names or indices, got {item!r} in it")
        elif 0 <= item < len(labels):
            found.add(int(item))
        else:
            raise ValueError(f"class index must be 0 to {len(labels) - 1}, got {item}")
    if not found:
        raise ValueError("classes must name at least one class, got an empty list; leave it out to get all")
    return sorted(found)


def _suggestion(name: str, labels: Sequence[str]) -> str:
    by_lower_case = {label.lower(): label for label in labels}
    near = difflib.get_close_matches(name.lower(), by_lower_case, n=1)
    if near:
        return f"did you mean {by_lower_case[near[0]]!r}?"
    known = sorted(set(labels))
    return f"the model knows {', '.join(known[:20])}" + (f" and {len(known) - 20} more" if len(known) > 20 else "")
